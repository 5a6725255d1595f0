//! Layers inferred from tensor names: `model.layers.3.mlp.up_proj.weight` is layer 3 of the stack `model.layers`.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::Checkpoint;
use serde_json::Value;

/// Keys under which configs say how many layers there are.
const COUNT_KEYS: &[&str] =
    &["/num_hidden_layers", "/n_layer", "/num_layers", "/n_layers", "/text_config/num_hidden_layers"];
/// Lists in configs with one entry a layer.
const LIST_KEYS: &[&str] = &["layer_types", "no_rope_layers"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerName<'a> {
    pub stack: &'a str,
    pub index: u32,
    pub rest: &'a str,
}

/// Splits a name at its first number; `None` for tensors outside the layers.
pub(crate) fn split(name: &str) -> Option<LayerName<'_>> {
    let mut start = 0;
    for segment in name.split('.') {
        let end = start + segment.len();
        if let Some(index) = layer_index(segment) {
            let stack = name[..start].trim_end_matches('.');
            return (end < name.len()).then(|| LayerName { stack, index, rest: &name[end + 1..] });
        }
        start = end + 1;
    }
    None
}

fn layer_index(segment: &str) -> Option<u32> {
    let digits = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| segment.parse().ok()).flatten().filter(|n| *n < recipe::limits::LAYERS_MAX)
}

pub(crate) fn join(stack: &str, index: u32, rest: &str) -> String {
    if stack.is_empty() { format!("{index}.{rest}") } else { format!("{stack}.{index}.{rest}") }
}

/// The stacks of a checkpoint and how many layers each has.
#[derive(Debug, Default)]
pub(crate) struct Stacks(BTreeMap<String, BTreeSet<u32>>);

impl Stacks {
    pub fn of(checkpoint: &Checkpoint) -> Stacks {
        let mut stacks = Stacks::default();
        for name in checkpoint.tensors.keys().filter_map(|name| split(name)) {
            match stacks.0.get_mut(name.stack) {
                Some(layers) => drop(layers.insert(name.index)),
                None => drop(stacks.0.insert(name.stack.to_owned(), BTreeSet::from([name.index]))),
            }
        }
        stacks
    }

    /// Layers of one stack, counted to the highest index.
    pub fn count(&self, stack: &str) -> u32 {
        self.0.get(stack).and_then(|layers| layers.last()).map_or(0, |last| last + 1)
    }

    /// The stack that `layer_range` speaks of, with its number of layers: the one whose length the config names, or the
    /// only one there is.
    pub fn main(&self, config: &Value) -> Result<(&str, u32), String> {
        let named = config_layers(config);
        let matching: Vec<&str> =
            self.0.keys().map(String::as_str).filter(|s| named.is_some_and(|n| n <= self.count(s))).collect();
        let only = self.0.keys().next().filter(|_| self.0.len() == 1);
        match (matching.as_slice(), only) {
            ([stack], _) => Ok((stack, self.count(stack))),
            // that a config names more layers than there are is told as its contradiction
            ([], Some(stack)) => Ok((stack, self.count(stack))),
            ([], None) if self.0.is_empty() => Err("its tensor names show no layers".to_owned()),
            _ => Err(format!(
                "it has several stacks of layers ({}), so `layer_range` is ambiguous; `modules` is not supported yet",
                self.names()
            )),
        }
    }

    /// What a config says that its tensors do not bear out.
    pub fn contradiction(&self, config: &Value) -> Option<String> {
        // its layers share their weights, so it has fewer than it runs
        const SHARES_LAYERS: &[&str] = &["albert"];
        let (key, value) = COUNT_KEYS.iter().find_map(|key| Some((key, config.pointer(key)?)))?;
        let most = self.0.keys().map(|stack| self.count(stack)).max().unwrap_or(0);
        let shares = config.get("model_type").and_then(Value::as_str).is_some_and(|t| SHARES_LAYERS.contains(&t));
        match value.as_u64() {
            None => Some(format!("its config.json says {} is {value}, which is no number of layers", &key[1..])),
            Some(n) if n > u64::from(most) && !shares => Some(format!(
                "its config.json says {n} layers and its tensors have {most}; the checkpoint is incomplete"
            )),
            Some(_) => None,
        }
    }

    /// Layers that no tensor belongs to although a later layer has tensors.
    pub fn gap(&self, stack: &str) -> Option<u32> {
        let layers = self.0.get(stack)?;
        (0..self.count(stack)).find(|i| !layers.contains(i))
    }

    fn names(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn config_layers(config: &Value) -> Option<u32> {
    COUNT_KEYS.iter().find_map(|key| config.pointer(key)?.as_u64()).and_then(|n| u32::try_from(n).ok())
}

/// Writes the number of layers, and rebuilds lists with one entry a layer from the layers that were taken: for each
/// output layer, the config it comes from and its index there.
pub(crate) fn set_layers(config: &mut Value, taken: &[(&Value, u32)]) {
    for key in COUNT_KEYS {
        if let Some(count) = config.pointer_mut(key) {
            *count = Value::from(taken.len());
        }
    }
    for key in LIST_KEYS {
        let entry = |(config, index): &(&Value, u32)| config.get(key)?.get(*index as usize).cloned();
        if config.get(key).is_some_and(Value::is_array)
            && let Some(list) = taken.iter().map(entry).collect::<Option<Vec<Value>>>()
        {
            config[*key] = Value::Array(list);
        }
    }
}

/// Whether a tensor outside the layers comes before them (embeddings) rather than after (final norm, head).
pub(crate) fn is_before_layers(name: &str) -> bool {
    const HEADS: &[&str] = &["embed_out", "unembed"];
    const EMBEDDINGS: &[&str] = &["wte", "wpe", "shared"];
    name.split('.').any(|part| (part.contains("embed") && !HEADS.contains(&part)) || EMBEDDINGS.contains(&part))
}

/// Whether a tensor's rows belong to tokens.
pub(crate) fn is_vocabulary(name: &str) -> bool {
    const PARTS: &[&str] = &[
        "embed_tokens",
        "wte",
        "word_embeddings",
        "tok_embeddings",
        "embed_in",
        "embed_out",
        "lm_head",
        "output",
        "output_layer",
        "shared",
    ];
    split(name).is_none() && name.split('.').any(|part| PARTS.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_split_at_their_first_number() {
        let split = |name| split(name).map(|l| (l.stack, l.index, l.rest));
        assert_eq!(
            split("model.layers.12.mlp.experts.3.w1.weight"),
            Some(("model.layers", 12, "mlp.experts.3.w1.weight"))
        );
        assert_eq!(split("h.0.attn.weight"), Some(("h", 0, "attn.weight")));
        assert_eq!(split("0.linear.weight"), Some(("", 0, "linear.weight")));
        for outside in
            ["lm_head.weight", "model.norm.weight", "layers.0", "layers.99999999999.weight", "layers.1x.weight"]
        {
            assert_eq!(split(outside), None, "{outside}");
        }
        assert_eq!(join("model.layers", 3, "x"), "model.layers.3.x");
        assert_eq!(join("", 3, "x"), "3.x");
    }

    #[test]
    fn embeddings_come_before_the_layers_and_heads_after() {
        for (name, before) in [
            ("model.embed_tokens.weight", true),
            ("transformer.wte.weight", true),
            ("gpt_neox.embed_in.weight", true),
            ("bert.embeddings.LayerNorm.weight", true),
            ("embed_out.weight", false),
            ("model.norm.weight", false),
            ("lm_head.weight", false),
        ] {
            assert_eq!(is_before_layers(name), before, "{name}");
        }
    }

    #[test]
    fn a_config_follows_the_layers_taken() {
        let source = json!({"num_hidden_layers": 3, "layer_types": ["full", "sliding", "sliding"]});
        let mut config = source.clone();
        set_layers(&mut config, &[(&source, 1), (&source, 0), (&source, 1), (&source, 2)]);
        assert_eq!(config, json!({"num_hidden_layers": 4, "layer_types": ["sliding", "full", "sliding", "sliding"]}));
    }
}
