//! Code that a model's folder brings, and what in its configs names code: none of it comes into the artifact, and it is told.

use checkpoint::beside::{PROCESSING, TOKENIZER};
use checkpoint::{Access, Beside, CheckpointError};
use serde::Serialize;
use serde_json::Value;

use super::{Plan, Planner};
use crate::artifact::{MadeFile, carried};
use crate::{Source, Sources};

/// Keys by which loaders that trust a model run code of its folder, or of any repository that the value names.
const KEYS: &[&str] = &["auto_map", "custom_pipelines"];

/// File names of one model that a warning shows; the manifest has them all.
const FILES_TOLD_MAX: usize = 8;

/// What was left out of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CodeLeftOut {
    model: String,
    /// Files of code in its folder.
    files: Vec<String>,
    /// Files that name code, by keys which the output's do not have.
    named_in: Vec<&'static str>,
}

impl Planner<'_> {
    /// Tells of each model's code, and refuses files of which nobody can say whether they name any.
    pub(super) fn leave_code_out(&mut self) {
        let access = &self.sources.access;
        // what a stage makes has none: it was left out of that, and told there
        for source in self.sources.iter().filter(|source| source.stage.is_none()) {
            let pointer = self.pointer_of(&source.model);
            match of_source(source, access) {
                Ok(None) => {}
                Ok(Some(found)) => {
                    self.warn(&pointer, "code_left_out", found.told(source));
                    self.code_left_out.push(found);
                }
                Err(error) => {
                    let detail = format!("model {:?}: {error}", source.model.to_string());
                    self.error(&pointer, "invalid_checkpoint", detail);
                }
            }
        }
    }
}

impl CodeLeftOut {
    fn told(&self, source: &Source) -> String {
        let mut what: Vec<String> = self.files.iter().take(FILES_TOLD_MAX).cloned().collect();
        if self.files.len() > FILES_TOLD_MAX {
            what.push(format!("{} more files", self.files.len() - FILES_TOLD_MAX));
        }
        what.extend(self.named_in.iter().map(|name| format!("what names code in {name}")));
        format!(
            "code of model {:?} is left out: {}; the output loads only where transformers itself has its class, {}",
            self.model,
            what.join(", "),
            source.architecture.class
        )
    }
}

fn of_source(source: &Source, access: &Access) -> Result<Option<CodeLeftOut>, CheckpointError> {
    let mut files: Vec<String> = access
        .names_in(&source.checkpoint.dir)
        .into_iter()
        .filter(|name| std::path::Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("py")))
        .collect();
    files.sort();
    let mut named_in = Vec::new();
    if names_code(&source.checkpoint.config) {
        named_in.push("config.json");
    }
    for name in configs() {
        // what cannot be read is told of as such
        let Some(text) = source.checkpoint.beside(name).and_then(|file| file.read(access).ok()) else { continue };
        if without_code(name, &text)?.is_some() {
            named_in.push(name);
        }
    }
    let found = CodeLeftOut { model: source.model.to_string(), files, named_in };
    Ok((!found.files.is_empty() || !found.named_in.is_empty()).then_some(found))
}

/// Files, beside `config.json`, that loaders read such keys of.
fn configs() -> impl Iterator<Item = &'static str> {
    PROCESSING.iter().chain(TOKENIZER).copied().filter(|name| is_config(name))
}

fn is_config(name: &str) -> bool {
    name.ends_with(".json") && (PROCESSING.contains(&name) || TOKENIZER.contains(&name))
}

/// Makes anew, without what names code, every file of the output that does name some.
pub(super) fn strip(plan: &mut Plan, sources: &Sources) {
    strip_value(&mut plan.config);
    for file in &mut plan.made {
        if let Ok(Some(content)) = without_code(file.name, &file.content) {
            file.content = content;
        }
    }
    let of_carried = |(name, file): (&'static str, Beside)| {
        let content = without_code(name, &file.read(&sources.access).ok()?).ok()??;
        Some(MadeFile { name, content })
    };
    plan.made.extend(carried(plan, sources).into_iter().filter_map(of_carried).collect::<Vec<_>>());
}

/// The same file without keys that name code; `None` where it has none.
pub(crate) fn without_code(name: &str, text: &[u8]) -> Result<Option<Vec<u8>>, CheckpointError> {
    if !is_config(name) {
        return Ok(None);
    }
    match serde_json::from_slice::<Value>(text) {
        Ok(mut value) => Ok(strip_value(&mut value).then(|| MadeFile::json("", &value).content)),
        // other readers take what is no JSON, as `NaN`; an escape may hide a key
        Err(_) if !KEYS.iter().any(|key| holds(text, key.as_bytes())) && !holds(text, b"\\u") => Ok(None),
        Err(error) => {
            let reason = format!("is no JSON, so that it cannot be told whether it names code: {error}");
            Err(CheckpointError::Malformed { file: name.to_owned(), reason })
        }
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn names_code(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| KEYS.contains(&key.as_str()) || names_code(value)),
        Value::Array(list) => list.iter().any(names_code),
        _ => false,
    }
}

/// Whether there was anything to take out. Models within models have configs of their own.
fn strip_value(value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            let before = map.len();
            map.retain(|key, _| !KEYS.contains(&key.as_str()));
            let found = map.len() < before;
            map.values_mut().fold(found, |found, value| strip_value(value) || found)
        }
        // of each, whatever was found before
        Value::Array(list) => list.iter_mut().map(strip_value).filter(|found| *found).count() > 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_code_is_taken_out_wherever_it_stands() {
        let text = br#"{"a": 1, "auto_map": {"AutoTokenizer": ["x.Y", null]}, "b": [{"auto_map": "other/repo--x.Y"}], "c": {"custom_pipelines": {}}}"#;
        let stripped = without_code("tokenizer_config.json", text).unwrap().unwrap();
        let stripped: Value = serde_json::from_slice(&stripped).unwrap();
        assert_eq!(stripped, serde_json::json!({"a": 1, "b": [{}], "c": {}}));
        for harmless in [&b"{}"[..], br#"{"a": "auto_map"}"#, b"[1", b""] {
            assert_eq!(without_code("processor_config.json", harmless).unwrap(), None);
        }
        assert_eq!(without_code("vocab.json", br#"{"auto_map": 1}"#).unwrap(), None, "there it is a token");
        for hidden in [br#"{"auto_map": 1, "a": NaN}"#, br#"{"auto\u005fmap": 1, "a": NaN}"#.as_slice()] {
            let error = without_code("processor_config.json", hidden).unwrap_err().to_string();
            assert!(error.contains("cannot be told whether it names code"), "{error}");
        }
        assert!(without_code("processor_config.json", br#"{"auto\u005fmap": 1}"#).unwrap().is_some());
    }
}
