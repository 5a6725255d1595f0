//! The chat template of the output: the models' own, a well-known one, or one that the recipe holds.
//!
//! Invariant: a template is parsed and never rendered here.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::VocabularyError;
use crate::limits::{MARKER_BYTES_MAX, MARKERS_MAX, TEMPLATE_BYTES_MAX};

const BUILTIN: &[(&str, &str)] = &[
    ("alpaca", include_str!("template/alpaca.jinja")),
    ("chatml", include_str!("template/chatml.jinja")),
    ("exaone", include_str!("template/exaone.jinja")),
    ("llama3", include_str!("template/llama3.jinja")),
    ("mistral", include_str!("template/mistral.jinja")),
];

/// What `chat_template` of a recipe asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatTemplate {
    /// The most frequent of the models' own.
    Auto,
    Text(Cow<'static, str>),
}

impl ChatTemplate {
    /// `auto`, the name of a well-known template, or Jinja that parses.
    pub fn parse(text: &str) -> Result<ChatTemplate, VocabularyError> {
        let name = text.trim();
        if name == "auto" {
            return Ok(ChatTemplate::Auto);
        }
        if let Some((_, template)) = BUILTIN.iter().find(|(known, _)| *known == name) {
            return Ok(ChatTemplate::Text(Cow::Borrowed(template)));
        }
        if !text.contains('{') {
            return Err(VocabularyError::UnknownTemplate { name: name.chars().take(40).collect(), known: names() });
        }
        check(text)?;
        Ok(ChatTemplate::Text(Cow::Owned(text.to_owned())))
    }
}

fn names() -> String {
    let names = std::iter::once("auto").chain(BUILTIN.iter().map(|(name, _)| *name));
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The most frequent of the templates that parse, without the blanks around it; of several the first. `own` are the models'
/// in order of precedence.
pub fn most_frequent<'a>(own: &[&'a str]) -> Option<&'a str> {
    let own: Vec<&str> = own.iter().map(|t| t.trim()).filter(|t| !t.is_empty() && check(t).is_ok()).collect();
    let count = |template: &str| own.iter().filter(|t| **t == template).count();
    let most = own.iter().map(|t| count(t)).max()?;
    own.iter().find(|t| count(t) == most).copied()
}

/// The template inside a tokenizer_config.json or a chat_template.json; of several named ones the default.
pub fn template_in(config: &Value) -> Option<&str> {
    match config.get("chat_template")? {
        Value::String(template) => Some(template),
        Value::Array(list) => list.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()),
        _ => None,
    }
}

/// Whether a template is Jinja as far as can be said without rendering it.
pub fn check(template: &str) -> Result<(), VocabularyError> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(VocabularyError::TemplateTooLong { bytes: template.len(), max: TEMPLATE_BYTES_MAX });
    }
    let plain = without_generation_tags(template);
    let environment = minijinja::Environment::new();
    match environment.template_from_str(&plain) {
        Ok(_) => Ok(()),
        Err(error) => Err(VocabularyError::Template {
            line: error.line().unwrap_or(1),
            detail: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
        }),
    }
}

/// transformers knows the tags `generation` and `endgeneration`, which mark text for training and print nothing. They become
/// comments of the same length, so that lines stay.
fn without_generation_tags(template: &str) -> String {
    let mut plain = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag, after)) = next_tag(rest) {
        plain.push_str(before);
        match tag.trim_matches(['-', '+']).trim() {
            "generation" | "endgeneration" => plain.extend(["{#", tag, "#}"]),
            _ => plain.extend(["{%", tag, "%}"]),
        }
        rest = after;
    }
    plain + rest
}

fn next_tag(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{%")?;
    let (tag, after) = rest.split_once("%}")?;
    Some((before, tag, after))
}

/// What a template writes in the form of a special token, `<|...|>` or `[|...|]`.
pub fn markers(template: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (open, close) in [("<|", "|>"), ("[|", "|]")] {
        let starts = template.match_indices(open).map(|(at, _)| &template[at..]);
        let near = starts.map(|text| &text[..text.floor_char_boundary(MARKER_BYTES_MAX)]);
        let whole = near.filter_map(|text| {
            let end = open.len() + text.get(open.len()..)?.find(close)?;
            Some(&text[..end + close.len()])
        });
        found.extend(whole.filter(|marker| is_marker(marker)).take(MARKERS_MAX));
    }
    found
}

fn is_marker(text: &str) -> bool {
    let name = &text[2..text.len() - 2];
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c))
}
