//! Vocabularies of one size whose ids mean other tokens.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use checkpoint::Access;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

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
        let expected = known.get_or_insert_with(|| tokens(&file));
        if let Some(difference) = difference(expected, &tokens(&of_other)) {
            found.push(Advice { pointer: pointer.clone(), detail: difference.told(first) });
        }
    }
    found
}

struct File<'a> {
    path: std::path::PathBuf,
    bytes: u64,
    access: &'a Access,
}

impl<'a> File<'a> {
    fn of(opened: &Opened<'a>, source: &Source) -> Option<File<'a>> {
        let access = &opened.sources.access;
        let (file, path) = access.open_file(&source.checkpoint.dir.join(TOKENIZER)).ok()?;
        let bytes = file.metadata().ok()?.len();
        Some(File { path, bytes, access })
    }

    fn open(&self) -> Option<impl BufRead> {
        let (file, _) = self.access.open_file(&self.path).ok()?;
        Some(BufReader::new(file.take(self.bytes)))
    }

    fn is_same(&self, other: &File<'_>) -> bool {
        self.path == other.path || (self.bytes == other.bytes && self.has_bytes_of(other).unwrap_or(false))
    }

    fn has_bytes_of(&self, other: &File<'_>) -> Option<bool> {
        let (mut a, mut b) = (self.open()?, other.open()?);
        loop {
            let (left, right) = (a.fill_buf().ok()?, b.fill_buf().ok()?);
            let common = left.len().min(right.len());
            if left[..common] != right[..common] {
                return Some(false);
            }
            if common == 0 {
                return Some(left.len() == right.len());
            }
            a.consume(common);
            b.consume(common);
        }
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
fn tokens(file: &File<'_>) -> BTreeMap<u64, String> {
    let text = file.open().and_then(|mut file| {
        let mut text = Vec::new();
        file.read_to_end(&mut text).ok().map(|_| text)
    });
    let parsed = text.and_then(|text| serde_json::from_slice::<Tokenizer>(&text).ok());
    let Some(tokenizer) = parsed else { return BTreeMap::new() };
    let mut tokens = tokenizer.model.vocab.0;
    tokens.extend(tokenizer.added_tokens.into_iter().map(|added| (added.id, added.content)));
    tokens
}

/// The parts of a tokenizer.json that say what ids mean; merges, most of such a file, are passed over.
#[derive(serde::Deserialize)]
struct Tokenizer {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(serde::Deserialize)]
struct Model {
    vocab: Vocabulary,
}

#[derive(serde::Deserialize)]
struct Added {
    id: u64,
    content: String,
}

/// A map of tokens to ids, or a list of tokens with their scores.
struct Vocabulary(BTreeMap<u64, String>);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocabulary, D::Error> {
        deserializer.deserialize_any(VocabularyVisitor).map(Vocabulary)
    }
}

struct VocabularyVisitor;

impl<'de> Visitor<'de> for VocabularyVisitor {
    type Value = BTreeMap<u64, String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map or a list of tokens")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut tokens = BTreeMap::new();
        while let Some((token, id)) = entries.next_entry()? {
            tokens.insert(id, token);
        }
        Ok(tokens)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pieces: A) -> Result<Self::Value, A::Error> {
        let mut tokens = BTreeMap::new();
        while let Some((token, _score)) = pieces.next_element::<(String, f64)>()? {
            tokens.insert(tokens.len() as u64, token);
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_vocabulary_are_read() {
        let map = r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}, "added_tokens": [{"id": 2, "content": "c", "special": true}]}"#;
        let list = r#"{"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5], ["c", -2]]}}"#;
        let expected: BTreeMap<u64, String> = (0..).zip(["a", "b", "c"].map(str::to_owned)).collect();
        let dir = tempfile::tempdir().unwrap();
        for text in [map, list] {
            let path = dir.path().join(TOKENIZER);
            std::fs::write(&path, text).unwrap();
            let bytes = std::fs::metadata(&path).unwrap().len();
            assert_eq!(tokens(&File { path, bytes, access: &Access::Anywhere }), expected);
        }
    }
}
