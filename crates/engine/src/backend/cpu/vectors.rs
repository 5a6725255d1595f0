//! Inner products of each vector of a tensor apart: of its rows, or of its columns.

use super::sums::{Lanes, add_pairs, pairs};
use super::{Cpu, ExecuteError, TensorInputs, Tile};
use crate::simd::simd_clones;
use crate::statistic::{Along, Gram, Vectors};

/// Groups of rows whose column sums are added pairwise: few, since each holds a sum for every column.
const ROW_GROUPS: u64 = 64;
/// Rows of a group at least.
const GROUP_ROWS_MIN: u64 = 256;

impl Cpu {
    pub(super) fn vector_gram(
        &self,
        inputs: &dyn TensorInputs,
        origin: Option<usize>,
        vectors: Vectors,
    ) -> Result<Vec<Gram>, ExecuteError> {
        match vectors.along {
            Along::Rows => self.row_grams(inputs, origin, vectors.columns),
            Along::Columns => self.column_grams(inputs, origin, vectors),
        }
    }

    fn row_grams(&self, inputs: &dyn TensorInputs, origin: Option<usize>, row: u64) -> Result<Vec<Gram>, ExecuteError> {
        let steps = self.steps(row);
        let pairs = pairs(inputs.count());
        let spans = self.map_spans(inputs.elements(), steps.span, |span, scratch| {
            let mut grams = Vec::new();
            let mut lanes = vec![Lanes::default(); pairs.len()];
            self.each_tile(inputs, span, steps, scratch, |tile| {
                for start in (0..tile.len()).step_by(row as usize) {
                    let part: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[start..start + row as usize]).collect();
                    let row = Tile { inputs: &part, at: tile.at + start as u64 };
                    lanes.fill(Lanes::default());
                    add_pairs(&row, &pairs, origin, &mut lanes);
                    grams.push(Gram::from_pairs(inputs.count(), lanes.iter().map(Lanes::total)));
                }
            })?;
            Ok(grams)
        })?;
        Ok(spans.into_iter().flatten().collect())
    }

    fn column_grams(
        &self,
        inputs: &dyn TensorInputs,
        origin: Option<usize>,
        vectors: Vectors,
    ) -> Result<Vec<Gram>, ExecuteError> {
        let pairs = pairs(inputs.count());
        let columns = vectors.columns as usize;
        let group = vectors.rows.div_ceil(ROW_GROUPS).max(GROUP_ROWS_MIN) * vectors.columns;
        let groups = self.map_spans(inputs.elements(), group.max(1), |span, scratch| {
            let mut sums = vec![0.0f64; pairs.len() * columns];
            // a group can be longer than a span, so it is read in pieces
            let steps = self.steps(1);
            let mut at = span.start;
            while at < span.end {
                let end = (at + steps.span).min(span.end);
                self.each_tile(inputs, at..end, steps, scratch, |tile| {
                    add_columns(tile, &pairs, origin, vectors, &mut sums)
                })?;
                at = end;
            }
            Ok(sums)
        })?;
        let sums = add_groups(groups);
        let gram = |column: usize| {
            Gram::from_pairs(inputs.count(), (0..pairs.len()).map(|pair| sums[pair * columns + column]))
        };
        Ok(if sums.is_empty() { Vec::new() } else { (0..columns).map(gram).collect() })
    }
}

fn add_columns(tile: &Tile<'_>, pairs: &[(usize, usize)], origin: Option<usize>, vectors: Vectors, sums: &mut [f64]) {
    let columns = vectors.columns as usize;
    for (part, of) in vectors.parts(tile.at, tile.len()) {
        let input = |i: usize| &tile.inputs[i][part.clone()];
        for (pair, (i, j)) in pairs.iter().enumerate().filter(|(_, (i, j))| origin != Some(*i) && origin != Some(*j)) {
            let sums = &mut sums[pair * columns..][of.clone()];
            match origin {
                None => add_each(input(*i), input(*j), sums),
                Some(origin) => add_each_difference(input(*i), input(*j), input(origin), sums),
            }
        }
    }
}

simd_clones! { fn add_each(a: &[f32], b: &[f32], sums: &mut [f64]) = add_each_body; }
simd_clones! { fn add_each_difference(a: &[f32], b: &[f32], origin: &[f32], sums: &mut [f64]) = add_each_difference_body; }

#[inline(always)]
fn add_each_body(a: &[f32], b: &[f32], sums: &mut [f64]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = f64::from(*a).mul_add(f64::from(*b), *sum);
    }
}

#[inline(always)]
fn add_each_difference_body(a: &[f32], b: &[f32], origin: &[f32], sums: &mut [f64]) {
    for (((sum, a), b), origin) in sums.iter_mut().zip(a).zip(b).zip(origin) {
        let origin = f64::from(*origin);
        *sum = (f64::from(*a) - origin).mul_add(f64::from(*b) - origin, *sum);
    }
}

/// Pairwise, so that the order of additions is fixed by the number of groups.
fn add_groups(mut groups: Vec<Vec<f64>>) -> Vec<f64> {
    while groups.len() > 1 {
        let mut halves = groups.into_iter();
        let mut next = Vec::new();
        while let Some(mut left) = halves.next() {
            if let Some(right) = halves.next() {
                left.iter_mut().zip(right).for_each(|(l, r)| *l += r);
            }
            next.push(left);
        }
        groups = next;
    }
    groups.pop().unwrap_or_default()
}
