//! Vocabularies of one size whose ids mean other tokens.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Advice, Opened};
use crate::Source;

const TOKENIZER: &str = "tokenizer.json";

/// Bytes of tokenizers that one plan parses for advice.
const PARSED_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Without a `tokenizer` section rows are merged by their number.
pub(super) fn differ(opened: &Opened<'_>) -> Vec<Advice> {
    if opened.subject.recipe.tokenizer.is_some() {
        return Vec::new();
    }
    let models = opened.subject.models();
    let Some(((_, first), others)) = models.split_first() else { return Vec::new() };
    let first = opened.source(first);
    let Some(file) = File::of(opened, first) else { return Vec::new() };
    let mut left = PARSED_BYTES_MAX;
    let mut known = None;
    let mut found = Vec::new();
    for (pointer, model) in others {
        let other = opened.source(model);
        let Some(of_other) = File::of(opened, other).filter(|f| !f.is_same(&file) && f.bytes + file.bytes <= left)
        else {
            continue;
        };
        left -= of_other.bytes;
        let expected = known.get_or_insert_with(|| tokens(opened, first));
        if let Some(difference) = difference(expected, &tokens(opened, other)) {
            found.push(Advice { pointer: pointer.clone(), detail: difference.told(first) });
        }
    }
    found
}

struct File {
    path: std::path::PathBuf,
    bytes: u64,
}

impl File {
    fn of(opened: &Opened<'_>, source: &Source) -> Option<File> {
        let path = opened.sources.access.resolve_file(&source.checkpoint.dir.join(TOKENIZER)).ok()?;
        let bytes = std::fs::metadata(&path).ok()?.len();
        Some(File { path, bytes })
    }

    fn is_same(&self, other: &File) -> bool {
        let digest = |file: &File| checkpoint::digest_file(&file.path).ok();
        self.path == other.path || (self.bytes == other.bytes && digest(self) == digest(other))
    }
}

struct Difference {
    ids: usize,
    /// The lowest id that means two things, with both.
    example: (u64, String, String),
}

impl Difference {
    fn told(&self, first: &Source) -> String {
        let (id, expected, found) = &self.example;
        format!(
            "{} token ids mean another token here than in {:?} (id {id} is {found:?} here, {expected:?} there), and rows are merged by their number: add `tokenizer: {{source: base}}` or `union` to align them",
            self.ids,
            first.model.to_string()
        )
    }
}

fn difference(expected: &BTreeMap<u64, String>, found: &BTreeMap<u64, String>) -> Option<Difference> {
    let mut differing = found.iter().filter_map(|(id, token)| {
        let other = expected.get(id)?;
        (other != token).then(|| (*id, other.clone(), token.clone()))
    });
    let example = differing.next()?;
    Some(Difference { ids: 1 + differing.count(), example })
}

/// Tokens by id, as far as they can be read.
fn tokens(opened: &Opened<'_>, source: &Source) -> BTreeMap<u64, String> {
    let Ok(Some(tokenizer)) = source.checkpoint.json(TOKENIZER, &opened.sources.access) else { return BTreeMap::new() };
    let mut tokens = BTreeMap::new();
    match tokenizer.pointer("/model/vocab") {
        Some(Value::Object(vocab)) => {
            tokens.extend(vocab.iter().filter_map(|(token, id)| Some((id.as_u64()?, token.clone()))));
        }
        Some(Value::Array(pieces)) => {
            let piece = |piece: &Value| piece.get(0)?.as_str().map(str::to_owned);
            tokens.extend(pieces.iter().enumerate().filter_map(|(id, p)| Some((id as u64, piece(p)?))));
        }
        _ => {}
    }
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    tokens.extend(added.filter_map(|t| Some((t.get("id")?.as_u64()?, t.get("content")?.as_str()?.to_owned()))));
    tokens
}
