//! Takes over the other model where it differs most: the difference times the divergence of its row's softmax, cut at
//! `median + 1.5 (Q3 - Q1)`. After mergekit's Arcee Fusion; no paper. Quantiles are exact here, where mergekit samples
//! large tensors.

use std::ops::Range;
use std::sync::Arc;

use super::{About, Base, Cost, Inputs, Merge, Method, TaskParameters, TooFew};
use crate::kernel::{Kernel, Tile, with_doubles};
use crate::simd::simd_clones;
use crate::special::{self, exp_below};
use crate::statistic::{Reduced, Statistic};

pub struct ArceeFusion;

impl Method for ArceeFusion {
    fn about(&self) -> About {
        About {
            name: "arcee_fusion",
            title: "Arcee Fusion",
            formula: "s = |b-a| KL(softmax(b) || softmax(a)) by rows; out = b where s >= median + 1.5 (Q3-Q1) of s, else a, a the base",
            source: "mergekit's Arcee Fusion; no paper",
            advice: "a base and one fine-tune: takes only what changed most",
            cost: Cost::Selection,
            inputs: Inputs { base: Base::Required, min: 2, max: Some(2) },
            parameters: Vec::new(),
        }
    }

    fn when_too_few(&self) -> TooFew {
        TooFew::CopyTheOne
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("arcee_fusion needs a base")?;
        let (_, row) = parameters.rows();
        Ok(Box::new(FusionMerge { pair: Pair { a: base, b: 1 - base, row }, elements: parameters.elements() }))
    }
}

#[derive(Debug, Clone, Copy)]
struct Pair {
    a: usize,
    b: usize,
    row: u64,
}

#[derive(Debug)]
struct FusionMerge {
    pair: Pair,
    elements: u64,
}

/// Added to every probability, so that none is 0 under the logarithm.
const PROBABILITY_MIN: f64 = 1e-8;

impl Merge for FusionMerge {
    /// Divergences of the rows, then quartiles of the scores.
    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        if self.elements == 0 {
            return None;
        }
        match known {
            [] => {
                let divergence = Arc::new(Divergence { pair: self.pair });
                Some(Statistic::Rows { of: vec![divergence], row: self.pair.row })
            }
            [divergences] => {
                // the element at rank r in ascending order is the least of the n - r largest
                let rank = |q: f64| (q * (self.elements - 1) as f64).floor() as u64;
                let keep = [0.25, 0.5, 0.75].map(|q| (0, self.elements - rank(q))).to_vec();
                Some(Statistic::Cuts { of: vec![Arc::new(self.score(divergences))], keep })
            }
            _ => None,
        }
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        let [divergences, quartiles] = known else {
            return Ok(Box::new(Input(self.pair.a)));
        };
        let [q1, median, q3] = [0, 1, 2].map(|i| f64::from(quartiles.cuts()[i].value()));
        let threshold = (median + 1.5 * (q3 - q1)) as f32;
        Ok(Box::new(Fusion { score: self.score(divergences), threshold }))
    }
}

impl FusionMerge {
    fn score(&self, divergences: &Reduced) -> Score {
        let divergences = divergences.rows()[0].iter().map(|d| *d as f32).collect();
        Score { pair: self.pair, divergences }
    }
}

/// `out = x`.
#[derive(Debug)]
struct Input(usize);

impl Kernel for Input {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        out.copy_from_slice(tile.inputs[self.0]);
    }
}

/// `out = p log(p / q)`, p and q the softmax of b's and a's row.
#[derive(Debug)]
struct Divergence {
    pair: Pair,
}

impl Kernel for Divergence {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let row = self.pair.row as usize;
        let rows = tile.inputs[self.pair.a].chunks(row).zip(tile.inputs[self.pair.b].chunks(row));
        with_doubles(2 * row, |exponentials| {
            let (of_a, of_b) = exponentials.split_at_mut(row);
            for ((a, b), out) in rows.zip(out.chunks_mut(row)) {
                let sum_of_a = exp_below(a, largest(a), of_a);
                let sum_of_b = exp_below(b, largest(b), of_b);
                diverge(of_a, sum_of_a, of_b, sum_of_b, out);
            }
        });
    }

    fn unit(&self) -> u64 {
        self.pair.row
    }
}

/// The rows that a tile touches, each with its part of the tile.
fn parts(tile: &Tile<'_>, row: u64) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (at, end) = (tile.at, tile.at + tile.len() as u64);
    (at / row..end.div_ceil(row)).map(move |r| {
        let part = (r * row).max(at) - at..((r + 1) * row).min(end) - at;
        (r as usize, part.start as usize..part.end as usize)
    })
}

simd_clones! { fn largest(values: &[f32]) -> f64 = largest_body; }
simd_clones! { fn diverge(a: &[f64], sum_of_a: f64, b: &[f64], sum_of_b: f64, out: &mut [f32]) = diverge_body; }
simd_clones! { fn score(a: &[f32], b: &[f32], divergence: f32, out: &mut [f32]) = score_body; }
simd_clones! { fn choose(a: &[f32], b: &[f32], threshold: f32, out: &mut [f32]) = choose_body; }

#[inline(always)]
fn largest_body(values: &[f32]) -> f64 {
    let larger = |largest: f32, value: &f32| if *value > largest { *value } else { largest };
    let (sixteens, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for sixteen in sixteens {
        for (lane, value) in lanes.iter_mut().zip(sixteen) {
            *lane = larger(*lane, value);
        }
    }
    f64::from(lanes.iter().chain(rest).fold(f32::NEG_INFINITY, larger))
}

/// `a` and `b` are exponentials, not yet divided by their sums.
#[inline(always)]
fn diverge_body(a: &[f64], sum_of_a: f64, b: &[f64], sum_of_b: f64, out: &mut [f32]) {
    let (of_a, of_b) = (1.0 / sum_of_a, 1.0 / sum_of_b);
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        let p = b.mul_add(of_b, PROBABILITY_MIN);
        let q = a.mul_add(of_a, PROBABILITY_MIN);
        *out = (p * special::log(p / q)) as f32;
    }
}

#[inline(always)]
fn score_body(a: &[f32], b: &[f32], divergence: f32, out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = (b - a).abs() * divergence;
    }
}

#[inline(always)]
fn choose_body(a: &[f32], b: &[f32], threshold: f32, out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = if *out >= threshold { *b } else { *a };
    }
}

/// `out = |b - a| * divergence of its row`.
#[derive(Debug)]
struct Score {
    pair: Pair,
    divergences: Arc<[f32]>,
}

impl Kernel for Score {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        for (row, part) in parts(tile, self.pair.row) {
            let (a, b) = (&tile.inputs[self.pair.a][part.clone()], &tile.inputs[self.pair.b][part.clone()]);
            score(a, b, self.divergences[row], &mut out[part]);
        }
    }
}

#[derive(Debug)]
struct Fusion {
    score: Score,
    threshold: f32,
}

impl Kernel for Fusion {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        self.score.combine(tile, out);
        choose(tile.inputs[self.score.pair.a], tile.inputs[self.score.pair.b], self.threshold, out);
    }
}
