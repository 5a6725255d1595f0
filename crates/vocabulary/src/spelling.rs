//! How a tokenizer writes text in its pieces, which decides whether pieces of one can be pieces of another.

use serde_json::Value;

/// What pieces of two tokenizers must share to mean the same text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spelling<'a> {
    alphabet: Alphabet<'a>,
    /// What marks a piece that goes on a word, and one that ends it.
    marks: [&'a str; 2],
}

#[derive(Debug, PartialEq, Eq)]
enum Alphabet<'a> {
    /// A visible character for each byte.
    Bytes,
    /// Text with this instead of blanks.
    Blank(&'a str),
    Plain,
}

impl<'a> Spelling<'a> {
    pub fn of(tokenizer_json: &'a Value) -> Spelling<'a> {
        let mark = |key: &str| tokenizer_json["model"][key].as_str().unwrap_or_default();
        let marks = [mark("continuing_subword_prefix"), mark("end_of_word_suffix")];
        Spelling { alphabet: alphabet(tokenizer_json), marks }
    }

    /// Whether a piece is written as its text is, so that its first symbols are its characters.
    pub fn is_unmarked(&self) -> bool {
        self.marks == ["", ""]
    }
}

fn alphabet(json: &Value) -> Alphabet<'_> {
    let parts: Vec<&Value> =
        ["normalizer", "pre_tokenizer", "decoder"].iter().flat_map(|key| parts(&json[*key])).collect();
    let is = |part: &Value, kind: &str| part["type"] == kind;
    if parts.iter().any(|part| is(part, "ByteLevel")) {
        return Alphabet::Bytes;
    }
    let blank = |part: &&'_ Value| match part["type"].as_str() {
        Some("Metaspace") => true,
        Some("Replace") => part["pattern"]["String"] == " " && part["content"].is_string(),
        _ => false,
    };
    match parts.into_iter().find(blank) {
        Some(part) if is(part, "Metaspace") => Alphabet::Blank(part["replacement"].as_str().unwrap_or("▁")),
        Some(part) => Alphabet::Blank(part["content"].as_str().unwrap_or("▁")),
        None => Alphabet::Plain,
    }
}

/// A step of the tokenizer and, where it is a sequence, the steps in it.
fn parts(step: &Value) -> Vec<&Value> {
    let inside = ["normalizers", "pretokenizers", "decoders"].iter().filter_map(|key| step[*key].as_array());
    std::iter::once(step).chain(inside.flatten().flat_map(parts)).collect()
}
