//! What the recipe says of single tokens, with its names looked up.

use std::collections::HashMap;

use recipe::{ModelRef, TokenRecipe, TokenSource};

use crate::input::Input;
use crate::{RowSource, VocabularyError};

/// A token whose row the recipe gives.
pub(crate) struct Explicit {
    /// `None`: the row that a token without configuration would fall back to.
    pub source: Option<RowSource>,
    pub force: bool,
}

pub(crate) fn resolve<'a>(
    tokens: &'a [(String, TokenRecipe)],
    inputs: &[Input<'_>],
) -> Result<HashMap<&'a str, Explicit>, VocabularyError> {
    let one = |(token, recipe): &'a (String, TokenRecipe)| {
        if is_new(token, recipe, inputs) {
            return Ok((token.as_str(), Explicit { source: None, force: recipe.force }));
        }
        let source = recipe.source.as_ref().map(|s| row_of(token, s, inputs)).transpose()?;
        Ok((token.as_str(), Explicit { source, force: recipe.force }))
    };
    tokens.iter().map(one).collect()
}

/// A token that no model has, not even the one that its source names: guides add tokens so, and it starts from zeros.
fn is_new(token: &str, recipe: &TokenRecipe, inputs: &[Input<'_>]) -> bool {
    let names_a_model = matches!(&recipe.source, Some(TokenSource::Model(model)) if position(model, inputs).is_some());
    names_a_model && !inputs.iter().any(|i| i.ids.contains_key(token) || i.without_row.contains_key(token))
}

/// The model a reference means: the very same one, else the one that differs only in the override of its class.
pub(crate) fn position(model: &ModelRef, inputs: &[Input<'_>]) -> Option<usize> {
    let is_place = |i: &Input<'_>| {
        (&i.model.path, &i.model.revision, &i.model.lora) == (&model.path, &model.revision, &model.lora)
    };
    inputs.iter().position(|i| i.model == model).or_else(|| inputs.iter().position(is_place))
}

pub(crate) fn known(inputs: &[Input<'_>]) -> String {
    inputs.iter().map(|i| i.model.to_string()).collect::<Vec<_>>().join(", ")
}

fn row_of(token: &str, source: &TokenSource, inputs: &[Input<'_>]) -> Result<RowSource, VocabularyError> {
    match source {
        TokenSource::Zero => Ok(RowSource::Zero),
        TokenSource::Model(model) => row_of_token(token, model, token, inputs),
        TokenSource::ModelToken { model, token: Some(wanted), token_id: None } => {
            row_of_token(token, model, wanted, inputs)
        }
        TokenSource::ModelToken { model, token: None, token_id: Some(id) } => row_of_id(token, model, *id, inputs),
        TokenSource::ModelToken { model, .. } => {
            Err(VocabularyError::IncompleteSource { token: token.to_owned(), model: Box::new(model.clone()) })
        }
    }
}

fn row_of_token(
    token: &str,
    model: &ModelRef,
    wanted: &str,
    inputs: &[Input<'_>],
) -> Result<RowSource, VocabularyError> {
    let place = model_of(token, model, inputs)?;
    let input = &inputs[place];
    if let Some(row) = input.ids.get(wanted) {
        return Ok(RowSource::Of { model: place, row: *row });
    }
    let (token, wanted) = (token.to_owned(), wanted.to_owned());
    let (model, rows, mend) = (Box::new(model.clone()), input.rows, mend(&wanted, inputs));
    Err(match input.without_row.get(wanted.as_str()) {
        Some(id) => VocabularyError::TokenWithoutRow { token, model, wanted, id: *id, rows, mend },
        None => VocabularyError::TokenNotInModel { token, model, wanted, mend },
    })
}

fn row_of_id(token: &str, model: &ModelRef, id: u32, inputs: &[Input<'_>]) -> Result<RowSource, VocabularyError> {
    let place = model_of(token, model, inputs)?;
    let rows = inputs[place].rows;
    if id < rows {
        return Ok(RowSource::Of { model: place, row: id });
    }
    Err(VocabularyError::TokenIdOutOfRange {
        token: token.to_owned(),
        model: Box::new(model.clone()),
        token_id: id,
        rows,
    })
}

fn model_of(token: &str, model: &ModelRef, inputs: &[Input<'_>]) -> Result<usize, VocabularyError> {
    position(model, inputs).ok_or_else(|| VocabularyError::UnknownTokenModel {
        token: token.to_owned(),
        model: Box::new(model.clone()),
        known: known(inputs),
    })
}

fn mend(wanted: &str, inputs: &[Input<'_>]) -> String {
    let owners: Vec<String> =
        inputs.iter().filter(|i| i.ids.contains_key(wanted)).map(|i| i.model.to_string()).collect();
    match owners.is_empty() {
        true => "no model has it: write `{kind: model_token}` with another token, or `{kind: zero}`".to_owned(),
        false => format!("write a model that has it as source: {}", owners.join(", ")),
    }
}
