//! Sums in f64: eight lanes inside a block, lanes and blocks added pairwise.

use std::sync::Arc;

use super::{Cpu, ExecuteError, TensorInputs, Tile};
use crate::kernel::{Kernel, with_buffer};
use crate::simd::simd_clones;
use crate::statistic::{Fold, Gram};

const LANES: usize = 8;

/// A running sum of one block, or of one row.
#[derive(Clone, Copy, Default)]
pub(super) struct Lanes {
    sums: [f64; LANES],
    /// Elements taken so far: element i of the block always lands in lane i % 8, whatever the tiles were.
    taken: usize,
}

impl Lanes {
    pub(super) fn total(&self) -> f64 {
        let s = self.sums;
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    }
}

/// Pairs (0, 0), (0, 1), ..., (1, 1), ... of so many inputs.
pub(super) fn pairs(size: usize) -> Vec<(usize, usize)> {
    (0..size).flat_map(|i| (i..size).map(move |j| (i, j))).collect()
}

impl Cpu {
    /// Inner products of every pair of inputs.
    pub(super) fn gram(&self, inputs: &dyn TensorInputs, origin: Option<usize>) -> Result<Gram, ExecuteError> {
        let pairs = pairs(inputs.count());
        let sums = self.block_sums(inputs, 1, pairs.len(), |tile, lanes| {
            for ((i, j), lanes) in pairs.iter().zip(lanes) {
                add_pair(tile, (*i, *j), origin, lanes);
            }
        })?;
        Ok(Gram::from_pairs(inputs.count(), sums))
    }

    /// Sums of what the kernels make.
    pub(super) fn sums(&self, inputs: &dyn TensorInputs, of: &[Arc<dyn Kernel>]) -> Result<Vec<f64>, ExecuteError> {
        let unit = of.iter().map(|k| k.unit()).max().unwrap_or(1);
        self.block_sums(inputs, unit, of.len(), |tile, lanes| {
            with_buffer(tile.len(), |values| {
                for (kernel, lanes) in of.iter().zip(lanes) {
                    kernel.combine(tile, values);
                    add_values(values, lanes);
                }
            });
        })
    }

    /// `sums` numbers over all elements: `add` takes a tile into the lanes of its block.
    fn block_sums(
        &self,
        inputs: &dyn TensorInputs,
        unit: u64,
        sums: usize,
        add: impl Fn(&Tile<'_>, &mut [Lanes]) + Sync,
    ) -> Result<Vec<f64>, ExecuteError> {
        let steps = self.steps(unit);
        let spans = self.map_spans(inputs.elements(), steps.span, |span, scratch| {
            let mut blocks: Vec<Vec<f64>> = Vec::new();
            let mut lanes = vec![Lanes::default(); sums];
            let end = span.end;
            self.each_tile(inputs, span, steps, scratch, |tile| {
                add(tile, &mut lanes);
                let next = tile.at + tile.len() as u64;
                if next.is_multiple_of(steps.block) || next == end {
                    blocks.push(lanes.iter().map(Lanes::total).collect());
                    lanes.fill(Lanes::default());
                }
            })?;
            Ok(blocks)
        })?;
        let blocks: Vec<Vec<f64>> = spans.into_iter().flatten().collect();
        Ok((0..sums).map(|which| pairwise(&blocks, which)).collect())
    }

    /// One number for each row and kernel. A tile holds whole rows, whatever the spans are.
    pub(super) fn rows(
        &self,
        inputs: &dyn TensorInputs,
        of: &[Arc<dyn Kernel>],
        row: u64,
        fold: Fold,
    ) -> Result<Vec<Vec<f64>>, ExecuteError> {
        let steps = self.steps(row);
        let spans = self.map_spans(inputs.elements(), steps.span, |span, scratch| {
            let mut rows = vec![Vec::new(); of.len()];
            self.each_tile(inputs, span, steps, scratch, |tile| {
                with_buffer(tile.len(), |values| {
                    for (kernel, rows) in of.iter().zip(&mut rows) {
                        kernel.combine(tile, values);
                        rows.extend(values.chunks(row as usize).map(|row| fold_row(row, fold)));
                    }
                });
            })?;
            Ok(rows)
        })?;
        let mut all = vec![Vec::with_capacity((inputs.elements() / row.max(1)) as usize); of.len()];
        for span in spans {
            for (all, rows) in all.iter_mut().zip(span) {
                all.extend(rows);
            }
        }
        Ok(all)
    }
}

fn fold_row(row: &[f32], fold: Fold) -> f64 {
    match fold {
        Fold::Max => f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
        Fold::Sum => {
            let mut lanes = Lanes::default();
            add_values(row, &mut lanes);
            lanes.total()
        }
    }
}

fn pairwise(blocks: &[Vec<f64>], which: usize) -> f64 {
    match blocks {
        [] => 0.0,
        [one] => one[which],
        _ => {
            let (left, right) = blocks.split_at(blocks.len().next_power_of_two() / 2);
            pairwise(left, which) + pairwise(right, which)
        }
    }
}

/// Adds the products of one pair of inputs.
pub(super) fn add_pair(tile: &Tile<'_>, (i, j): (usize, usize), origin: Option<usize>, lanes: &mut Lanes) {
    match origin {
        None => add_products(tile.inputs[i], tile.inputs[j], lanes),
        // a difference from itself is nothing
        Some(origin) if origin == i || origin == j => {}
        Some(origin) => add_difference_products(tile.inputs[i], tile.inputs[j], tile.inputs[origin], lanes),
    }
}

simd_clones! { fn add_products(a: &[f32], b: &[f32], lanes: &mut Lanes) = add_products_body; }
simd_clones! { fn add_difference_products(a: &[f32], b: &[f32], origin: &[f32], lanes: &mut Lanes) = add_difference_products_body; }
simd_clones! { pub(super) fn add_values(values: &[f32], lanes: &mut Lanes) = add_values_body; }

#[inline(always)]
fn add_products_body(a: &[f32], b: &[f32], lanes: &mut Lanes) {
    let b = &b[..a.len()];
    add_terms(a.len(), lanes, |i| (f64::from(a[i]), f64::from(b[i])));
}

/// Differences in f64, so that nearly equal models keep their digits.
#[inline(always)]
fn add_difference_products_body(a: &[f32], b: &[f32], origin: &[f32], lanes: &mut Lanes) {
    let (b, origin) = (&b[..a.len()], &origin[..a.len()]);
    add_terms(a.len(), lanes, |i| {
        let o = f64::from(origin[i]);
        (f64::from(a[i]) - o, f64::from(b[i]) - o)
    });
}

#[inline(always)]
fn add_values_body(values: &[f32], lanes: &mut Lanes) {
    add_terms(values.len(), lanes, |i| (f64::from(values[i]), 1.0));
}

/// Adds the products of `term` to the lanes. A tile may begin inside a group of eight, so that group is filled first.
#[inline(always)]
fn add_terms(length: usize, lanes: &mut Lanes, term: impl Fn(usize) -> (f64, f64)) {
    let add = |i: usize, sum: &mut f64| {
        let (a, b) = term(i);
        *sum = a.mul_add(b, *sum);
    };
    let mut sums = lanes.sums;
    let mut i = 0;
    while i < length && !(lanes.taken + i).is_multiple_of(LANES) {
        add(i, &mut sums[(lanes.taken + i) % LANES]);
        i += 1;
    }
    while i + LANES <= length {
        for (lane, sum) in sums.iter_mut().enumerate() {
            add(i + lane, sum);
        }
        i += LANES;
    }
    for (lane, sum) in sums.iter_mut().enumerate().take(length - i) {
        add(i + lane, sum);
    }
    lanes.sums = sums;
    lanes.taken += length;
}
