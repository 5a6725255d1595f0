//! The output's vocabulary from the recipe and the models' tokenizers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use recipe::{ModelRef, TokenizerRecipe, TokenizerSource};
use serde_json::{Map, Value};

use crate::VocabularyError;
use crate::draft::Draft;
use crate::explicit::{self, Explicit, known, position};
use crate::input::Input;
use crate::join::Unreached;
use crate::limits::{ROWS_MAX, ROWS_TOTAL_MAX, TOKENS_NAMED_MAX};
use crate::rows::{Layout, RowSource, Rows, rows};

/// One model's tokenizer as found beside its weights.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    pub model: ModelRef,
    /// Models with equal ones share it: it takes several times the bytes of its text.
    pub tokenizer_json: Arc<Value>,
    /// Rows of its embedding matrix: `vocab_size` of its config.
    pub rows: u32,
}

/// The vocabulary that the output has.
#[derive(Debug, Clone)]
pub struct OutputVocabulary {
    /// The file to write; its ids are the rows of the maps.
    pub tokenizer_json: Value,
    /// Rows of the output's vocabulary tensors, padding included.
    pub rows: u32,
    /// Rows without padding: one more than the highest id.
    pub tokens: u32,
    /// For each tokenizer, in the order given: where each of the `rows` comes from.
    pub maps: Vec<Vec<RowSource>>,
    /// Every model has these tokens at these ids in this number of rows: there is nothing to gather.
    pub is_identity: bool,
    /// What the user may want to know.
    pub notes: Vec<String>,
}

/// Merges tokenizers; every model given counts, and `base` is the place of the base among them.
///
/// The order of the output's tokens depends on nothing but the order of `tokenizers`.
///
/// # Panics
/// When `base` is not a place in `tokenizers`.
pub fn merge(
    recipe: &TokenizerRecipe,
    tokenizers: &[Tokenizer],
    base: usize,
) -> Result<OutputVocabulary, VocabularyError> {
    assert!(base < tokenizers.len(), "base {base} is not one of {} tokenizers", tokenizers.len());
    let inputs = tokenizers.iter().map(Input::read).collect::<Result<Vec<_>, _>>()?;
    let source = source_position(&recipe.source, &inputs, base)?;
    let explicit = explicit::resolve(&recipe.tokens, &inputs)?;

    let mut draft = Draft::of(&inputs[source])?;
    if recipe.source == TokenizerSource::Union {
        in_order(&[source], inputs.len()).for_each(|place| draft.unite(place, &inputs[place]));
    }
    recipe.tokens.iter().for_each(|(token, _)| draft.append(token));

    let (settings, conflicts) = added_settings(&inputs, &draft, in_order(&[source, base], inputs.len()));
    let layout = layout(&inputs, &draft, recipe.pad_to_multiple_of)?;
    let rows = rows(&inputs, base, &draft, &layout, &explicit);

    let mut notes = Notes::default();
    notes.on_tokens(&inputs[source], &draft, &settings, &explicit);
    notes.on_rows(&rows, &layout, draft.tokens());
    if recipe.source == TokenizerSource::Union {
        notes.list(&conflicts, "are added tokens with different settings; the first model's are used");
    }
    let tokens = draft.tokens();
    let (tokenizer_json, unreached) = draft.finish(&settings, &inputs, source);
    notes.on_pieces(&unreached);
    Ok(OutputVocabulary {
        tokenizer_json,
        rows: layout.rows,
        tokens,
        is_identity: is_identity(&rows.maps, &inputs),
        maps: rows.maps,
        notes: notes.0,
    })
}

fn source_position(source: &TokenizerSource, inputs: &[Input<'_>], base: usize) -> Result<usize, VocabularyError> {
    match source {
        TokenizerSource::Union | TokenizerSource::Base => Ok(base),
        TokenizerSource::Model(model) => position(model, inputs)
            .ok_or_else(|| VocabularyError::UnknownSource { model: Box::new(model.clone()), known: known(inputs) }),
    }
}

/// The places `0..count`, each once, with `first` in front.
fn in_order(first: &[usize], count: usize) -> impl Iterator<Item = usize> {
    let mut places = first.to_vec();
    places.extend((0..count).filter(|place| !first.contains(place)));
    places.dedup();
    places.into_iter()
}

type Settings<'a> = HashMap<&'a str, &'a Map<String, Value>>;

/// The first-seen settings of each added token, and the tokens of the output on which the models disagree.
fn added_settings<'a>(
    inputs: &[Input<'a>],
    draft: &Draft<'_>,
    order: impl Iterator<Item = usize>,
) -> (Settings<'a>, Vec<&'a str>) {
    let mut settings: Settings<'a> = HashMap::new();
    let (mut conflicts, mut seen) = (Vec::new(), HashSet::new());
    for token in order.flat_map(|place| &inputs[place].added) {
        let first = settings.entry(token.content).or_insert(token.settings);
        if draft.is_added(token.content) && differ(first, token.settings) && seen.insert(token.content) {
            conflicts.push(token.content);
        }
    }
    (settings, conflicts)
}

fn differ(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    ["single_word", "lstrip", "rstrip", "normalized", "special"].iter().any(|key| a.get(*key) != b.get(*key))
}

/// Padding that all models share stays; else the tokens are padded as the recipe says.
fn layout(inputs: &[Input<'_>], draft: &Draft<'_>, multiple: Option<u32>) -> Result<Layout, VocabularyError> {
    let multiple = multiple.unwrap_or(1).max(1);
    let shared = inputs[0].rows;
    let is_shared = shared.is_multiple_of(multiple) && inputs.iter().all(|i| i.rows == shared && i.ids == draft.ids);
    let rows = match is_shared {
        true => u64::from(shared),
        false => u64::from(draft.tokens()).next_multiple_of(u64::from(multiple)),
    };
    let fits = |rows: &u32| *rows <= ROWS_MAX && u64::from(*rows) * inputs.len() as u64 <= ROWS_TOTAL_MAX;
    match u32::try_from(rows).ok().filter(fits) {
        Some(rows) => Ok(Layout { rows, is_shared }),
        None => Err(VocabularyError::TooManyRows { rows, max: ROWS_MAX }),
    }
}

fn is_identity(maps: &[Vec<RowSource>], inputs: &[Input<'_>]) -> bool {
    maps.iter().zip(inputs).all(|(map, input)| {
        map.len() == input.rows as usize && map.iter().zip(0..).all(|(source, row)| *source == RowSource::Row(row))
    })
}

#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn on_tokens(
        &mut self,
        source: &Input<'_>,
        draft: &Draft<'_>,
        settings: &Settings<'_>,
        explicit: &HashMap<&str, Explicit>,
    ) {
        let mut dropped: Vec<(u32, &str)> = source.without_row.iter().map(|(token, id)| (*id, *token)).collect();
        dropped.sort_unstable();
        let dropped: Vec<&str> =
            dropped.into_iter().map(|(_, token)| token).filter(|token| !draft.ids.contains_key(token)).collect();
        self.list(&dropped, &format!("dropped: model {} has only {} rows", source.model, source.rows));
        self.list(&draft.appended, &format!("added to the tokenizer of {}", source.model));
        let is_piece = |t: &&str| !settings.contains_key(*t) && !explicit.contains_key(*t);
        self.list(
            &draft.cut().filter(is_piece).collect::<Vec<_>>(),
            "of another model's ordinary pieces: matched in the text as they stand, before it is split",
        );
        let empty = draft.tokens() as usize - draft.by_id().iter().flatten().count();
        if source.kind == "Unigram" && empty > 0 && !draft.appended.is_empty() {
            self.0.push(format!(
                "{empty} ids have no token: libraries that number added tokens themselves may give them other ids"
            ));
        }
    }

    fn on_pieces(&mut self, unreached: &Unreached<'_>) {
        self.list(
            &unreached.strange,
            "of a tokenizer that writes text otherwise: rows are kept, but hardly any text is split into such",
        );
        self.list(
            &unreached.split,
            "whose text the merges that come first split otherwise: rows are kept, but text is not split into such",
        );
    }

    fn on_rows(&mut self, rows: &Rows<'_>, layout: &Layout, tokens: u32) {
        self.list(&rows.zero, "set to zero, as the recipe says");
        self.list(&rows.orphans, "in no model: added with rows of zeros, to be trained; name a `model_token` as source to start from another token's row");
        if layout.is_shared && layout.rows > tokens {
            self.0.push(format!("padding kept: {} rows for {tokens} tokens, as in every model", layout.rows));
        } else if layout.rows > tokens {
            self.0.push(format!("padded from {tokens} tokens to {} rows with the mean of the tokens", layout.rows));
        }
    }

    fn list(&mut self, tokens: &[&str], what: &str) {
        if tokens.is_empty() {
            return;
        }
        let named: Vec<String> = tokens.iter().take(TOKENS_NAMED_MAX).map(|t| format!("{t:?}")).collect();
        let rest = if tokens.len() > TOKENS_NAMED_MAX { ", ..." } else { "" };
        let noun = if tokens.len() == 1 { "token" } else { "tokens" };
        self.0.push(format!("{} {noun} {what} ({}{rest})", tokens.len(), named.join(", ")));
    }
}
