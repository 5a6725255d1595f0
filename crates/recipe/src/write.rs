//! A recipe written back. Invariant: parsing what is written gives the same recipe.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::types::{LayerRange, TokenSource, TokenizerSource};

impl Serialize for LayerRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.start, self.end].serialize(serializer)
    }
}

/// A model is always an object here, so a folder called `union` is not taken for the word.
impl Serialize for TokenizerSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TokenizerSource::Union => serializer.serialize_str("union"),
            TokenizerSource::Base => serializer.serialize_str("base"),
            TokenizerSource::Model(model) => model.serialize(serializer),
        }
    }
}

impl Serialize for TokenSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TokenSource::Model(model) => model.serialize(serializer),
            TokenSource::Zero => serializer.collect_map([("kind", "zero")]),
            TokenSource::ModelToken { model, token, token_id } => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("kind", "model_token")?;
                map.serialize_entry("model", model)?;
                map.serialize_entry("token", token)?;
                map.serialize_entry("token_id", token_id)?;
                map.end()
            }
        }
    }
}

/// Pairs as the map that they were in the text.
pub(crate) fn as_map<T: Serialize, S: Serializer>(pairs: &[(String, T)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}
