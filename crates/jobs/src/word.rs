//! The words of our enums are the same in SQL, JSON and code: serde's names are the one list of them.

use serde::de::{DeserializeOwned, IntoDeserializer, value::Error};

/// Reads an enum variant from its serde name.
pub(crate) fn parse<T: DeserializeOwned>(word: &str) -> Result<T, Error> {
    T::deserialize(word.into_deserializer())
}
