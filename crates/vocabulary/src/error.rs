use recipe::ModelRef;

/// Why tokenizers cannot be merged as asked; each says what to write instead, where something can be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VocabularyError {
    #[error("tokenizer of model {model}: {source}")]
    InModel {
        model: Box<ModelRef>,
        #[source]
        source: Box<VocabularyError>,
    },
    #[error(
        "tokenizer type {found:?} is not supported; use a model whose tokenizer.json has type BPE, WordPiece, Unigram or WordLevel"
    )]
    UnsupportedType { found: String },
    #[error("tokenizer.json is malformed: {what}; save the tokenizer again with its own library")]
    Malformed { what: String },
    #[error("tokenizer.model is malformed: {what}; save the tokenizer again with its own library")]
    MalformedModel { what: String },
    #[error("none of its tokens has a row in the embedding of {rows} rows; take the tokenizer of another model")]
    NoTokens { rows: u32 },
    #[error(
        "the unknown token has id {id}, but the embedding has only {rows} rows; take the tokenizer of another model as `source`"
    )]
    UnknownTokenWithoutRow { id: u64, rows: u32 },
    #[error("tokenizer source {model} is not one of the models; write `union`, `base`, or one of {known}")]
    UnknownSource { model: Box<ModelRef>, known: String },
    #[error("token {token:?}: its source names {model}, which is not one of the models; write one of {known}")]
    UnknownTokenModel { token: String, model: Box<ModelRef>, known: String },
    #[error("token {token:?}: model {model} has no token {wanted:?}; {mend}")]
    TokenNotInModel { token: String, model: Box<ModelRef>, wanted: String, mend: String },
    #[error(
        "token {token:?}: in model {model}, token {wanted:?} has id {id}, but its embedding has {rows} rows; {mend}"
    )]
    TokenWithoutRow { token: String, model: Box<ModelRef>, wanted: String, id: u32, rows: u32, mend: String },
    #[error("token {token:?}: token_id {token_id} is past the {rows} rows of model {model}; write an id below {rows}")]
    TokenIdOutOfRange { token: String, model: Box<ModelRef>, token_id: u32, rows: u32 },
    #[error("token {token:?}: its source in model {model} needs exactly one of `token` and `token_id`")]
    IncompleteSource { token: String, model: Box<ModelRef> },
    #[error(
        "a vocabulary of {rows} rows is more than the {max} allowed; write a smaller pad_to_multiple_of or use smaller vocabularies"
    )]
    TooManyRows { rows: u64, max: u32 },
    #[error("chat template {name:?} is not known; write one of {known}, or the text of a Jinja template")]
    UnknownTemplate { name: String, known: String },
    #[error("the chat template does not parse: {detail}, in its line {line}")]
    Template { line: usize, detail: String },
    #[error("the chat template has {bytes} bytes; at most {max} are taken")]
    TemplateTooLong { bytes: usize, max: usize },
}

impl VocabularyError {
    pub(crate) fn malformed(what: impl Into<String>) -> VocabularyError {
        VocabularyError::Malformed { what: what.into() }
    }

    pub(crate) fn in_model(self, model: &ModelRef) -> VocabularyError {
        VocabularyError::InModel { model: Box::new(model.clone()), source: Box::new(self) }
    }
}
