//! The `config.json` of an output whose layers were taken from here and there.

use serde_json::{Map, Value};

use super::{FAMILIES, Module};

/// Where an output layer comes from.
pub(crate) struct Taken<'a> {
    /// The part of its model's config that speaks of the module.
    pub config: &'a Value,
    pub index: u32,
}

/// What a config cannot say of the layers taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Loaders would expect other tensors than there are.
    Broken(String),
    /// Loaders may treat layers otherwise than their models did.
    Doubtful(String),
}

/// Writes the number of layers, and rebuilds what the config says layer by layer.
pub(crate) fn set_depth(config: &mut Value, module: &Module, taken: &[Taken<'_>]) -> Vec<Unfit> {
    let Some(count) = module.stack.as_ref().map(|s| s.count) else { return Vec::new() };
    let Some(at) = module.config.as_deref() else { return Vec::new() };
    let mut unfit = Vec::new();
    if let Some(part) = config.pointer_mut(at).and_then(Value::as_object_mut) {
        set_counts(part, module, count, taken.len());
        let has_lists = cut_lists(part, count, taken);
        renumber_index_lists(part, taken);
        unfit.extend(set_leading(part, taken));
        if !has_lists {
            unfit.extend(broken_periods(part, taken));
        }
    }
    // older configs say it at the top too
    if !at.is_empty()
        && let Some(top) = config.as_object_mut()
        && at != "/vision_config"
        && at != "/audio_config"
    {
        set_counts(top, module, count, taken.len());
    }
    unfit
}

fn set_counts(part: &mut Map<String, Value>, module: &Module, count: u32, depth: usize) {
    for key in &module.layer_counts {
        if let Some(value) = part.get_mut(key).filter(|v| v.as_u64() == Some(u64::from(count))) {
            *value = Value::from(depth);
        }
    }
}

/// Lists with one entry a layer are cut like the layers. Whether there were any.
fn cut_lists(part: &mut Map<String, Value>, count: u32, taken: &[Taken<'_>]) -> bool {
    let per_layer: Vec<String> =
        part.iter().filter(|(key, value)| is_per_layer(key, value, count)).map(|(key, _)| key.clone()).collect();
    for key in &per_layer {
        let entry = |t: &Taken<'_>| t.config.get(key)?.get(t.index as usize).cloned();
        if let Some(list) = taken.iter().map(entry).collect::<Option<Vec<Value>>>() {
            part[key] = Value::Array(list);
        }
    }
    !per_layer.is_empty()
}

/// Lists whose length is that of the stack, except those that speak of something else.
fn is_per_layer(key: &str, value: &Value, count: u32) -> bool {
    const OF_OTHERS: &[&str] =
        &["token", "architectures", "multiplier", "dim", "size_per_head", "pinpoints", "section"];
    let Some(list) = value.as_array() else { return false };
    list.len() == count as usize
        && !OF_OTHERS.iter().any(|word| key.contains(word))
        && !FAMILIES.index_lists.iter().any(|k| k == key)
        && !list.iter().any(|entry| entry.is_array() || entry.is_object())
}

fn renumber_index_lists(part: &mut Map<String, Value>, taken: &[Taken<'_>]) {
    for key in &FAMILIES.index_lists {
        if !part.get(key).is_some_and(Value::is_array) {
            continue;
        }
        let is_listed = |t: &Taken<'_>| {
            let list = t.config.get(key).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|i| i.as_u64() == Some(u64::from(t.index))))
        };
        let listed = taken.iter().enumerate().filter(|(_, t)| is_listed(t)).map(|(i, _)| Value::from(i));
        part[key] = listed.collect::<Vec<Value>>().into();
    }
}

/// A count of first layers of another kind must go on counting exactly those.
fn set_leading(part: &mut Map<String, Value>, taken: &[Taken<'_>]) -> Vec<Unfit> {
    let mut unfit = Vec::new();
    for key in &FAMILIES.leading_counts {
        if part.get(key).and_then(Value::as_u64).is_none() {
            continue;
        }
        let leads = |t: &Taken<'_>| u64::from(t.index) < t.config.get(key).and_then(Value::as_u64).unwrap_or(0);
        let first = taken.iter().take_while(|t| leads(t)).count();
        if taken[first..].iter().any(leads) {
            unfit.push(Unfit::Broken(format!(
                "`{key}` says how many first layers are of another kind, and these slices put such a layer behind one of the usual kind, which config.json cannot say; keep those layers first"
            )));
        }
        part[key] = Value::from(first);
    }
    unfit
}

fn broken_periods(part: &Map<String, Value>, taken: &[Taken<'_>]) -> Vec<Unfit> {
    let is_broken = |period: u64| {
        let moved = |(i, t): (usize, &Taken<'_>)| i as u64 % period != u64::from(t.index) % period;
        taken.iter().enumerate().any(moved)
    };
    FAMILIES
        .periods
        .iter()
        .filter(|key| part.get(*key).and_then(Value::as_u64).is_some_and(|period| period > 1 && is_broken(period)))
        .map(|key| {
            Unfit::Doubtful(format!(
                "`{key}` gives every few layers another kind by their number, and these slices move layers to numbers of another kind; keep the distance of each layer a multiple of it"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::architecture::{Claims, Stack};

    fn module(count: u32) -> Module {
        Module {
            name: "default".into(),
            aliases: Vec::new(),
            claims: Claims::Rest,
            config: Some(String::new()),
            layer_counts: FAMILIES.layer_counts.clone(),
            stack: Some(Stack { prefix: "model.layers".into(), count }),
        }
    }

    fn taken<'a>(config: &'a Value, layers: &[u32]) -> Vec<Taken<'a>> {
        layers.iter().map(|index| Taken { config, index: *index }).collect()
    }

    #[test]
    fn a_config_follows_the_layers_taken() {
        let source = json!({
            "num_hidden_layers": 3, "layer_types": ["full", "sliding", "sliding"], "intermediate_size": [1, 2, 3],
            "eos_token_id": [1, 2, 3], "mlp_only_layers": [0, 2], "first_k_dense_replace": 1,
        });
        let mut config = source.clone();
        let unfit = set_depth(&mut config, &module(3), &taken(&source, &[0, 2, 1, 2]));
        assert_eq!(unfit, []);
        assert_eq!(
            config,
            json!({
                "num_hidden_layers": 4, "layer_types": ["full", "sliding", "sliding", "sliding"],
                "intermediate_size": [1, 3, 2, 3], "eos_token_id": [1, 2, 3], "mlp_only_layers": [0, 1, 3],
                "first_k_dense_replace": 1,
            })
        );
    }

    #[test]
    fn what_a_config_cannot_say_is_told() {
        let source = json!({"num_hidden_layers": 4, "first_k_dense_replace": 1, "full_attention_interval": 2});
        let mut config = source.clone();
        let unfit = set_depth(&mut config, &module(4), &taken(&source, &[1, 0, 2]));
        assert!(matches!(&unfit[..], [Unfit::Broken(_), Unfit::Doubtful(_)]), "{unfit:?}");
    }
}
