//! The index of a checkpoint of several files: which of them each tensor is in.

use std::collections::HashMap;

use serde_json::Value;

use crate::{CheckpointError, limits};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Sorted, each once.
    pub files: Vec<String>,
    /// From tensor to file; empty where one file has all.
    pub weight_map: HashMap<String, String>,
}

impl Index {
    /// Reads an index whose files end in `suffix`; `name` is for messages.
    pub fn parse(index: &Value, name: &str, suffix: &str) -> Result<Index, CheckpointError> {
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| CheckpointError::malformed(name, "has no `weight_map`"))?;
        let mut weight_map = HashMap::with_capacity(map.len());
        for (tensor, file) in map {
            let file = plain_name(file, suffix).ok_or_else(|| {
                let reason = format!("names the shard {file}; a plain file name ending in {suffix} is needed");
                CheckpointError::malformed(name, reason)
            })?;
            weight_map.insert(tensor.clone(), file.to_owned());
        }
        let mut files: Vec<String> = weight_map.values().cloned().collect();
        files.sort();
        files.dedup();
        if files.is_empty() || files.len() > limits::SHARDS_MAX {
            return Err(CheckpointError::malformed(name, format!("names {} shards", files.len())));
        }
        Ok(Index { files, weight_map })
    }

    /// A checkpoint of one file needs no index.
    pub(crate) fn of_one(file: &str) -> Index {
        Index { files: vec![file.to_owned()], weight_map: HashMap::new() }
    }
}

/// A name from an index is hostile until shown plain: it must not lead out of the directory.
fn plain_name<'a>(value: &'a Value, suffix: &str) -> Option<&'a str> {
    let name = value.as_str()?;
    (name.ends_with(suffix) && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])).then_some(name)
}
