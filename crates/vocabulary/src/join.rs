//! Pieces of other models made pieces of the merged one, so that text is split into them and not cut before it is split.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::bpe::Merges;
use crate::input::Input;
use crate::spelling::Spelling;

/// The pieces to join, with the place of the model that each comes from, and the ids that all tokens have.
pub(crate) struct Pieces<'p, 'a> {
    pub ids: &'p HashMap<&'a str, u32>,
    pub added: &'p HashSet<&'a str>,
    pub new: &'p [(&'a str, usize)],
}

/// Pieces that text is not split into.
#[derive(Default)]
pub(crate) struct Unreached<'a> {
    /// Their model writes text otherwise than the source of the merged tokenizer.
    pub strange: Vec<&'a str>,
    /// The merges that come first split their text otherwise.
    pub split: Vec<&'a str>,
}

/// Whether the vocabulary of this model can have pieces after all of its tokens: a list has no gaps.
pub(crate) fn takes_pieces(source: &Input<'_>) -> bool {
    let Some(list) = source.json["model"]["vocab"].as_array() else { return true };
    let taken: HashSet<u32> = source.ids.values().copied().collect();
    let next = taken.iter().max().map_or(0, |last| last + 1);
    (list.len().min(source.rows as usize) as u32..next).all(|id| taken.contains(&id))
}

/// Puts the pieces into the `model` of the merged tokenizer.json, whose source is the model at place `source`.
pub(crate) fn join<'a>(
    model: &mut Map<String, Value>,
    inputs: &[Input<'a>],
    source: usize,
    pieces: &Pieces<'_, 'a>,
) -> Unreached<'a> {
    let mut unreached = Unreached::default();
    let alike: Vec<bool> = inputs.iter().map(|other| is_alike(&inputs[source], other)).collect();
    unreached.strange = pieces.new.iter().filter(|(_, from)| !alike[*from]).map(|(piece, _)| *piece).collect();
    match model.get_mut("vocab") {
        Some(Value::Array(list)) => extend_list(list, inputs, &alike, pieces),
        Some(Value::Object(map)) => extend_map(map, pieces),
        _ => {}
    }
    if model.get("type").and_then(Value::as_str) == Some("BPE") {
        unreached.split = append_merges(model, inputs, source, &alike, pieces);
    }
    unreached
}

fn is_alike(source: &Input<'_>, other: &Input<'_>) -> bool {
    let kinds = [source.kind, other.kind];
    let is_one_kind = kinds[0] == kinds[1] || kinds.iter().all(|kind| matches!(*kind, "BPE" | "Unigram"));
    is_one_kind && Spelling::of(source.json) == Spelling::of(other.json)
}

/// Added tokens become entries too: a library numbers those that are none by itself, after the last entry.
fn extend_map(map: &mut Map<String, Value>, pieces: &Pieces<'_, '_>) {
    let taken: HashSet<u64> = map.values().filter_map(Value::as_u64).collect();
    let added = pieces.added.iter().filter(|token| !map.contains_key(**token));
    let mut entries: Vec<(u32, &str)> = added.map(|token| (pieces.ids[token], *token)).collect();
    entries.retain(|(id, _)| !taken.contains(&u64::from(*id)));
    entries.extend(pieces.new.iter().map(|(piece, _)| (pieces.ids[piece], *piece)));
    entries.sort_unstable();
    map.extend(entries.into_iter().map(|(id, token)| (token.to_owned(), json!(id))));
}

/// A piece without a score that compares costs as much as the least likely piece of the source; so do added tokens, and
/// nothing costs more: what unknown text costs is measured from there.
fn extend_list(list: &mut Vec<Value>, inputs: &[Input<'_>], alike: &[bool], pieces: &Pieces<'_, '_>) {
    let least = list.iter().filter_map(|entry| entry[1].as_f64()).fold(0.0, f64::min);
    let scores = scores(inputs, alike, pieces);
    let mut by_id: Vec<(u32, &str)> = pieces.ids.iter().map(|(token, id)| (*id, *token)).collect();
    by_id.sort_unstable();
    for (id, token) in by_id {
        if id as usize == list.len() {
            list.push(json!([token, scores.get(token).copied().unwrap_or(least).max(least)]));
        }
    }
}

fn scores<'a>(inputs: &[Input<'a>], alike: &[bool], pieces: &Pieces<'_, 'a>) -> HashMap<&'a str, f64> {
    let wanted: HashMap<&str, usize> = pieces.new.iter().filter(|(_, from)| alike[*from]).copied().collect();
    let mut scores = HashMap::new();
    for (from, input) in inputs.iter().enumerate() {
        for entry in input.json["model"]["vocab"].as_array().into_iter().flatten() {
            if let (Some(piece), Some(score)) = (entry[0].as_str(), entry[1].as_f64())
                && wanted.get(piece) == Some(&from)
            {
                scores.insert(piece, score);
            }
        }
    }
    scores
}

/// Returns the pieces that no merging leads to.
fn append_merges<'a>(
    model: &mut Map<String, Value>,
    inputs: &[Input<'a>],
    source: usize,
    alike: &[bool],
    pieces: &Pieces<'_, 'a>,
) -> Vec<&'a str> {
    let vocab = model.get("vocab").and_then(Value::as_object);
    let entries: HashMap<&str, u32> = pieces
        .ids
        .iter()
        .filter(|(token, _)| vocab.is_some_and(|v| v.contains_key(**token)))
        .map(|(t, id)| (*t, *id))
        .collect();
    let mut merges = Merges::of(model, &entries);
    let new: Vec<(&str, usize)> = pieces.new.iter().filter(|(_, from)| alike[*from]).copied().collect();
    let wanted: HashSet<&str> = new.iter().map(|(piece, _)| *piece).collect();
    for (input, _) in inputs.iter().zip(alike).filter(|(input, alike)| **alike && input.kind == "BPE") {
        merges.append_of(&input.json["model"], &wanted);
    }
    let mut unreached = Vec::new();
    if Spelling::of(inputs[source].json).is_unmarked() {
        for (piece, _) in new {
            if !is_byte(piece) && !merges.reach(piece) {
                unreached.push(piece);
            }
        }
    }
    merges.write(model);
    unreached
}

/// `<0x41>` stands for a byte of text that no piece spells; text that reads so must not become it.
fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.chars().all(|c| c.is_ascii_hexdigit()))
}
