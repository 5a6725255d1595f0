//! Layers inferred from tensor names: `model.layers.3.mlp.up_proj.weight` is layer 3 of the stack `model.layers`.

use checkpoint::Checkpoint;
use serde_json::Value;

use crate::architecture::FAMILIES;

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

/// Whether a tensor outside the layers comes before them (embeddings) rather than after (final norm, head).
pub(crate) fn is_before_layers(name: &str) -> bool {
    const HEADS: &[&str] = &["embed_out", "unembed"];
    const EMBEDDINGS: &[&str] = &[
        "wte",
        "wpe",
        "shared",
        "conv1",
        "conv2",
        "pre_layrnorm",
        "pre_layernorm",
        "ln_pre",
        "relative_position_bias_table",
    ];
    name.split('.').any(|part| (part.contains("embed") && !HEADS.contains(&part)) || EMBEDDINGS.contains(&part))
}

/// Where configs say whether head and embedding are one; the first that says so counts.
pub(crate) const TIE_FLAGS: &[&str] = &["/tie_word_embeddings", "/text_config/tie_word_embeddings"];

/// Whether a config says that head and embedding are two.
pub(crate) fn is_untied(config: &Value) -> bool {
    TIE_FLAGS.iter().find_map(|flag| config.pointer(flag)?.as_bool()) == Some(false)
}

/// Gives encoder and decoder the embedding that they share as their own: loaders that are told of no tie look for it there.
pub(crate) fn share_out(checkpoint: &mut Checkpoint) {
    for above in ["", "model."] {
        let Some(shared) = checkpoint.tensors.get(&format!("{above}shared.weight")).cloned() else { continue };
        for part in ["encoder", "decoder"] {
            let own = format!("{above}{part}.embed_tokens.weight");
            checkpoint.tensors.entry(own).or_insert_with(|| shared.clone());
        }
    }
}

/// Whether a tensor is an output head, which may be tied to the embedding.
pub(crate) fn is_head(name: &str) -> bool {
    name.ends_with(".weight") && FAMILIES.tied_to(name).is_some() && !is_before_layers(name)
}

/// Whether a tensor's rows belong to tokens.
pub(crate) fn is_vocabulary(name: &str) -> bool {
    split(name).is_none() && FAMILIES.is_vocabulary(name)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
