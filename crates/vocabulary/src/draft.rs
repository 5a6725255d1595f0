//! The output's tokenizer while it is put together.
//!
//! Invariant: the tokens of the source keep their ids; others come after them.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::VocabularyError;
use crate::input::Input;
use crate::join::{Pieces, Unreached, join, takes_pieces};
use crate::strip::strip;

pub(crate) struct Draft<'a> {
    json: Value,
    pub ids: HashMap<&'a str, u32>,
    /// Tokens that the source lacks, in the order of their ids.
    pub appended: Vec<&'a str>,
    /// Of them, those that are pieces of other models and become pieces here, with the place of the model.
    pieces: Vec<(&'a str, usize)>,
    takes_pieces: bool,
    /// Tokens listed under `added_tokens`.
    added: HashSet<&'a str>,
    next_id: u32,
}

impl<'a> Draft<'a> {
    /// The tokenizer of one model, without the tokens its weights cannot take.
    pub fn of(source: &Input<'a>) -> Result<Draft<'a>, VocabularyError> {
        let Some(last) = source.ids.values().max() else {
            return Err(VocabularyError::NoTokens { rows: source.rows }.in_model(source.model));
        };
        Ok(Draft {
            json: strip(source)?,
            ids: source.ids.clone(),
            appended: Vec::new(),
            pieces: Vec::new(),
            takes_pieces: takes_pieces(source),
            added: source.added.iter().map(|a| a.content).collect(),
            next_id: last + 1,
        })
    }

    /// Appends `token` as an added token unless it is there.
    pub fn append(&mut self, token: &'a str) {
        if self.number(token) {
            self.added.insert(token);
        }
    }

    /// Everything that `other` has, which stands at place `from`; what is an added token there becomes one here, and what is
    /// a piece a piece.
    pub fn unite(&mut self, from: usize, other: &Input<'a>) {
        let added: HashSet<&str> = other.added.iter().map(|a| a.content).collect();
        for (_, token) in other.in_order() {
            match self.takes_pieces && !added.contains(token) {
                true if self.number(token) => self.pieces.push((token, from)),
                true => {}
                false => self.append(token),
            }
        }
        self.added.extend(added);
    }

    /// Gives `token` the next id unless it has one.
    fn number(&mut self, token: &'a str) -> bool {
        if self.ids.contains_key(token) {
            return false;
        }
        self.ids.insert(token, self.next_id);
        self.appended.push(token);
        self.next_id += 1;
        true
    }

    /// Appended tokens that are pieces of their model and added tokens here.
    pub fn cut(&self) -> impl Iterator<Item = &'a str> {
        let pieces: HashSet<&str> = self.pieces.iter().map(|(piece, _)| *piece).collect();
        self.appended.iter().filter(move |token| !pieces.contains(**token)).copied()
    }

    /// Rows that the tokens need: one more than the highest id.
    pub fn tokens(&self) -> u32 {
        self.next_id
    }

    pub fn is_added(&self, token: &str) -> bool {
        self.added.contains(token)
    }

    /// The token at each id. Of two at one id, the added one: it is what decoding gives.
    pub fn by_id(&self) -> Vec<Option<&'a str>> {
        let mut tokens: Vec<Option<&str>> = vec![None; self.next_id as usize];
        for (token, id) in &self.ids {
            let place = &mut tokens[*id as usize];
            let rank = |t: &'a str| (!self.added.contains(t), t);
            *place = Some(place.map_or(*token, |held| if rank(held) <= rank(token) { held } else { token }));
        }
        tokens
    }

    /// The finished tokenizer.json, whose source is the model at place `source`, and the pieces that no text gives.
    /// `settings` are those of every token that is added in some model.
    pub fn finish(
        mut self,
        settings: &HashMap<&str, &Map<String, Value>>,
        inputs: &[Input<'a>],
        source: usize,
    ) -> (Value, Unreached<'a>) {
        let mut unreached = Unreached::default();
        if let Some(model) = self.json.get_mut("model").and_then(Value::as_object_mut)
            && (!self.pieces.is_empty() || (self.ids.len() < self.next_id as usize && !self.appended.is_empty()))
        {
            let pieces = Pieces { ids: &self.ids, added: &self.added, new: &self.pieces };
            unreached = join(model, inputs, source, &pieces);
        }
        let mut added: Vec<(u32, &str)> = self.added.iter().map(|token| (self.ids[token], *token)).collect();
        added.sort_unstable();
        let list: Vec<Value> = added
            .into_iter()
            .map(|(id, token)| {
                let mut entry = settings.get(token).map_or_else(|| plain(token), |s| (*s).clone());
                entry.insert("id".to_owned(), id.into());
                Value::Object(entry)
            })
            .collect();
        if let Some(object) = self.json.as_object_mut() {
            object.insert("added_tokens".to_owned(), list.into());
        }
        (self.json, unreached)
    }
}

fn plain(token: &str) -> Map<String, Value> {
    let entry = json!({
        "id": 0, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": false,
    });
    match entry {
        Value::Object(entry) => entry,
        _ => Map::new(),
    }
}
