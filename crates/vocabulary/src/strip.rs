//! A tokenizer cut to the tokens that have a row.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::VocabularyError;
use crate::bpe::{joined, pair};
use crate::input::Input;

/// The tokenizer.json of `input` without the tokens that have no row, and without the BPE merges that need them.
pub(crate) fn strip(input: &Input<'_>) -> Result<Value, VocabularyError> {
    let mut json = input.json.clone();
    if input.without_row.is_empty() {
        return Ok(json);
    }
    if let Some(model) = json.get_mut("model").and_then(Value::as_object_mut) {
        check_unknown_token(model, input).map_err(|e| e.in_model(input.model))?;
        strip_model(model, &input.without_row, input.rows);
    }
    if let Some(added) = json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        added.retain(|a| a["content"].as_str().is_some_and(|content| input.ids.contains_key(content)));
    }
    if let Some(processor) = json.get_mut("post_processor") {
        strip_processor(processor, &input.without_row);
    }
    Ok(json)
}

/// What is put around a text is put there by id, which must not be one without a row.
fn strip_processor(processor: &mut Value, dropped: &HashMap<&str, u32>) {
    for inner in processor.get_mut("processors").and_then(Value::as_array_mut).into_iter().flatten() {
        strip_processor(inner, dropped);
    }
    let Some(tokens) = processor.get_mut("special_tokens").and_then(Value::as_object_mut) else { return };
    let is_dropped = |token: &Value| token.as_str().is_some_and(|token| dropped.contains_key(token));
    tokens.retain(|_, token| !token["tokens"].as_array().into_iter().flatten().any(is_dropped));
    let known: HashSet<String> = tokens.keys().cloned().collect();
    for form in ["single", "pair"] {
        if let Some(parts) = processor.get_mut(form).and_then(Value::as_array_mut) {
            parts.retain(|part| part["SpecialToken"]["id"].as_str().is_none_or(|id| known.contains(id)));
        }
    }
}

/// Without its unknown token, a tokenizer fails at the first text that needs it, or does not even load.
fn check_unknown_token(model: &Map<String, Value>, input: &Input<'_>) -> Result<(), VocabularyError> {
    let by_name = model.get("unk_token").and_then(Value::as_str).and_then(|token| input.without_row.get(token));
    let by_id = model.get("unk_id").and_then(Value::as_u64).filter(|id| *id >= u64::from(input.rows));
    match by_name.map(|id| u64::from(*id)).or(by_id) {
        Some(id) => Err(VocabularyError::UnknownTokenWithoutRow { id, rows: input.rows }),
        None => Ok(()),
    }
}

fn strip_model(model: &mut Map<String, Value>, dropped: &HashMap<&str, u32>, rows: u32) {
    match model.get_mut("vocab") {
        Some(Value::Object(vocab)) => vocab.retain(|_, id| id.as_u64().is_some_and(|id| id < u64::from(rows))),
        Some(Value::Array(vocab)) => vocab.truncate(rows as usize),
        _ => {}
    }
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        merges.retain(|merge| !needs(merge, &prefix, dropped));
    }
}

/// Whether a merge joins or makes one of the dropped tokens.
fn needs(merge: &Value, prefix: &str, dropped: &HashMap<&str, u32>) -> bool {
    let Some((left, right)) = pair(merge) else { return false };
    let joined = joined(left, right, prefix);
    [left, right, joined.as_str()].iter().any(|token| dropped.contains_key(token))
}
