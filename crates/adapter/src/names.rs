//! Names of tensors in an adapter's file.

/// What every name begins with: PEFT's wrapper, then the model's own attribute.
const WRAPPERS: &str = "base_model.model.";

/// What a tensor of an adapter's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    Part {
        module: &'a str,
        part: Part,
    },
    /// A tensor of the model, saved whole; the name in the model.
    Saved(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    /// What the second factor adds to its output.
    Bias,
    /// DoRA's lengths of rows.
    Magnitude,
}

const ENDINGS: &[(&str, Part)] = &[
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_B.bias", Part::Bias),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    // files that were not written by PEFT's own saving keep the adapter's name
    (".lora_A.default.weight", Part::A),
    (".lora_B.default.weight", Part::B),
    (".lora_B.default.bias", Part::Bias),
    (".lora_embedding_A.default", Part::EmbeddingA),
    (".lora_embedding_B.default", Part::EmbeddingB),
    (".lora_magnitude_vector.default.weight", Part::Magnitude),
];

/// `None` for a name that means nothing here.
pub(crate) fn role(name: &str) -> Option<Role<'_>> {
    let inner = name.strip_prefix(WRAPPERS)?;
    for (ending, part) in ENDINGS {
        if let Some(module) = inner.strip_suffix(ending).filter(|module| !module.is_empty()) {
            return Some(Role::Part { module, part: *part });
        }
    }
    saved(inner).map(Role::Saved)
}

/// The name in the model of a tensor that was saved whole.
fn saved(inner: &str) -> Option<String> {
    if inner.contains("lora_") || inner.contains("token_adapter") {
        return None;
    }
    let plain = inner.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".");
    let plain = plain.replace(".base_layer.", ".");
    plain.ends_with(".weight").then_some(()).or_else(|| plain.ends_with(".bias").then_some(()))?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_has_its_role() {
        let part = |part| Some(Role::Part { module: "model.layers.0.q_proj", part });
        for (ending, expected) in ENDINGS {
            assert_eq!(role(&format!("base_model.model.model.layers.0.q_proj{ending}")), part(*expected), "{ending}");
        }
        for name in ["lm_head.weight", "lm_head.modules_to_save.weight", "lm_head.modules_to_save.default.weight"] {
            assert_eq!(role(&format!("base_model.model.{name}")), Some(Role::Saved("lm_head.weight".into())));
        }
    }

    #[test]
    fn other_names_have_none() {
        for name in [
            "model.layers.0.q_proj.lora_A.weight",
            "base_model.model.lora_A.weight",
            "base_model.model.x.lora_A.other.weight",
            "base_model.model.x.lora_C.weight",
            "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            "base_model.model.x.inv_freq",
        ] {
            assert_eq!(role(name), None, "{name}");
        }
    }
}
