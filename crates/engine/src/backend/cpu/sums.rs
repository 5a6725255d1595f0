//! Sums in f64: eight lanes inside a block, lanes and blocks added pairwise.

use super::{BLOCK, Cpu, Cut, ExecuteError, Gram, L1, TensorInputs};
use crate::simd::simd_clones;
use crate::statistic::TileCut;

const LANES: usize = 8;

/// A running sum of one block.
#[derive(Clone, Copy, Default)]
struct Lanes {
    sums: [f64; LANES],
    /// Elements taken so far: element i of the block always lands in lane i % 8, whatever the tiles were.
    taken: usize,
}

impl Lanes {
    fn total(&self) -> f64 {
        let s = self.sums;
        ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
    }
}

impl Cpu {
    /// Inner products of every pair of inputs.
    pub(super) fn gram(&self, inputs: &dyn TensorInputs) -> Result<Gram, ExecuteError> {
        let size = inputs.count();
        let pairs: Vec<(usize, usize)> = (0..size).flat_map(|i| (i..size).map(move |j| (i, j))).collect();
        let sums = self.block_sums(inputs, pairs.len(), |_, tile, lanes| {
            for ((i, j), lanes) in pairs.iter().zip(lanes) {
                add_products(tile[*i], tile[*j], lanes);
            }
        })?;
        let mut products = vec![0.0; size * size];
        for ((i, j), sum) in pairs.iter().zip(sums) {
            products[i * size + j] = sum;
            products[j * size + i] = sum;
        }
        Ok(Gram { size, products })
    }

    /// Sums of |x - origin|, all and kept, for each input that has a cut.
    pub(super) fn l1(
        &self,
        inputs: &dyn TensorInputs,
        origin: usize,
        cuts: &[Option<Cut>],
    ) -> Result<Vec<L1>, ExecuteError> {
        let sums = self.block_sums(inputs, 2 * inputs.count(), |at, tile, lanes| {
            for ((cut, lanes), x) in cuts.iter().zip(lanes.as_chunks_mut::<2>().0).zip(tile) {
                if let Some(cut) = cut {
                    add_magnitudes(x, tile[origin], cut.from(at), lanes);
                }
            }
        })?;
        Ok(sums.chunks(2).map(|pair| L1 { all: pair[0], kept: pair[1] }).collect())
    }

    /// `sums` numbers over all elements: `add` takes a tile into the lanes of its block.
    fn block_sums(
        &self,
        inputs: &dyn TensorInputs,
        sums: usize,
        add: impl Fn(u64, &[&[f32]], &mut [Lanes]) + Sync,
    ) -> Result<Vec<f64>, ExecuteError> {
        let spans = self.map_spans(inputs.elements(), |span, scratch| {
            let mut blocks: Vec<Vec<f64>> = Vec::new();
            let mut lanes = vec![Lanes::default(); sums];
            let end = span.end;
            self.each_tile(inputs, span, scratch, |at, tile| {
                add(at, tile, &mut lanes);
                let next = at + tile[0].len() as u64;
                if next.is_multiple_of(BLOCK) || next == end {
                    blocks.push(lanes.iter().map(Lanes::total).collect());
                    lanes.fill(Lanes::default());
                }
            })?;
            Ok(blocks)
        })?;
        let blocks: Vec<Vec<f64>> = spans.into_iter().flatten().collect();
        Ok((0..sums).map(|which| pairwise(&blocks, which)).collect())
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

simd_clones! { fn add_products(a: &[f32], b: &[f32], lanes: &mut Lanes) = add_products_body; }
simd_clones! { fn add_magnitudes(x: &[f32], origin: &[f32], cut: TileCut, lanes: &mut [Lanes; 2]) = add_magnitudes_body; }

#[inline(always)]
fn add_products_body(a: &[f32], b: &[f32], lanes: &mut Lanes) {
    let b = &b[..a.len()];
    add_terms(a.len(), lanes, |i| (f64::from(a[i]), f64::from(b[i])));
}

/// Lanes of all elements, and of those that the cut keeps.
#[inline(always)]
fn add_magnitudes_body(x: &[f32], origin: &[f32], cut: TileCut, [all, kept]: &mut [Lanes; 2]) {
    let origin = &origin[..x.len()];
    add_terms(x.len(), all, |i| (f64::from((x[i] - origin[i]).abs()), 1.0));
    add_terms(x.len(), kept, |i| {
        let delta = x[i] - origin[i];
        (if cut.keeps(delta, i) { f64::from(delta.abs()) } else { 0.0 }, 1.0)
    });
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
