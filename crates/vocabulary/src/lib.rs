//! Tokenizers merged: which row of which model each output token takes.
//!
//! Invariant: no I/O, and no text is ever tokenized: a `tokenizer.json` is a table of pieces and merges here, nothing more.

mod bpe;
mod draft;
mod error;
mod explicit;
mod input;
mod join;
mod merge;
mod rows;
mod sentencepiece;
pub mod special;
mod spelling;
mod strip;
mod template;

pub use error::VocabularyError;
pub use input::token_ids;
pub use merge::{OutputVocabulary, Tokenizer, merge};
pub use rows::RowSource;
pub use sentencepiece::from_sentencepiece;
pub use template::{ChatTemplate, check as check_template, markers, most_frequent, template_in};

/// Named limits of a vocabulary.
pub mod limits {
    /// Rows of one output matrix: an order of magnitude above any vocabulary, and little memory as a map.
    pub const ROWS_MAX: u32 = 4 * 1024 * 1024;
    /// Rows of one output matrix times models: each model has a map of them.
    pub const ROWS_TOTAL_MAX: u64 = 32 * 1024 * 1024;
    /// Tokens that one note names; of the rest it gives the number.
    pub const TOKENS_NAMED_MAX: usize = 5;
    /// Characters of a piece whose merges are looked for: longer ones are rulers and runs of blanks.
    pub const PIECE_SYMBOLS_MAX: usize = 64;
    /// Bytes of one piece of a SentencePiece model: each way to split it is looked up.
    pub const PIECE_BYTES_MAX: usize = 256;
    /// Bytes of a `tokenizer.model`: the largest in use have some five million.
    pub const SENTENCEPIECE_BYTES_MAX: usize = 32 * 1024 * 1024;
    /// Ways to make the pieces of a SentencePiece model by merging two: two for each piece are usual.
    pub const MERGES_MAX: usize = 1_000_000;
    /// Bytes of one chat template: the longest in use have some 30 thousand.
    pub const TEMPLATE_BYTES_MAX: usize = 1024 * 1024;
    /// Bytes of one of them.
    pub const MARKER_BYTES_MAX: usize = 64;
    /// Special tokens that are looked for in one chat template.
    pub const MARKERS_MAX: usize = 256;
}
