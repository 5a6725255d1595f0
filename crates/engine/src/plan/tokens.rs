//! The vocabulary of the output, where the recipe has a `tokenizer` section, and the rows of the tensors that follow it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use checkpoint::{Access, TensorPlace, is_mergeable};
use recipe::{TokenizerRecipe, TokenizerSource};
use serde_json::{Map, Value, json};
use vocabulary::special::Moved;
use vocabulary::{OutputVocabulary, Tokenizer};

use super::drafts::Draft;
use super::{Planner, TaskInput, drafts};
use crate::beside::bytes;
use crate::rows::Gather;
use crate::{Source, layers};

/// Text of tokenizers that differ: eight of the largest known.
const TOKENIZERS_BYTES_MAX: usize = 256 * 1024 * 1024;

pub(super) const SIZE_KEYS: &[&str] = &["/vocab_size", "/text_config/vocab_size"];

/// What the output's vocabulary tensors and tokenizer files follow.
#[derive(Debug)]
pub(crate) struct Tokens {
    pub output: Arc<OutputVocabulary>,
    /// Rows of the vocabulary tensors of each source.
    rows: Vec<u32>,
    /// The source whose tokenizer files are carried.
    pub donor: usize,
    /// Whether the output's tokenizer is not that of the donor as it is.
    pub is_made: bool,
    /// What the ids in the config of the output's donor are in the output.
    pub moved: Moved,
    /// SHA-256 of each source's tokenizer.json: rows follow all of them.
    pub digests: Vec<String>,
}

impl Planner<'_> {
    pub(super) fn merge_tokenizers(&mut self) -> Option<Tokens> {
        let recipe = self.recipe.tokenizer.as_ref()?;
        let base = self.donor();
        let (tokenizers, digests) = self.tokenizers()?;
        match vocabulary::merge(recipe, &tokenizers, base) {
            Ok(output) => {
                for note in &output.notes {
                    self.warnings.push(self.recipe.positions.problem(
                        self.recipe.tokenizer_pointer(),
                        "vocabulary",
                        note,
                    ));
                }
                let donor = self.tokenizer_donor(recipe, base);
                let same_below = if donor == base { output.rows } else { 0 };
                let moved = Moved::between(&tokenizers[base].tokenizer_json, &output.tokenizer_json, same_below);
                Some(Tokens {
                    rows: tokenizers.iter().map(|t| t.rows).collect(),
                    donor,
                    is_made: output.tokenizer_json != *tokenizers[donor].tokenizer_json,
                    moved: moved.expect("both were read when they were merged"),
                    digests,
                    output: Arc::new(output),
                })
            }
            Err(error) => {
                self.error(self.recipe.tokenizer_pointer(), "invalid_vocabulary", error.to_string());
                None
            }
        }
    }

    fn tokenizer_donor(&self, recipe: &TokenizerRecipe, base: usize) -> usize {
        match &recipe.source {
            TokenizerSource::Model(model) => self.sources.index_of(model),
            TokenizerSource::Union | TokenizerSource::Base => base,
        }
    }

    /// Of every source, with the SHA-256 of each. Equal ones are held once, and different ones within a limit.
    fn tokenizers(&mut self) -> Option<(Vec<Tokenizer>, Vec<String>)> {
        let mut tokenizers: Vec<Option<Tokenizer>> = Vec::new();
        let mut known: HashMap<String, Arc<Value>> = HashMap::new();
        let mut digests = Vec::new();
        let mut bytes = 0;
        for index in 0..self.sources.list.len() {
            let found = self.tokenizer(index).map(|mut tokenizer| {
                let text = tokenizer.tokenizer_json.to_string();
                digests.push(checkpoint::digest_bytes(text.as_bytes()));
                let shared = known.entry(digests[digests.len() - 1].clone()).or_insert_with(|| {
                    bytes += text.len();
                    tokenizer.tokenizer_json.clone()
                });
                tokenizer.tokenizer_json = shared.clone();
                tokenizer
            });
            tokenizers.push(found);
            if bytes > TOKENIZERS_BYTES_MAX {
                let detail = format!(
                    "the models' tokenizers that differ take more than {TOKENIZERS_BYTES_MAX} bytes; merge fewer models at a time"
                );
                self.error(self.recipe.tokenizer_pointer(), "too_large", detail);
                return None;
            }
        }
        Some((tokenizers.into_iter().collect::<Option<_>>()?, digests))
    }

    fn tokenizer(&mut self, index: usize) -> Option<Tokenizer> {
        let source = &self.sources.list[index];
        let model = source.model.to_string();
        let found = tokenizer_json(source, &self.sources.access);
        match (found, vocabulary_rows(source)) {
            (Ok(Some(tokenizer_json)), Some(rows)) => {
                Some(Tokenizer { model: source.model.clone(), tokenizer_json: Arc::new(tokenizer_json), rows })
            }
            (Ok(Some(_)), None) => {
                self.error(self.recipe.tokenizer_pointer(), "invalid_checkpoint", format!("model {model:?} has no embedding that could be found by its name, so its rows cannot be aligned"));
                None
            }
            (Ok(None), _) => {
                self.error(
                    self.recipe.tokenizer_pointer(),
                    "invalid_checkpoint",
                    format!(
                        "model {model:?} has no tokenizer.json and no tokenizer.model, one of which the `tokenizer` section needs of every model"
                    ),
                );
                None
            }
            (Err(error), _) => {
                self.error(self.recipe.tokenizer_pointer(), "invalid_checkpoint", format!("model {model:?}: {error}"));
                None
            }
        }
    }

    /// Makes the inputs of a vocabulary tensor read by token, and gives the shape that they then have.
    pub(super) fn gather(&mut self, tokens: &Tokens, draft: &Draft) -> Option<(Vec<TaskInput>, Vec<u64>)> {
        let places: Vec<Option<TensorPlace>> = self
            .sources
            .list
            .iter()
            .map(|source| drafts::find(source, &draft.name).map(|(_, place)| place.clone()))
            .collect();
        let places = Arc::new(places);
        let rest: Vec<u64> = draft.inputs[0].place.info.shape.get(1..).unwrap_or_default().to_vec();
        let mut inputs = Vec::with_capacity(draft.inputs.len());
        for input in &draft.inputs {
            let gather = Gather::new(tokens.output.clone(), input.source, places.clone(), rest.iter().product());
            for source in gather.sources().collect::<BTreeSet<_>>() {
                let fits = |p: &TensorPlace| {
                    p.info.shape.first() == Some(&u64::from(tokens.rows[source]))
                        && p.info.shape.get(1..) == Some(&rest[..])
                        && is_mergeable(p.info.dtype)
                };
                if !places[source].as_ref().is_some_and(fits) {
                    let model = self.sources.list[source].model.to_string();
                    self.error(
                        self.recipe.tokenizer_pointer(),
                        "shape_mismatch",
                        format!("rows of tensor {:?} are needed of model {model:?}, which does not have it with a row of that width and a floating dtype for each of its {} tokens", draft.name, tokens.rows[source]),
                    );
                    return None;
                }
            }
            inputs.push(TaskInput { rows: Some(Arc::new(gather)), ..input.clone() });
        }
        let shape = std::iter::once(u64::from(tokens.output.rows)).chain(rest).collect();
        Some((inputs, shape))
    }
}

impl Tokens {
    /// Whether a tensor's rows have to be gathered: they belong to tokens, and the models' tokens differ. Whether they can be
    /// is for `gather` to say.
    pub fn concern(&self, draft: &Draft) -> bool {
        !self.output.is_identity && layers::is_vocabulary(&draft.name)
    }

    pub fn set_size(&self, config: &mut Value) {
        for key in SIZE_KEYS {
            if let Some(size) = config.pointer_mut(key) {
                *size = json!(self.output.rows);
            }
        }
    }
}

/// Names under which SentencePiece models stand beside the weights.
const SENTENCEPIECE: &[&str] = &["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];

/// The tokenizer.json of a source, made from its tokenizer.model where it has none.
pub(super) fn tokenizer_json(source: &Source, access: &Access) -> Result<Option<Value>, String> {
    let json = |name: &str| source.checkpoint.json(name, access).map_err(|error| error.to_string());
    if let Some(found) = json("tokenizer.json")? {
        return Ok(Some(found));
    }
    let max = vocabulary::limits::SENTENCEPIECE_BYTES_MAX as u64;
    let found = SENTENCEPIECE.iter().find_map(|name| bytes(source, name, max, access));
    let Some(bytes) = found else { return Ok(None) };
    let mut config = json("tokenizer_config.json")?.filter(Value::is_object).unwrap_or_else(|| json!({}));
    if config.get("added_tokens_decoder").is_none() {
        config["added_tokens_decoder"] = added_since(&json("added_tokens.json")?.unwrap_or_default());
    }
    vocabulary::from_sentencepiece(&bytes, Some(&config)).map(Some).map_err(|error| error.to_string())
}

/// Older tokenizers list what was added in a file of its own, by token.
fn added_since(added_tokens: &Value) -> Value {
    let listed = added_tokens.as_object().into_iter().flatten();
    listed.map(|(token, id)| (id.to_string(), json!({"content": token, "special": true}))).collect::<Map<_, _>>().into()
}

/// Rows of a source's embedding; its config may say less than the truth where they are padded.
fn vocabulary_rows(source: &Source) -> Option<u32> {
    let checkpoint = &source.checkpoint;
    let embedding =
        checkpoint.tensors.iter().find(|(name, _)| layers::is_vocabulary(name) && layers::is_before_layers(name));
    let rows = embedding.and_then(|(_, place)| place.info.shape.first().copied());
    rows.and_then(|rows| u32::try_from(rows).ok())
}
