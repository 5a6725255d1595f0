//! Tensors that share their bytes.
//!
//! torch writes such bytes once and both names refer to them; safetensors has no such thing. A head that is the embedding
//! is left out where the config does not untie them, as transformers saves it: loaders make it from the embedding, and a
//! merge takes it from there. Every other name gets bytes of its own, which any loader reads.

use std::collections::HashMap;

use serde_json::Value;

use super::input::{Input, InputTensor};

/// Names of output heads that loaders tie to the embedding.
const HEADS: &[&str] = &["lm_head.weight", "embed_out.weight", "output.weight"];

/// Drops tied heads and says so.
pub(super) fn drop_tied_heads(input: &mut Input) -> Vec<String> {
    let config = input.config.as_ref();
    let tied = config.is_some_and(|config| config.get("tie_word_embeddings") != Some(&Value::Bool(false)));
    if !tied {
        return Vec::new();
    }
    let mut views = HashMap::new();
    for tensor in input.tensors.iter().filter(|t| !is_head(t)) {
        views.entry(view(tensor)).or_insert_with(|| tensor.tensor.name.clone());
    }
    let mut notes = Vec::new();
    input.tensors.retain(|tensor| match views.get(&view(tensor)).filter(|_| is_head(tensor)) {
        None => true,
        Some(twin) => {
            notes
                .push(format!("tensor {:?} is {twin:?} itself and is left out, as tied heads are", tensor.tensor.name));
            false
        }
    });
    notes
}

fn is_head(tensor: &InputTensor) -> bool {
    HEADS.contains(&tensor.tensor.name.as_str())
}

/// What makes two tensors the same bytes in the same order.
fn view(tensor: &InputTensor) -> (usize, u64, Vec<u64>, Vec<u64>) {
    let view = &tensor.tensor;
    (tensor.file, view.start, view.shape.clone(), view.strides.clone())
}
