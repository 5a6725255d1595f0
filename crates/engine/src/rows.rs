//! Rows of vocabulary tensors gathered by token while merging, with no intermediate copy.

use std::sync::{Arc, OnceLock};

use checkpoint::{Dtype, TensorPlace};
use vocabulary::{OutputVocabulary, RowSource};

use crate::{ExecuteError, Sources, convert};

/// How one input of a vocabulary tensor is read: row by row, from where each output token has its row.
#[derive(Debug)]
pub struct Gather {
    pub(crate) vocabulary: Arc<OutputVocabulary>,
    /// The source whose matrix this stands for.
    pub(crate) source: usize,
    /// The tensor in every source that has it, by source.
    pub(crate) places: Arc<Vec<Option<TensorPlace>>>,
    /// Elements of one row.
    pub(crate) width: u64,
    mean_of_own: OnceLock<Vec<f32>>,
}

impl Gather {
    pub(crate) fn new(
        vocabulary: Arc<OutputVocabulary>,
        source: usize,
        places: Arc<Vec<Option<TensorPlace>>>,
        width: u64,
    ) -> Gather {
        Gather { vocabulary, source, places, width, mean_of_own: OnceLock::new() }
    }

    /// Every source whose rows this may read.
    pub(crate) fn sources(&self) -> impl Iterator<Item = usize> + '_ {
        let others = self.map().iter().flat_map(|row| match row {
            RowSource::Of { model, .. } => vec![*model],
            RowSource::Mean(rows) => rows.iter().map(|(model, _)| *model).collect(),
            RowSource::Row(_) | RowSource::MeanOfOwn | RowSource::Zero => Vec::new(),
        });
        std::iter::once(self.source).chain(others)
    }

    fn map(&self) -> &[RowSource] {
        &self.vocabulary.maps[self.source]
    }

    /// Fills `buffer` with f32 values from element `at` on; both may begin and end inside a row.
    pub(crate) fn read(&self, sources: &Sources, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        let mut values = vec![0.0; buffer.len() / 4];
        let end = at + values.len() as u64;
        let mut row = vec![0.0; self.width as usize];
        for index in at / self.width..end.div_ceil(self.width) {
            self.read_row(sources, &self.map()[index as usize], &mut row)?;
            let start = index * self.width;
            let (from, to) = (at.max(start), end.min(start + self.width));
            let part = &row[(from - start) as usize..(to - start) as usize];
            values[(from - at) as usize..(to - at) as usize].copy_from_slice(part);
        }
        convert::from_f32(Dtype::F32, &values, buffer);
        Ok(())
    }

    fn read_row(&self, sources: &Sources, from: &RowSource, row: &mut [f32]) -> Result<(), ExecuteError> {
        match from {
            RowSource::Row(index) => self.read_of(sources, self.source, *index, row),
            RowSource::Of { model, row: index } => self.read_of(sources, *model, *index, row),
            RowSource::Mean(rows) => self.mean(sources, rows, row),
            RowSource::Zero => {
                row.fill(0.0);
                Ok(())
            }
            RowSource::MeanOfOwn => {
                row.copy_from_slice(self.mean_of_own(sources)?);
                Ok(())
            }
        }
    }

    fn read_of(&self, sources: &Sources, source: usize, index: u32, row: &mut [f32]) -> Result<(), ExecuteError> {
        let place = self.places[source].as_ref().expect("plans refuse rows of sources without the tensor");
        let source = &sources.list[source];
        if let Some(applied) = source.applied.as_ref().filter(|applied| applied.concerns(place)) {
            return applied.read_values(&source.checkpoint, place, u64::from(index) * self.width, row).map(drop);
        }
        let width = place.info.dtype.bitsize() as u64 / 8;
        let mut bytes = vec![0; row.len() * width as usize];
        let offset = u64::from(index) * self.width * width;
        source.checkpoint.read_at(place, offset, &mut bytes)?;
        convert::to_f32(place.info.dtype, &bytes, row);
        Ok(())
    }

    fn mean(&self, sources: &Sources, rows: &[(usize, u32)], mean: &mut [f32]) -> Result<(), ExecuteError> {
        let mut sum = vec![0.0f64; mean.len()];
        for (source, index) in rows {
            self.read_of(sources, *source, *index, mean)?;
            sum.iter_mut().zip(mean.iter()).for_each(|(s, x)| *s += f64::from(*x));
        }
        mean.iter_mut().zip(sum).for_each(|(m, s)| *m = (s / rows.len() as f64) as f32);
        Ok(())
    }

    /// The mean of all rows that belong to tokens: what padding rows hold.
    fn mean_of_own(&self, sources: &Sources) -> Result<&[f32], ExecuteError> {
        if let Some(mean) = self.mean_of_own.get() {
            return Ok(mean);
        }
        let tokens: Vec<&RowSource> = self.map().iter().filter(|row| **row != RowSource::MeanOfOwn).collect();
        let mut sum = vec![0.0f64; self.width as usize];
        let mut row = vec![0.0; self.width as usize];
        for from in &tokens {
            self.read_row(sources, from, &mut row)?;
            sum.iter_mut().zip(&row).for_each(|(s, x)| *s += f64::from(*x));
        }
        let count = tokens.len().max(1) as f64;
        // two threads may compute this at once; they get the same
        Ok(self.mean_of_own.get_or_init(|| sum.into_iter().map(|s| (s / count) as f32).collect()))
    }
}
