//! Files that stand beside the weights of a model and belong to it. Code is not among them.

/// How it generates, and how pictures and sounds become its inputs.
pub const PROCESSING: &[&str] = &[
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
    "normalizer.json",
];

/// Of the tokenizer, without its vocabulary.
pub const TOKENIZER: &[&str] =
    &["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"];

/// The vocabulary itself.
pub const VOCABULARY: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];
