//! Masks: which elements of a task vector are kept.

use std::sync::Arc;

use super::with_scratch;
use crate::philox::Stream;
use crate::simd::simd_clones;
use crate::statistic::{Cut, TileCut};

/// One stage of a task vector's trim. Stages are applied one after the other.
#[derive(Debug, Clone)]
pub enum Mask {
    /// Magnitudes that the cut keeps. `offset` is where the tensor begins in what the cut was taken over.
    Cut { cut: Cut, offset: u64 },
    /// Magnitudes that the outer cut keeps and the inner one does not: large, but no outliers.
    Band { outer: Cut, inner: Cut },
    /// Each element with the same probability.
    Random { draws: Draws, keep: f32 },
    /// Each element with a probability that rises with its rank.
    Ranked { draws: Draws, ranking: Ranking },
    /// Everything, times a factor.
    Scale(f32),
}

/// Uniform numbers, one for each element of a tensor.
#[derive(Clone)]
pub enum Draws {
    Philox(Stream),
    /// Given from outside, to compare with another implementation's generator.
    Given(Arc<dyn Fn(u64) -> f32 + Send + Sync>),
}

impl std::fmt::Debug for Draws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Draws::Philox(stream) => write!(f, "{stream:?}"),
            Draws::Given(_) => f.write_str("Given"),
        }
    }
}

impl Draws {
    fn fill(&self, at: u64, out: &mut [f32]) {
        match self {
            Draws::Philox(stream) => stream.fill(at, out),
            Draws::Given(number) => out.iter_mut().enumerate().for_each(|(i, u)| *u = number(at + i as u64)),
        }
    }
}

/// Ranks by magnitude within groups of `length` elements that lie `stride` apart; `length * stride` elements are a unit.
/// Of equal magnitudes the one at the lower index ranks lower.
#[derive(Debug, Clone, Copy)]
pub struct Ranking {
    pub length: u64,
    pub stride: u64,
    /// Probability of the lowest rank, and what the highest has more.
    pub lowest: f32,
    pub spread: f32,
    /// Divide what is kept by its probability, so that its mean is what it was.
    pub unbiased: bool,
}

impl Ranking {
    pub fn unit(self) -> u64 {
        self.length * self.stride
    }

    /// Keep-probability of rank r of the group, from 0.
    fn probability(self, rank: usize) -> f32 {
        let place = if self.length > 1 { rank as f32 / (self.length - 1) as f32 } else { 0.5 };
        self.lowest + self.spread * place
    }
}

impl Mask {
    /// Elements that must come together.
    pub fn unit(&self) -> u64 {
        match self {
            Mask::Ranked { ranking, .. } => ranking.unit().max(1),
            Mask::Cut { .. } | Mask::Band { .. } | Mask::Random { .. } | Mask::Scale(_) => 1,
        }
    }

    /// Sets what is dropped to 0; the first delta is element `at` of its tensor.
    pub fn apply(&self, at: u64, deltas: &mut [f32]) {
        match self {
            Mask::Cut { cut, offset } => keep_above(deltas, cut.from(offset + at)),
            Mask::Band { outer, inner } => keep_between(deltas, outer.from(at), inner.from(at)),
            Mask::Random { draws, keep } => with_scratch(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                keep_below(deltas, uniforms, *keep);
            }),
            Mask::Ranked { draws, ranking } => with_scratch(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                keep_by_rank(deltas, uniforms, *ranking);
            }),
            Mask::Scale(factor) => scale(deltas, *factor),
        }
    }
}

fn keep_by_rank(deltas: &mut [f32], uniforms: &[f32], ranking: Ranking) {
    let (length, stride) = (ranking.length as usize, ranking.stride as usize);
    let mut order: Vec<u32> = Vec::with_capacity(length);
    for unit in 0..deltas.len() / (length * stride).max(1) {
        for column in 0..stride {
            let index = |i: u32| unit * length * stride + i as usize * stride + column;
            order.clear();
            order.extend(0..length as u32);
            let magnitude = |i: u32| deltas[index(i)].to_bits() & 0x7fff_ffff;
            order.sort_unstable_by_key(|i| (magnitude(*i), *i));
            for (rank, i) in order.iter().enumerate() {
                let probability = ranking.probability(rank);
                let delta = &mut deltas[index(*i)];
                if uniforms[index(*i)] >= probability {
                    *delta = 0.0;
                } else if ranking.unbiased {
                    *delta /= probability;
                }
            }
        }
    }
}

simd_clones! { fn keep_above(deltas: &mut [f32], cut: TileCut) = keep_above_body; }
simd_clones! { fn keep_between(deltas: &mut [f32], outer: TileCut, inner: TileCut) = keep_between_body; }
simd_clones! { fn keep_below(deltas: &mut [f32], uniforms: &[f32], keep: f32) = keep_below_body; }
simd_clones! { fn scale(deltas: &mut [f32], factor: f32) = scale_body; }

#[inline(always)]
fn keep_above_body(deltas: &mut [f32], cut: TileCut) {
    for (i, d) in deltas.iter_mut().enumerate() {
        *d = if cut.keeps(*d, i) { *d } else { 0.0 };
    }
}

#[inline(always)]
fn keep_between_body(deltas: &mut [f32], outer: TileCut, inner: TileCut) {
    for (i, d) in deltas.iter_mut().enumerate() {
        *d = if outer.keeps(*d, i) && !inner.keeps(*d, i) { *d } else { 0.0 };
    }
}

#[inline(always)]
fn keep_below_body(deltas: &mut [f32], uniforms: &[f32], keep: f32) {
    for (d, u) in deltas.iter_mut().zip(uniforms) {
        *d = if *u < keep { *d } else { 0.0 };
    }
}

#[inline(always)]
fn scale_body(deltas: &mut [f32], factor: f32) {
    for d in deltas {
        *d *= factor;
    }
}
