//! The words of our enums are the same in SQL, JSON and code. `as_str` and serde's names agree; a test holds them to it.

use serde::de::{DeserializeOwned, IntoDeserializer, value::Error};

/// Reads an enum variant from its serde name.
pub(crate) fn parse<T: DeserializeOwned>(word: &str) -> Result<T, Error> {
    T::deserialize(word.into_deserializer())
}
