//! Models whose configs do not say the same.

use serde_json::Value;

use super::{Advice, Opened};
use crate::Source;

/// What decides how weights are used, so that weights made for another value do badly with it.
const KEYS: &[&str] = &[
    "model_type",
    "hidden_act",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "rms_norm_eps",
    "layer_norm_eps",
    "sliding_window",
    "final_logit_softcapping",
];

/// Differences of one model that are told.
const KEYS_TOLD_MAX: usize = 3;

/// Values of configs up to this length are repeated.
const VALUE_BYTES_TOLD_MAX: usize = 60;

/// Merged although the recipe had to allow it.
pub(super) fn architectures(opened: &Opened<'_>) -> Vec<Advice> {
    compared(opened, |first, other| {
        let (expected, found) = (&first.architecture.class, &other.architecture.class);
        (expected != found).then(|| {
            format!(
                "this is a {found} and {:?} a {expected}: equal names and shapes do not make tensors mean the same; merge models of one architecture where you can",
                first.model.to_string()
            )
        })
    })
}

pub(super) fn differ(opened: &Opened<'_>) -> Vec<Advice> {
    compared(opened, |first, other| {
        let differences: Vec<String> = KEYS
            .iter()
            .filter_map(|key| {
                let (a, b) = (setting(first, key), setting(other, key));
                (a != b).then(|| format!("{key} is {} here and {} there", shown(b), shown(a)))
            })
            .collect();
        let told = differences.get(..KEYS_TOLD_MAX).unwrap_or(&differences).join(", ");
        (!differences.is_empty()).then(|| {
            format!(
                "its config and that of {:?}, which the output gets, differ: {told}; weights made for one value do badly with another",
                first.model.to_string()
            )
        })
    })
}

/// Every model against the one that gives the output its config.
fn compared(opened: &Opened<'_>, look: impl Fn(&Source, &Source) -> Option<String>) -> Vec<Advice> {
    let models = opened.subject.models();
    let Some(((_, first), others)) = models.split_first() else { return Vec::new() };
    let advice = |(pointer, model): &(String, &recipe::ModelRef)| {
        Some(Advice { pointer: pointer.clone(), detail: look(opened.source(first), opened.source(model))? })
    };
    others.iter().filter_map(advice).collect()
}

fn setting<'a>(source: &'a Source, key: &str) -> &'a Value {
    let config = &source.checkpoint.config;
    config.get(key).or_else(|| config.get("text_config")?.get(key)).unwrap_or(&Value::Null)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match value {
        Value::Null => "not set".into(),
        _ if text.len() > VALUE_BYTES_TOLD_MAX => "another".into(),
        _ => text,
    }
}
