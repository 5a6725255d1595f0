//! Tokenizers merged: which row of which model each output token takes.
//!
//! Invariant: no I/O, and no tokenizer is ever run: a `tokenizer.json` is a table of tokens here, nothing more.

mod draft;
mod error;
mod explicit;
mod input;
mod merge;
mod rows;
mod strip;

pub use error::VocabularyError;
pub use input::token_ids;
pub use merge::{OutputVocabulary, Tokenizer, merge};
pub use rows::RowSource;

/// Named limits of a vocabulary.
pub mod limits {
    /// Rows of one output matrix: an order of magnitude above any vocabulary, and little memory as a map.
    pub const ROWS_MAX: u32 = 4 * 1024 * 1024;
    /// Tokens that one note names; of the rest it gives the number.
    pub const TOKENS_NAMED_MAX: usize = 5;
}
