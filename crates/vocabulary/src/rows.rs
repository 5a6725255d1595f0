//! Where each row of the aligned matrices comes from.
//!
//! Rules of mergekit 0.1.5: a model that has a token takes its own row, unless the recipe forces another. One that lacks
//! it takes what the recipe names, else the only row there is, else the base's, else the mean of those that have it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::draft::Draft;
use crate::explicit::Explicit;
use crate::input::Input;

/// Where one row of one model's aligned matrix comes from.
#[derive(Clone, PartialEq, Debug)]
pub enum RowSource {
    /// The model's own row.
    Row(u32),
    /// A row of another model, by its place in the list of tokenizers.
    Of {
        model: usize,
        row: u32,
    },
    /// The mean of rows `(model, row)`, summed in this order.
    Mean(Arc<[(usize, u32)]>),
    /// No token: the mean of all rows of this model's new matrix that are not `MeanOfOwn` themselves.
    MeanOfOwn,
    Zero,
}

impl RowSource {
    fn seen_by(&self, viewer: usize) -> RowSource {
        match self {
            RowSource::Of { model, row } if *model == viewer => RowSource::Row(*row),
            other => other.clone(),
        }
    }
}

/// What the output's matrices look like, before the rows of single tokens.
pub(crate) struct Layout {
    pub rows: u32,
    /// Every model has these tokens at these ids in this number of rows: rows without a token stay as they are.
    pub is_shared: bool,
}

pub(crate) struct Rows<'a> {
    pub maps: Vec<Vec<RowSource>>,
    /// Tokens whose row is zero in some model, as the recipe says.
    pub zero: Vec<&'a str>,
    /// Tokens that no model has and for which the recipe names no source.
    pub orphans: Vec<&'a str>,
}

pub(crate) fn rows<'a>(
    inputs: &[Input<'_>],
    base: usize,
    draft: &Draft<'a>,
    layout: &Layout,
    explicit: &HashMap<&str, Explicit>,
) -> Rows<'a> {
    let maps = vec![Vec::with_capacity(layout.rows as usize); inputs.len()];
    let mut rows = Rows { maps, zero: Vec::new(), orphans: Vec::new() };
    let by_id = draft.by_id();
    for row in 0..layout.rows {
        match by_id.get(row as usize).copied().flatten() {
            Some(token) => rows.push_token(token, inputs, base, explicit.get(token)),
            None => rows.push_padding(row, layout),
        }
    }
    rows
}

impl<'a> Rows<'a> {
    fn push_padding(&mut self, row: u32, layout: &Layout) {
        let source = if layout.is_shared { RowSource::Row(row) } else { RowSource::MeanOfOwn };
        self.maps.iter_mut().for_each(|map| map.push(source.clone()));
    }

    fn push_token(&mut self, token: &'a str, inputs: &[Input<'_>], base: usize, explicit: Option<&Explicit>) {
        let own: Vec<Option<u32>> = inputs.iter().map(|i| i.ids.get(token).copied()).collect();
        let force = explicit.is_some_and(|e| e.force);
        let named = explicit.and_then(|e| e.source.clone());
        let is_replaced = force || own.contains(&None);
        match &named {
            Some(RowSource::Zero) if is_replaced => self.zero.push(token),
            None if own.iter().all(Option::is_none) => self.orphans.push(token),
            _ => {}
        }
        let fallback = is_replaced.then(|| named.unwrap_or_else(|| fallback(&own, base)));
        for (model, (map, own)) in self.maps.iter_mut().zip(&own).enumerate() {
            map.push(match (own, &fallback) {
                (Some(row), _) if !force => RowSource::Row(*row),
                (_, Some(fallback)) => fallback.seen_by(model),
                (Some(row), None) => RowSource::Row(*row),
                (None, None) => RowSource::Zero,
            });
        }
    }
}

fn fallback(own: &[Option<u32>], base: usize) -> RowSource {
    let owners: Vec<(usize, u32)> = own.iter().enumerate().filter_map(|(m, row)| Some((m, (*row)?))).collect();
    match (owners.as_slice(), own[base]) {
        ([], _) => RowSource::Zero,
        ([(model, row)], _) => RowSource::Of { model: *model, row: *row },
        (_, Some(row)) => RowSource::Of { model: base, row },
        (several, None) => RowSource::Mean(several.into()),
    }
}
