//! Merges of two BPE tokenizers in one.
//!
//! Invariant: what is appended makes new pieces only, and ranks below all that was there. So text is first merged as the
//! base merges it, and then runs of its pieces are joined into new ones.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::limits::PIECE_SYMBOLS_MAX;

/// What a piece begins with that goes on a word.
const PREFIX: &str = "continuing_subword_prefix";

/// The merges of a BPE model in the order of their ranks.
pub(crate) struct Merges<'i, 'a> {
    ids: &'i HashMap<&'a str, u32>,
    /// For a pair of pieces: its rank, and what it makes.
    ranks: HashMap<(u32, u32), (usize, u32)>,
    /// What was appended, in order.
    appended: Vec<(&'a str, &'a str)>,
}

impl<'i, 'a> Merges<'i, 'a> {
    /// `ids` are the pieces of the merged model.
    pub fn of(model: &Map<String, Value>, ids: &'i HashMap<&'a str, u32>) -> Merges<'i, 'a> {
        let mut merges = Merges { ids, ranks: HashMap::new(), appended: Vec::new() };
        let prefix = model.get(PREFIX).and_then(Value::as_str).unwrap_or_default();
        for (left, right) in pairs(model.get("merges")) {
            merges.rank(left, right, prefix);
        }
        merges
    }

    /// Appends those of another model's merges that make one of the `wanted` pieces.
    pub fn append_of(&mut self, model: &'a Value, wanted: &HashSet<&str>) {
        let prefix = model[PREFIX].as_str().unwrap_or_default();
        for (left, right) in pairs(model.get("merges")) {
            if wanted.contains(joined(left, right, prefix).as_str()) && self.rank(left, right, prefix) {
                self.appended.push((left, right));
            }
        }
    }

    /// Whether merging leads to `piece`, if need be by one more merge of the two pieces that it ends at.
    pub fn reach(&mut self, piece: &'a str) -> bool {
        match *self.segment(piece) {
            [_] => true,
            [left, right] => {
                let (left, right) = piece.split_at(self.bytes(piece, left, right));
                if self.rank(left, right, "") {
                    self.appended.push((left, right));
                }
                true
            }
            _ => false,
        }
    }

    /// The merges to write after those that `model` has, in its own notation unless that cannot say them.
    pub fn write(self, model: &mut Map<String, Value>) {
        if self.appended.is_empty() {
            return;
        }
        let list = model.entry("merges").or_insert_with(|| json!([]));
        let Some(merges) = list.as_array_mut() else { return };
        let has_blank = self.appended.iter().any(|(left, right)| left.contains(' ') || right.contains(' '));
        let is_text = merges.first().is_some_and(Value::is_string) && !has_blank;
        if !is_text {
            merges.iter_mut().for_each(|merge| *merge = pair(merge).map_or(Value::Null, |(l, r)| json!([l, r])));
        }
        merges.extend(self.appended.into_iter().map(|(left, right)| match is_text {
            true => json!(format!("{left} {right}")),
            false => json!([left, right]),
        }));
    }

    /// Gives a pair the next rank, unless it has one or is none of the model's.
    fn rank(&mut self, left: &str, right: &str, prefix: &str) -> bool {
        let made = joined(left, right, prefix);
        let (Some(l), Some(r), Some(made)) = (self.ids.get(left), self.ids.get(right), self.ids.get(made.as_str()))
        else {
            return false;
        };
        let next = self.ranks.len();
        let mut is_new = false;
        self.ranks.entry((*l, *r)).or_insert_with(|| {
            is_new = true;
            (next, *made)
        });
        is_new
    }

    /// What the merges make of a piece's characters; nothing where one of them is no piece, or where they are too many.
    fn segment(&self, piece: &str) -> Vec<u32> {
        let mut symbols: Vec<u32> = Vec::new();
        for (at, character) in piece.char_indices() {
            match self.ids.get(&piece[at..at + character.len_utf8()]) {
                Some(id) if symbols.len() < PIECE_SYMBOLS_MAX => symbols.push(*id),
                _ => return Vec::new(),
            }
        }
        while let Some((at, made)) = self.next_merge(&symbols) {
            symbols[at] = made;
            symbols.remove(at + 1);
        }
        symbols
    }

    fn next_merge(&self, symbols: &[u32]) -> Option<(usize, u32)> {
        let ranked = symbols.windows(2).enumerate().filter_map(|(at, pair)| {
            let (rank, made) = self.ranks.get(&(pair[0], pair[1]))?;
            Some((*rank, at, *made))
        });
        ranked.min().map(|(_, at, made)| (at, made))
    }

    /// Where the first of two pieces ends in the piece that they make.
    fn bytes(&self, piece: &str, left: u32, right: u32) -> usize {
        let is_end =
            |at: &usize| self.ids.get(&piece[..*at]) == Some(&left) && self.ids.get(&piece[*at..]) == Some(&right);
        let mut ends = piece.char_indices().map(|(at, _)| at);
        ends.find(is_end).unwrap_or(0)
    }
}

fn pairs(merges: Option<&Value>) -> impl Iterator<Item = (&str, &str)> {
    merges.and_then(Value::as_array).into_iter().flatten().filter_map(pair)
}

/// A merge is `"a b"` in older files, `["a", "b"]` in newer.
pub(crate) fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        pair => Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)),
    }
}

/// The piece that a merge makes.
pub(crate) fn joined(left: &str, right: &str, prefix: &str) -> String {
    format!("{left}{}", right.strip_prefix(prefix).unwrap_or(right))
}
