//! Sums in f64: 32 lanes inside a block, lanes and blocks added pairwise.

use std::ops::Range;
use std::sync::Arc;

use super::{Cpu, ExecuteError, TensorInputs, Tile};
use crate::kernel::{Kept, Kernel, Kernels, Mask, TaskVector, subtract, with_bits, with_buffer, with_doubles};
use crate::simd::{self, keep_bits, simd_clones};
use crate::statistic::{Gram, Norms};

const LANES: usize = simd::SUM_LANES;

/// The share of the memory that what masks keep may take.
const KEPT_SHARE: u64 = 2;

/// Elements whose differences are taken at a time, for products: few, so that those of many inputs stay in the L1 cache.
const STRIP: usize = 256;

/// A running sum of one block, or of one row.
#[derive(Clone, Copy, Default)]
pub(super) struct Lanes {
    sums: [f64; LANES],
    /// Elements taken so far: element i of the block always lands in lane i % 32, whatever the tiles were.
    taken: usize,
}

impl Lanes {
    pub(super) fn total(&self) -> f64 {
        let mut sums = self.sums;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                sums[i] += sums[i + half];
            }
            half /= 2;
        }
        sums[0]
    }

    /// Adds so many elements: `one` adds the element at an index to its lane, `whole` a range of whole groups to all lanes.
    fn add(
        &mut self,
        length: usize,
        one: impl Fn(usize, &mut f64),
        whole: impl FnOnce(Range<usize>, &mut [f64; LANES]),
    ) {
        // a tile may begin inside a group, so that group is filled first
        let head = ((LANES - self.taken % LANES) % LANES).min(length);
        let end = head + (length - head) / LANES * LANES;
        for i in 0..head {
            one(i, &mut self.sums[(self.taken + i) % LANES]);
        }
        whole(head..end, &mut self.sums);
        for i in end..length {
            one(i, &mut self.sums[i - end]);
        }
        self.taken += length;
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
        let sums = self.block_sums(inputs, 1, pairs.len(), |tile, lanes| add_pairs(tile, &pairs, origin, lanes))?;
        Ok(Gram::from_pairs(inputs.count(), sums))
    }

    /// Sums of what the kernels make.
    pub(super) fn sums(&self, inputs: &dyn TensorInputs, of: &dyn Kernels) -> Result<Vec<f64>, ExecuteError> {
        self.block_sums(inputs, of.unit(), of.count(), |tile, lanes| {
            of.each(tile, &mut |which, values| add_values(values, &mut lanes[which]));
        })
    }

    /// L1 norms before and after masks.
    pub(super) fn norms(&self, inputs: &dyn TensorInputs, of: &[TaskVector]) -> Result<Vec<Norms>, ExecuteError> {
        let unit = of.iter().map(|k| k.unit()).max().unwrap_or(1);
        let dear = |vector: &&TaskVector| vector.masks.iter().any(Mask::is_dear);
        let bytes = of.iter().filter(dear).count() as u64 * Kept::bytes(inputs.elements());
        let has_room = bytes <= self.memory / KEPT_SHARE / self.threads;
        let kept: Vec<Option<Arc<Kept>>> = of
            .iter()
            .map(|vector| (has_room && dear(&vector)).then(|| Arc::new(Kept::none(inputs.elements()))))
            .collect();
        let sums = self.block_sums(inputs, unit, 2 * of.len(), |tile, lanes| {
            with_buffer(tile.len(), |deltas| {
                for ((vector, kept), lanes) in of.iter().zip(&kept).zip(lanes.as_chunks_mut::<2>().0) {
                    add_norms(vector, tile, kept.as_deref(), deltas, lanes);
                }
            });
        })?;
        let norms = sums.as_chunks::<2>().0.iter().zip(kept);
        Ok(norms.map(|([whole, masked], kept)| Norms { whole: *whole, masked: *masked, kept }).collect())
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
    ) -> Result<Vec<Vec<f64>>, ExecuteError> {
        let steps = self.steps(row);
        let spans = self.map_spans(inputs.elements(), steps.span, |span, scratch| {
            let mut rows = vec![Vec::new(); of.len()];
            self.each_tile(inputs, span, steps, scratch, |tile| {
                with_buffer(tile.len(), |values| {
                    for (kernel, rows) in of.iter().zip(&mut rows) {
                        kernel.combine(tile, values);
                        rows.extend(values.chunks(row as usize).map(sum));
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

/// Adds the magnitudes of all deltas to the first lanes, of those that are kept to the second.
fn add_norms(
    vector: &TaskVector,
    tile: &Tile<'_>,
    kept: Option<&Kept>,
    deltas: &mut [f32],
    [whole, masked]: &mut [Lanes; 2],
) {
    subtract(tile.inputs[vector.input], tile.inputs[vector.base], deltas);
    with_bits(deltas.len(), |bits| {
        let mask = vector.masks.first();
        if let Some(mask) = mask {
            mask.choose(tile.at, deltas, bits);
        }
        make_magnitudes(deltas);
        add_values(deltas, whole);
        if mask.is_some() {
            keep_bits(deltas, bits);
        }
        add_values(deltas, masked);
        if let Some(kept) = kept {
            kept.keep(tile.at, deltas.len(), bits);
        }
    });
}

simd_clones! { fn make_magnitudes(values: &mut [f32]) = make_magnitudes_body; }

#[inline(always)]
fn make_magnitudes_body(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = value.abs());
}

fn sum(row: &[f32]) -> f64 {
    let mut lanes = Lanes::default();
    add_values(row, &mut lanes);
    lanes.total()
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

/// Adds the products of each pair of inputs, or of their differences from `origin`, to the lanes of that pair. Differences
/// are taken in f64, so that nearly equal models keep their digits.
pub(super) fn add_pairs(tile: &Tile<'_>, pairs: &[(usize, usize)], origin: Option<usize>, lanes: &mut [Lanes]) {
    let count = tile.inputs.len();
    with_doubles(count * STRIP, |strips| {
        for start in (0..tile.len()).step_by(STRIP) {
            let part = start..(start + STRIP).min(tile.len());
            let length = part.len();
            for (input, strip) in tile.inputs.iter().zip(strips.chunks_mut(STRIP)) {
                match origin {
                    None => widen(&input[part.clone()], strip),
                    Some(origin) => differ(&input[part.clone()], &tile.inputs[origin][part.clone()], strip),
                }
            }
            // a difference from itself is nothing
            let counts = |i: usize| origin != Some(i);
            for ((i, j), lanes) in pairs.iter().zip(&mut *lanes).filter(|((i, j), _)| counts(*i) && counts(*j)) {
                add_products(&strips[i * STRIP..][..length], &strips[j * STRIP..][..length], lanes);
            }
        }
    });
}

simd_clones! { fn widen(values: &[f32], out: &mut [f64]) = widen_body; }
simd_clones! { fn differ(values: &[f32], origin: &[f32], out: &mut [f64]) = differ_body; }
#[inline(always)]
fn widen_body(values: &[f32], out: &mut [f64]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = f64::from(*value);
    }
}

#[inline(always)]
fn differ_body(values: &[f32], origin: &[f32], out: &mut [f64]) {
    for ((out, value), origin) in out.iter_mut().zip(values).zip(origin) {
        *out = f64::from(*value) - f64::from(*origin);
    }
}

fn add_products(a: &[f64], b: &[f64], lanes: &mut Lanes) {
    let b = &b[..a.len()];
    lanes.add(
        a.len(),
        |i, sum| *sum = a[i].mul_add(b[i], *sum),
        |whole, sums| simd::add_products(a[whole.clone()].as_chunks().0, b[whole].as_chunks().0, sums),
    );
}

fn add_values(values: &[f32], lanes: &mut Lanes) {
    lanes.add(
        values.len(),
        |i, sum| *sum += f64::from(values[i]),
        |whole, sums| simd::add_values(values[whole].as_chunks().0, sums),
    );
}
