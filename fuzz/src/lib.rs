//! What is fuzzed: each target takes any bytes and must neither panic, nor hang, nor break its claim.
//!
//! The same functions run in `tests/mutation` on mutated seeds, with no fuzzer at hand.

pub mod archive;
pub mod chat_template;
pub mod index_file;
pub mod pickle;
pub mod recipe_text;
pub mod safetensors_header;
pub mod sentencepiece;
pub mod tokenizer_json;
pub mod torch_file;
