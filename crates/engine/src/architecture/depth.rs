//! The `config.json` of an output whose layers were taken from here and there.

use std::rc::Rc;

use serde_json::{Map, Value};

use super::{FAMILIES, Module};

/// Where an output layer comes from.
pub(crate) struct Taken<'a> {
    /// The part of its model's config that speaks of the module.
    pub config: &'a Value,
    pub index: u32,
    /// Its tensors and their shapes: layers of another kind have others.
    pub kind: Kind<'a>,
}

/// Names within the layer, with their shapes.
pub(crate) type Kind<'a> = Rc<Vec<(&'a str, &'a [u64])>>;

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
        let cut = cut_lists(part, count, taken);
        let renumbered = renumber_index_lists(part, taken);
        let bounded = set_bounds(part, taken);
        unfit.extend(set_leading(part, taken));
        let explained = cut || renumbered || bounded || leads(part);
        unfit.extend(if explained { Vec::new() } else { moved_to_other_kinds(part, taken) });
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

/// Whether there were any.
fn renumber_index_lists(part: &mut Map<String, Value>, taken: &[Taken<'_>]) -> bool {
    let mut found = false;
    for key in &FAMILIES.index_lists {
        if !part.get(key).is_some_and(Value::is_array) {
            continue;
        }
        let is_listed = |t: &Taken<'_>| {
            let list = t.config.get(key).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|i| i.as_u64() == Some(u64::from(t.index))))
        };
        let listed = taken.iter().enumerate().filter(|(_, t)| is_listed(t)).map(|(i, _)| Value::from(i));
        let listed: Vec<Value> = listed.collect();
        // an empty list says nothing of how layers differ
        found |= !listed.is_empty();
        part[key] = listed.into();
    }
    found
}

/// The first and the last layer of another kind. Whether the config names them.
fn set_bounds(part: &mut Map<String, Value>, taken: &[Taken<'_>]) -> bool {
    let mut found = false;
    for keys in &FAMILIES.first_and_last {
        let bound = |config: &Value, key: &str| config.get(key).and_then(Value::as_u64);
        let is_within = |t: &&Taken<'_>| {
            let within = |n: u64| Some(bound(t.config, &keys.first)? <= n && n <= bound(t.config, &keys.last)?);
            within(u64::from(t.index)) == Some(true)
        };
        if !part.contains_key(&keys.first) || !part.contains_key(&keys.last) {
            continue;
        }
        let places: Vec<usize> = (0..taken.len()).filter(|i| is_within(&&taken[*i])).collect();
        if let (Some(first), Some(last)) = (places.first(), places.last()) {
            part[&keys.first] = Value::from(*first);
            part[&keys.last] = Value::from(*last);
            found = true;
        }
    }
    found
}

fn leads(part: &Map<String, Value>) -> bool {
    FAMILIES.leading_counts.iter().any(|key| part.get(key).and_then(Value::as_u64).is_some_and(|n| n > 0))
}

/// A count of first layers of another kind must go on counting exactly those.
fn set_leading(part: &mut Map<String, Value>, taken: &[Taken<'_>]) -> Vec<Unfit> {
    let mut unfit = Vec::new();
    for key in &FAMILIES.leading_counts {
        if part.get(key).and_then(Value::as_u64).is_none() {
            continue;
        }
        let is_leading = |t: &Taken<'_>| u64::from(t.index) < t.config.get(key).and_then(Value::as_u64).unwrap_or(0);
        let first = taken.iter().take_while(|t| is_leading(t)).count();
        if taken[first..].iter().any(is_leading) {
            unfit.push(Unfit::Broken(format!(
                "`{key}` says how many first layers are of another kind, and these slices put such a layer behind one of the usual kind, which config.json cannot say; keep those layers first"
            )));
        }
        part[key] = Value::from(first);
    }
    unfit
}

/// Where nothing but its number says what kind a layer is, it must keep a number of its kind.
fn moved_to_other_kinds(part: &Map<String, Value>, taken: &[Taken<'_>]) -> Vec<Unfit> {
    let is_broken = |period: u64| {
        let moved = |(i, t): (usize, &Taken<'_>)| i as u64 % period != u64::from(t.index) % period;
        period > 1 && taken.iter().enumerate().any(moved)
    };
    let differ = taken.windows(2).any(|pair| pair[0].kind != pair[1].kind);
    let unfit = |detail: String| if differ { Unfit::Broken(detail) } else { Unfit::Doubtful(detail) };
    let written = FAMILIES.periods.iter().filter_map(|key| Some((key, part.get(key)?.as_u64()?)));
    let mut found: Vec<Unfit> = written
        .filter(|(_, period)| is_broken(*period))
        .map(|(key, period)| {
            unfit(format!(
                "`{key}: {period}` gives layers another kind by their number, and these slices move layers to numbers of another kind; move them by multiples of {period}"
            ))
        })
        .collect();
    if let Some((list, period)) = FAMILIES.implied_period(part).filter(|(_, period)| is_broken(*period)) {
        found.push(unfit(format!(
            "config.json has no `{list}`, so loaders make every {period}th layer another kind, and these slices move layers to numbers of another kind; save the model with a newer transformers, which lists them, or move layers by multiples of {period}"
        )));
    }
    let moved = taken.iter().enumerate().any(|(i, t)| i != t.index as usize);
    if found.is_empty() && differ && moved && !FAMILIES.periods.iter().any(|key| part.contains_key(key)) {
        found.push(Unfit::Doubtful(
            "layers of this model have different tensors, and nothing known in its config.json says which layer is of which kind; check that the output loads".to_owned(),
        ));
    }
    found
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
        layers.iter().map(|index| Taken { config, index: *index, kind: Kind::default() }).collect()
    }

    #[test]
    fn a_config_follows_the_layers_taken() {
        let source = json!({
            "num_hidden_layers": 3, "layer_types": ["full", "sliding", "sliding"], "intermediate_size": [1, 2, 3],
            "eos_token_id": [1, 2, 3], "mlp_only_layers": [0, 2], "first_k_dense_replace": 1,
            "moe_layer_start_index": 1, "moe_layer_end_index": 2,
        });
        let mut config = source.clone();
        let unfit = set_depth(&mut config, &module(3), &taken(&source, &[0, 2, 1, 2]));
        assert_eq!(unfit, []);
        assert_eq!(
            config,
            json!({
                "num_hidden_layers": 4, "layer_types": ["full", "sliding", "sliding", "sliding"],
                "intermediate_size": [1, 3, 2, 3], "eos_token_id": [1, 2, 3], "mlp_only_layers": [0, 1, 3],
                "first_k_dense_replace": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 3,
            })
        );
    }

    #[test]
    fn what_a_config_cannot_say_is_told() {
        let told = |source: Value, layers: &[u32]| {
            let mut config = source.clone();
            set_depth(&mut config, &module(4), &taken(&source, layers))
        };
        let leading = told(json!({"num_hidden_layers": 4, "first_k_dense_replace": 1}), &[1, 0, 2]);
        assert!(matches!(&leading[..], [Unfit::Broken(_)]), "{leading:?}");
        let period = json!({"num_hidden_layers": 4, "full_attention_interval": 2});
        assert!(matches!(&told(period.clone(), &[1, 2])[..], [Unfit::Doubtful(_)]));
        assert_eq!(told(period, &[0, 1, 0, 1, 2, 3]), []);
        let implied = json!({"num_hidden_layers": 4, "model_type": "gemma2"});
        assert!(matches!(&told(implied, &[1, 2])[..], [Unfit::Doubtful(_)]));
    }

    #[test]
    fn layers_of_different_tensors_may_not_change_places_unseen() {
        let source = json!({"num_hidden_layers": 2, "attn_layer_period": 2});
        let mut config = source.clone();
        let mut layers = taken(&source, &[1, 0]);
        layers[0].kind = Kind::new(vec![("attn.weight", &[2, 2])]);
        let unfit = set_depth(&mut config, &module(2), &layers);
        assert!(matches!(&unfit[..], [Unfit::Broken(_)]), "{unfit:?}");
    }
}
