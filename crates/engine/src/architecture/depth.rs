//! The `config.json` of an output whose layers were taken from here and there.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::families::FirstAndLast;
use super::{FAMILIES, Module};

/// Where an output layer comes from.
pub(crate) struct Taken<'a> {
    /// The part of its model's config that speaks of the module.
    pub config: &'a Value,
    pub index: u32,
    /// Its tensors and their shapes: layers of another kind have others.
    pub kind: Kind<'a>,
}

/// Names within a layer, with their shapes.
pub(crate) type Kind<'a> = Rc<Vec<(&'a str, &'a [u64])>>;

/// What a config cannot say of the layers taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Loaders would expect other tensors than there are.
    Broken(String),
    /// Loaders may treat layers otherwise than their models did.
    Doubtful(String),
}

/// Writes the number of layers, and rebuilds what the config says layer by layer. `of_donor` gives the kind of a layer of
/// the model whose config this is.
pub(crate) fn set_depth<'a>(
    config: &mut Value,
    module: &Module,
    taken: &[Taken<'a>],
    of_donor: &dyn Fn(u32) -> Option<Kind<'a>>,
) -> Vec<Unfit> {
    let Some(count) = module.stack.as_ref().map(|s| s.count) else { return Vec::new() };
    let Some(at) = module.config.as_deref() else { return Vec::new() };
    let mut unfit = Vec::new();
    if let Some(part) = config.pointer_mut(at).and_then(Value::as_object_mut) {
        unfit.extend(per_layer_widths(part, count, taken));
        let of_donor_config = Value::Object(part.clone());
        if module.layer_counts.iter().any(|key| part.contains_key(key)) {
            set_counts(part, module, count, taken.len());
        } else {
            // a list with an entry a layer counts them too
            let is_counted =
                part.iter().any(|(key, value)| is_per_layer(key, value, count) || is_letters(key, value, count));
            unfit.extend(set_unnamed_count(part, count, taken.len()).filter(|_| !is_counted));
        }
        let lists = cut_lists(part, count, taken);
        cut_letters(part, count, taken);
        renumber_index_lists(part, taken);
        list_dense_layers(part, taken);
        set_bounds(part, taken);
        unfit.extend(set_leading(part, taken));
        if !tells_kinds_apart(&of_donor_config, &lists, count, of_donor) {
            unfit.extend(moved_to_other_kinds(part, count, taken, of_donor));
        }
    }
    // older configs say it at the top too
    let is_tower = ["/vision_config", "/audio_config"].contains(&at);
    if let Some(top) = config.as_object_mut().filter(|_| !at.is_empty() && !is_tower)
        && module.layer_counts.iter().any(|key| top.contains_key(key))
    {
        set_counts(top, module, count, taken.len());
    }
    unfit
}

/// Tensors outside the layers that hold a part for each layer fit one depth only.
fn per_layer_widths(part: &Map<String, Value>, count: u32, taken: &[Taken<'_>]) -> Option<Unfit> {
    let is_as_it_was = taken.len() == count as usize && taken.iter().enumerate().all(|(i, t)| i == t.index as usize);
    let has_width = |key: &&String| part.get(*key).and_then(Value::as_u64).is_some_and(|width| width > 0);
    let key = FAMILIES.per_layer_widths.iter().find(has_width).filter(|_| !is_as_it_was)?;
    Some(Unfit::Broken(format!(
        "this family keeps a part of its embeddings for each layer (`{key}`), so its layers can be neither dropped nor moved; merge it whole"
    )))
}

fn set_counts(part: &mut Map<String, Value>, module: &Module, count: u32, depth: usize) {
    for key in &module.layer_counts {
        if let Some(value) = part.get_mut(key).filter(|v| v.as_u64() == Some(u64::from(count))) {
            *value = Value::from(depth);
        }
    }
}

/// In a config that counts layers by a name of its own: the only one that speaks of layers and is their number.
fn set_unnamed_count(part: &mut Map<String, Value>, count: u32, depth: usize) -> Option<Unfit> {
    const WORDS: &[&str] = &["layer", "depth", "block"];
    let is_count = |(key, value): &(&String, &Value)| {
        value.as_u64() == Some(u64::from(count)) && WORDS.iter().any(|word| key.contains(word))
    };
    let alike: Vec<String> = part.iter().filter(is_count).map(|(key, _)| key.clone()).collect();
    if let [only] = alike.as_slice() {
        part.insert(only.clone(), Value::from(depth));
        return None;
    }
    Some(Unfit::Broken(
        "config.json does not say under a known name how many layers the model has, so it cannot say how many the output has; add `num_hidden_layers` to the config.json of the base or first model".to_owned(),
    ))
}

/// Whether what a config says of each layer goes with the tensors that the layer has, so that it stays true of layers that
/// moved.
fn tells_kinds_apart<'a>(
    config: &Value,
    lists: &[String],
    count: u32,
    of_donor: &dyn Fn(u32) -> Option<Kind<'a>>,
) -> bool {
    let mut kinds = BTreeMap::new();
    let said = |index: u32| said_of(config, lists, index);
    let goes_along = |index: u32| {
        let kind = of_donor(index);
        *kinds.entry(said(index)).or_insert_with(|| kind.clone()) == kind
    };
    (0..count).all(goes_along) && !said(0).is_empty()
}

/// Everything that a config says of one layer.
fn said_of(config: &Value, lists: &[String], index: u32) -> String {
    let mut said = String::new();
    let mut say = |what: Option<String>| said.extend(what.map(|w| w + ";"));
    for key in lists {
        say(entry(config, key, index).map(|entry| entry.to_string()));
    }
    for key in &FAMILIES.letter_lists {
        let letter = || config.get(key)?.as_str()?.chars().nth(index as usize);
        say(letter().map(String::from));
    }
    for key in &FAMILIES.index_lists {
        say(is_listed(config, key, index).map(|listed| listed.to_string()));
    }
    for key in &FAMILIES.leading_counts {
        say(config.get(key).and_then(Value::as_u64).map(|n| (u64::from(index) < n).to_string()));
    }
    for keys in &FAMILIES.first_and_last {
        say(is_within(config, keys, index).map(|within| within.to_string()));
    }
    say(has_step(config).then(|| is_dense(config, index).to_string()));
    said
}

/// Lists with one entry a layer are cut like the layers, and those that loaders would make are written out. Gives their
/// keys.
fn cut_lists(part: &mut Map<String, Value>, count: u32, taken: &[Taken<'_>]) -> Vec<String> {
    let mut keys: Vec<String> =
        part.iter().filter(|(key, value)| is_per_layer(key, value, count)).map(|(key, _)| key.clone()).collect();
    keys.extend(taken.iter().filter_map(|t| Some(FAMILIES.implied_list(t.config)?.list.clone())));
    keys.extend(FAMILIES.repeating_lists.iter().filter(|key| part.contains_key(*key)).cloned());
    keys.sort();
    keys.dedup();
    for key in &keys {
        let entries = taken.iter().map(|t| entry(t.config, key, t.index));
        if let Some(list) = entries.collect::<Option<Vec<Value>>>() {
            part.insert(key.clone(), Value::Array(list));
        }
    }
    keys
}

fn entry(config: &Value, key: &str, index: u32) -> Option<Value> {
    let list = config.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
    match list {
        Some(list) if FAMILIES.repeating_lists.iter().any(|k| k == key) => {
            list.get(index as usize % list.len()).cloned()
        }
        Some(list) => list.get(index as usize).cloned(),
        None => FAMILIES.implied_list(config).filter(|l| l.list == key).map(|l| l.entry(config, index)),
    }
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

fn is_letters(key: &str, value: &Value, count: u32) -> bool {
    let fits = value.as_str().is_some_and(|text| text.chars().count() == count as usize);
    fits && FAMILIES.letter_lists.iter().any(|k| k == key)
}

/// The same for texts with one letter a layer.
fn cut_letters(part: &mut Map<String, Value>, count: u32, taken: &[Taken<'_>]) {
    for key in &FAMILIES.letter_lists {
        let letters = |config: &Value| -> Option<Vec<char>> { Some(config.get(key)?.as_str()?.chars().collect()) };
        if !part.get(key).is_some_and(|value| is_letters(key, value, count)) {
            continue;
        }
        let cut: Option<String> = taken.iter().map(|t| letters(t.config)?.get(t.index as usize).copied()).collect();
        if let Some(cut) = cut {
            part[key] = Value::from(cut);
        }
    }
}

const STEP: &str = "decoder_sparse_step";
const DENSE: &str = "mlp_only_layers";

fn has_step(config: &Value) -> bool {
    config.get(STEP).and_then(Value::as_u64).is_some_and(|step| step > 1)
}

/// Where every n-th layer has experts: whether this one, by its number or the list of exceptions, has none.
fn is_dense(config: &Value, index: u32) -> bool {
    let step = config.get(STEP).and_then(Value::as_u64).unwrap_or(1).max(1);
    is_listed(config, DENSE, index) == Some(true) || !(u64::from(index) + 1).is_multiple_of(step)
}

/// Where every n-th layer has experts, the dense ones are listed instead: `(i + 1) % decoder_sparse_step` is of the number
/// that a layer had.
fn list_dense_layers(part: &mut Map<String, Value>, taken: &[Taken<'_>]) {
    if part.get(STEP).and_then(Value::as_u64).is_none_or(|step| step < 2) {
        return;
    }
    part[STEP] = Value::from(1);
    part.insert(DENSE.to_owned(), places(taken, |t| is_dense(t.config, t.index)).into());
}

/// The places of those layers that it is true of.
fn places(taken: &[Taken<'_>], is_true: impl Fn(&Taken<'_>) -> bool) -> Vec<Value> {
    taken.iter().enumerate().filter(|(_, t)| is_true(t)).map(|(i, _)| Value::from(i)).collect()
}

/// Whether a list of layers' numbers has this one; `None` where there is no such list, nor a rule that makes one.
fn is_listed(config: &Value, key: &str, index: u32) -> Option<bool> {
    match config.get(key).and_then(Value::as_array) {
        Some(list) => Some(list.iter().any(|i| i.as_u64() == Some(u64::from(index)))),
        None => FAMILIES.implied_index_list(config, key).map(|implied| implied.has(config, index)),
    }
}

fn renumber_index_lists(part: &mut Map<String, Value>, taken: &[Taken<'_>]) {
    for key in &FAMILIES.index_lists {
        if taken.iter().any(|t| is_listed(t.config, key, t.index).is_some()) {
            part.insert(key.clone(), places(taken, |t| is_listed(t.config, key, t.index) == Some(true)).into());
        }
    }
}

/// Whether a layer lies between the first and the last of another kind; `None` where a config does not name them.
fn is_within(config: &Value, keys: &FirstAndLast, index: u32) -> Option<bool> {
    let bound = |key: &str| config.get(key).and_then(Value::as_u64);
    Some((bound(&keys.first)?..=bound(&keys.last)?).contains(&u64::from(index)))
}

fn set_bounds(part: &mut Map<String, Value>, taken: &[Taken<'_>]) {
    for keys in &FAMILIES.first_and_last {
        if !part.contains_key(&keys.first) {
            continue;
        }
        let places = places(taken, |t| is_within(t.config, keys, t.index) == Some(true));
        if let (Some(first), Some(last)) = (places.first(), places.last()) {
            part.insert(keys.first.clone(), first.clone());
            part.insert(keys.last.clone(), last.clone());
        }
    }
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
fn moved_to_other_kinds<'a>(
    part: &Map<String, Value>,
    count: u32,
    taken: &[Taken<'a>],
    of_donor: &dyn Fn(u32) -> Option<Kind<'a>>,
) -> Option<Unfit> {
    let numbered = || taken.iter().zip(0u32..);
    let is_broken =
        |period: u64| period > 1 && numbered().any(|(t, i)| u64::from(i) % period != u64::from(t.index) % period);
    let periods = FAMILIES.periods.iter().filter_map(|key| Some((key, part.get(key)?.as_u64()?)));
    let is_other =
        |(t, i): (&Taken<'_>, u32)| of_donor(i.min(count.saturating_sub(1))).is_some_and(|kind| kind != t.kind);
    let differ = taken.windows(2).any(|pair| pair[0].kind != pair[1].kind) || numbered().any(is_other);
    if let Some((key, period)) = periods.clone().find(|(_, period)| is_broken(*period)) {
        let detail = format!(
            "`{key}: {period}` gives layers another kind by their number, and these slices move layers to numbers of another kind; move them by multiples of {period}"
        );
        return Some(if differ { Unfit::Broken(detail) } else { Unfit::Doubtful(detail) });
    }
    let (_, place) = numbered().find(|pair| periods.clone().next().is_none() && is_other(*pair))?;
    Some(Unfit::Broken(format!(
        "layer {place} of the output would have other tensors than loaders expect there, and nothing in config.json says which layer is of which kind; keep such layers at their places"
    )))
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
        let unfit = set_depth(&mut config, &module(3), &taken(&source, &[0, 2, 1, 2]), &|_| None);
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

    fn told(source: &Value, layers: &[u32]) -> (Value, Vec<Unfit>) {
        let mut config = source.clone();
        let unfit = set_depth(&mut config, &module(4), &taken(source, layers), &|_| None);
        (config, unfit)
    }

    #[test]
    fn what_a_config_cannot_say_is_told() {
        let (_, leading) = told(&json!({"num_hidden_layers": 4, "first_k_dense_replace": 1}), &[1, 0, 2]);
        assert!(matches!(&leading[..], [Unfit::Broken(_)]), "{leading:?}");
        let period = json!({"num_hidden_layers": 4, "attn_layer_period": 2});
        assert!(matches!(&told(&period, &[1, 2]).1[..], [Unfit::Doubtful(_)]));
        assert_eq!(told(&period, &[0, 1, 0, 1, 2, 3]).1, []);
        let widths = json!({"num_hidden_layers": 4, "hidden_size_per_layer_input": 8});
        assert!(matches!(&told(&widths, &[1, 2]).1[..], [Unfit::Broken(_)]));
        assert_eq!(told(&widths, &[0, 1, 2, 3]).1, []);
    }

    #[test]
    fn kinds_that_loaders_would_derive_from_numbers_are_written_out() {
        let gemma = json!({"num_hidden_layers": 4, "model_type": "gemma3_text", "sliding_window_pattern": 2});
        let (config, unfit) = told(&gemma, &[1, 1, 2]);
        assert_eq!(config["layer_types"], json!(["full_attention", "full_attention", "sliding_attention"]));
        assert_eq!(unfit, []);
        let step = json!({"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]});
        let (config, _) = told(&step, &[1, 0, 3]);
        assert_eq!((&config["decoder_sparse_step"], &config["mlp_only_layers"]), (&json!(1), &json!([1, 2])));
        let letters = json!({"num_hidden_layers": 4, "hybrid_override_pattern": "M*-X"});
        assert_eq!(told(&letters, &[3, 0]).0["hybrid_override_pattern"], "XM");
        let repeating = json!({"num_hidden_layers": 4, "block_types": ["r", "a"]});
        assert_eq!(told(&repeating, &[1, 2, 3]).0["block_types"], json!(["a", "r", "a"]));
    }

    #[test]
    fn a_list_that_does_not_go_with_the_tensors_explains_nothing() {
        let kind =
            |i: u32| -> Kind<'static> { Kind::new(if i == 0 { Vec::new() } else { vec![("norm.weight", &[2])] }) };
        let moved = |source: &Value, layers: &[u32]| {
            let mut layers = taken(source, layers);
            layers.iter_mut().for_each(|t| t.kind = kind(t.index));
            set_depth(&mut source.clone(), &module(4), &layers, &|i| Some(kind(i)))
        };
        let all_alike = json!({"num_hidden_layers": 4, "layer_types": ["a", "a", "a", "a"]});
        assert!(matches!(&moved(&all_alike, &[1, 3])[..], [Unfit::Broken(_)]));
        assert_eq!(moved(&all_alike, &[0, 3]), []);
        let told = json!({"num_hidden_layers": 4, "layer_types": ["b", "a", "a", "a"]});
        assert_eq!(moved(&told, &[1, 3]), []);
        let leading = json!({"num_hidden_layers": 4, "first_k_dense_replace": 1});
        assert_eq!(moved(&leading, &[1, 3]), []);
    }

    #[test]
    fn layers_of_different_tensors_may_not_change_places_unseen() {
        let kind =
            |i: u32| -> Kind<'static> { Kind::new(if i == 0 { vec![("first.weight", &[2, 2])] } else { Vec::new() }) };
        let moved = |layers: &[u32]| {
            let source = json!({"num_hidden_layers": 4});
            let mut layers = taken(&source, layers);
            layers.iter_mut().for_each(|t| t.kind = kind(t.index));
            set_depth(&mut source.clone(), &module(4), &layers, &|i| Some(kind(i)))
        };
        assert!(matches!(&moved(&[1, 3])[..], [Unfit::Broken(_)]));
        assert_eq!(moved(&[0, 1, 1, 2, 3]), []);
    }
}
