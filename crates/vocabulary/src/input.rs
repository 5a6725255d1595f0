//! A tokenizer.json read as a table of tokens.

use std::collections::{BTreeMap, HashMap};

use recipe::ModelRef;
use serde_json::{Map, Value};

use crate::limits::ROWS_MAX;
use crate::{Tokenizer, VocabularyError};

/// Every token of a tokenizer.json with its id, added tokens included.
pub fn token_ids(tokenizer_json: &Value) -> Result<BTreeMap<String, u32>, VocabularyError> {
    let (_, ids, _) = read(tokenizer_json)?;
    Ok(ids.into_iter().map(|(token, id)| (token.to_owned(), id)).collect())
}

/// One model's tokens, told apart by whether its embedding has a row for them.
pub(crate) struct Input<'a> {
    pub model: &'a ModelRef,
    pub json: &'a Value,
    /// The `type` of its model.
    pub kind: &'a str,
    pub rows: u32,
    pub ids: HashMap<&'a str, u32>,
    /// Tokens that the tokenizer can give but the weights cannot take.
    pub without_row: HashMap<&'a str, u32>,
    /// Of the tokens with a row, those added after training, in the order of the file.
    pub added: Vec<AddedToken<'a>>,
}

#[derive(Clone, Copy)]
pub(crate) struct AddedToken<'a> {
    pub content: &'a str,
    pub settings: &'a Map<String, Value>,
}

impl<'a> Input<'a> {
    pub fn read(tokenizer: &'a Tokenizer) -> Result<Input<'a>, VocabularyError> {
        let (kind, all, mut added) = read(&tokenizer.tokenizer_json).map_err(|e| e.in_model(&tokenizer.model))?;
        let rows = tokenizer.rows;
        if rows > ROWS_MAX {
            return Err(VocabularyError::TooManyRows { rows: rows.into(), max: ROWS_MAX }.in_model(&tokenizer.model));
        }
        let (ids, without_row): (HashMap<_, _>, HashMap<_, _>) = all.into_iter().partition(|(_, id)| *id < rows);
        added.retain(|a| ids.contains_key(a.content));
        Ok(Input { model: &tokenizer.model, json: &tokenizer.tokenizer_json, kind, rows, ids, without_row, added })
    }

    /// Tokens with a row, in ascending id.
    pub fn in_order(&self) -> Vec<(u32, &'a str)> {
        let mut tokens: Vec<(u32, &str)> = self.ids.iter().map(|(token, id)| (*id, *token)).collect();
        tokens.sort_unstable();
        tokens
    }
}

/// The `type` of the model, its tokens with those that are added, and these again.
type Table<'a> = (&'a str, HashMap<&'a str, u32>, Vec<AddedToken<'a>>);

fn read(json: &Value) -> Result<Table<'_>, VocabularyError> {
    let model = json.get("model").ok_or_else(|| VocabularyError::malformed("it has no `model`"))?;
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("none");
    let mut ids = match (kind, model.get("vocab")) {
        ("BPE" | "WordPiece" | "WordLevel", Some(Value::Object(vocab))) => read_map(vocab)?,
        ("Unigram", Some(Value::Array(vocab))) => read_list(vocab)?,
        ("BPE" | "WordPiece" | "WordLevel" | "Unigram", _) => {
            return Err(VocabularyError::malformed(format!("`model.vocab` is not what type {kind} has")));
        }
        _ => return Err(VocabularyError::UnsupportedType { found: kind.to_owned() }),
    };
    let added = match json.get("added_tokens") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => read_added(list, &mut ids)?,
        Some(_) => return Err(VocabularyError::malformed("`added_tokens` is not a list")),
    };
    Ok((kind, ids, added))
}

fn read_map(vocab: &Map<String, Value>) -> Result<HashMap<&str, u32>, VocabularyError> {
    vocab.iter().map(|(token, id)| Ok((token.as_str(), read_id(token, id)?))).collect()
}

/// The id of a Unigram piece is its place; of a piece listed twice, the last place counts, as in the library.
fn read_list(vocab: &[Value]) -> Result<HashMap<&str, u32>, VocabularyError> {
    vocab
        .iter()
        .enumerate()
        .map(|(place, entry)| {
            let token = entry.get(0).and_then(Value::as_str);
            match (token, u32::try_from(place)) {
                (Some(token), Ok(id)) => Ok((token, id)),
                _ => Err(VocabularyError::malformed(format!("entry {place} of `model.vocab` is not [token, score]"))),
            }
        })
        .collect()
}

/// A token that the vocabulary has already keeps that id, as in the library.
fn read_added<'a>(list: &'a [Value], ids: &mut HashMap<&'a str, u32>) -> Result<Vec<AddedToken<'a>>, VocabularyError> {
    let mut added = Vec::with_capacity(list.len());
    for entry in list {
        let (Some(settings), Some(content), Some(id)) =
            (entry.as_object(), entry.get("content").and_then(Value::as_str), entry.get("id"))
        else {
            return Err(VocabularyError::malformed("an entry of `added_tokens` lacks `id` or `content`"));
        };
        let id = read_id(content, id)?;
        ids.entry(content).or_insert(id);
        added.push(AddedToken { content, settings });
    }
    Ok(added)
}

fn read_id(token: &str, id: &Value) -> Result<u32, VocabularyError> {
    id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
        VocabularyError::malformed(format!("the id of token {token:?} is {id}, not a small whole number"))
    })
}
