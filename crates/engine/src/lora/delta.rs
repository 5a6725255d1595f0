//! What an adapter adds to one tensor, and the tensor read with it.

use checkpoint::{Checkpoint, Dtype, TensorPlace};

use super::apply::{Part, add_product};
use crate::{ExecuteError, convert};

/// Elements read and added to at a time.
const CHUNK: usize = 1 << 16;

/// The tensor becomes W + scale · L R, in rows as the model has them; with a magnitude each row is then brought to that
/// length (DoRA).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Delta {
    pub rows: usize,
    pub columns: usize,
    pub rank: usize,
    pub scale: f32,
    /// rows × rank
    pub left: Factor,
    /// rank × columns
    pub right: Factor,
    pub magnitude: Option<TensorPlace>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Factor {
    AsStored(TensorPlace),
    Transposed(TensorPlace),
    /// A single 1: a vector is its own product with it.
    One,
}

/// The factors of one tensor in memory.
#[derive(Debug)]
pub(crate) struct Factors {
    left: Vec<f32>,
    right: Vec<f32>,
    /// What each row is multiplied with.
    lengths: Option<Vec<f32>>,
}

impl Delta {
    /// Bytes that its factors take in memory.
    pub fn factor_bytes(&self) -> u64 {
        let lengths = if self.magnitude.is_some() { self.rows } else { 0 };
        4 * ((self.rows + self.columns) as u64 * self.rank as u64 + lengths as u64)
    }

    /// Reads the factors; with a magnitude also the whole tensor once, for the lengths of its rows.
    pub fn load(&self, checkpoint: &Checkpoint, place: &TensorPlace) -> Result<Factors, ExecuteError> {
        let mut factors = Factors {
            left: read_factor(checkpoint, &self.left, self.rows, self.rank)?,
            right: read_factor(checkpoint, &self.right, self.rank, self.columns)?,
            lengths: None,
        };
        if let Some(magnitude) = &self.magnitude {
            let wanted = read_all(checkpoint, magnitude)?;
            factors.lengths = Some(self.row_factors(checkpoint, place, &factors, &wanted)?);
        }
        Ok(factors)
    }

    fn row_factors(
        &self,
        checkpoint: &Checkpoint,
        place: &TensorPlace,
        factors: &Factors,
        wanted: &[f32],
    ) -> Result<Vec<f32>, ExecuteError> {
        let mut row = vec![0.0; self.columns];
        let factor = |(index, wanted): (usize, &f32)| {
            self.read_values(checkpoint, place, factors, (index * self.columns) as u64, &mut row)?;
            let square: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            // a row of zeros has no direction to be given a length in
            Ok(if square > 0.0 { (f64::from(*wanted) / square.sqrt()) as f32 } else { 0.0 })
        };
        // a vocabulary that is cut has fewer rows than were trained
        let rows = place.info.shape.first().map_or(0, |rows| *rows as usize);
        wanted.iter().take(rows).enumerate().map(factor).collect()
    }

    /// Fills `buffer` with f32 values of the adapted tensor, from element `at` on.
    pub fn read(
        &self,
        checkpoint: &Checkpoint,
        place: &TensorPlace,
        factors: &Factors,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<(), ExecuteError> {
        let mut values = vec![0.0; CHUNK.min(buffer.len() / 4)];
        let mut from = at;
        for part in buffer.chunks_mut(CHUNK * 4) {
            let values = &mut values[..part.len() / 4];
            self.read_values(checkpoint, place, factors, from, values)?;
            convert::from_f32(Dtype::F32, values, part);
            from += values.len() as u64;
        }
        Ok(())
    }

    pub fn read_values(
        &self,
        checkpoint: &Checkpoint,
        place: &TensorPlace,
        factors: &Factors,
        at: u64,
        values: &mut [f32],
    ) -> Result<(), ExecuteError> {
        let width = place.info.dtype.bitsize() / 8;
        let mut raw = vec![0; values.len() * width];
        checkpoint.read_at(place, at * width as u64, &mut raw)?;
        convert::to_f32(place.info.dtype, &raw, values);
        self.add(factors, at as usize, values);
        Ok(())
    }

    /// Adds to the values from element `at` on: what is left of a row, whole rows, the beginning of another.
    fn add(&self, factors: &Factors, at: usize, values: &mut [f32]) {
        let (first, from) = (at / self.columns, at % self.columns);
        let head = if from == 0 { 0 } else { (self.columns - from).min(values.len()) };
        let (head, rest) = values.split_at_mut(head);
        self.add_rows(factors, first, from, head);
        let row = first + usize::from(from > 0);
        let (whole, tail) = rest.split_at_mut(rest.len() / self.columns * self.columns);
        let below = row + whole.len() / self.columns;
        self.add_rows(factors, row, 0, whole);
        self.add_rows(factors, below, 0, tail);
    }

    /// Adds to whole rows, or to a part of one.
    fn add_rows(&self, factors: &Factors, row: usize, from: usize, values: &mut [f32]) {
        if values.is_empty() {
            return;
        }
        let width = self.columns.min(values.len());
        let part = Part { rank: self.rank, columns: self.columns, from, width, scale: self.scale };
        add_product(&factors.left[row * self.rank..], &factors.right, part, values);
        if let Some(lengths) = &factors.lengths {
            for (values, length) in values.chunks_mut(width).zip(&lengths[row..]) {
                values.iter_mut().for_each(|value| *value *= length);
            }
        }
    }
}

fn read_factor(
    checkpoint: &Checkpoint,
    factor: &Factor,
    rows: usize,
    columns: usize,
) -> Result<Vec<f32>, ExecuteError> {
    match factor {
        Factor::One => Ok(vec![1.0]),
        Factor::AsStored(place) => read_all(checkpoint, place),
        Factor::Transposed(place) => Ok(transpose(&read_all(checkpoint, place)?, columns, rows)),
    }
}

pub(crate) fn read_all(checkpoint: &Checkpoint, place: &TensorPlace) -> Result<Vec<f32>, ExecuteError> {
    let mut raw = vec![0; place.info.bytes as usize];
    checkpoint.read_at(place, 0, &mut raw)?;
    let mut values = vec![0.0; place.info.elements() as usize];
    convert::to_f32(place.info.dtype, &raw, &mut values);
    Ok(values)
}

/// `values` has `rows` rows of `columns`; the result the other way round.
pub(crate) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}
