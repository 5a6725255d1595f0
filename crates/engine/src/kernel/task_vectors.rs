//! Sums of task vectors on top of a base.

use std::sync::Arc;

use super::combination::{add_by_vector, add_scaled, divide};
use super::{Kernel, Mask, Tile, with_buffer, with_scratch};
use crate::simd::simd_clones;
use crate::statistic::Vectors;

/// One input as a delta from the base, masked in stages.
#[derive(Debug, Clone)]
pub struct TaskVector {
    pub input: usize,
    pub base: usize,
    /// What the masked delta is multiplied with.
    pub coefficient: f32,
    /// What it adds to the divisor of an elected mean.
    pub weight: f32,
    pub masks: Vec<Mask>,
}

impl TaskVector {
    pub fn plain(input: usize, base: usize, weight: f32) -> TaskVector {
        TaskVector { input, base, coefficient: weight, weight, masks: Vec::new() }
    }

    fn write_masked(&self, tile: &Tile<'_>, deltas: &mut [f32]) {
        subtract(tile.inputs[self.input], tile.inputs[self.base], deltas);
        for mask in &self.masks {
            mask.apply(tile.at, deltas);
        }
    }

    fn masks_unit(&self) -> u64 {
        self.masks.iter().map(Mask::unit).max().unwrap_or(1)
    }
}

/// `out = masked(x - base)`: what cuts and norms of a task vector are taken of.
impl Kernel for TaskVector {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        self.write_masked(tile, out);
    }

    fn unit(&self) -> u64 {
        self.masks_unit()
    }
}

fn unit_of(vectors: &[TaskVector]) -> u64 {
    vectors.iter().map(TaskVector::masks_unit).max().unwrap_or(1)
}

/// `out = base + scale (sum over i of c_i masked(x_i - base)) / divisor`.
#[derive(Debug)]
pub struct TaskVectorSum {
    pub base: usize,
    pub vectors: Vec<TaskVector>,
    pub divisor: Option<f32>,
    pub scale: f32,
}

impl Kernel for TaskVectorSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        self.write_sum(tile, out);
        add_to_base(tile.inputs[self.base], self.scale, out);
    }

    fn unit(&self) -> u64 {
        unit_of(&self.vectors)
    }
}

impl TaskVectorSum {
    /// The sum alone, neither scaled nor on top of the base.
    pub(crate) fn write_sum(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        out.fill(0.0);
        for vector in &self.vectors {
            if vector.masks.is_empty() {
                add_delta(tile.inputs[vector.input], base, vector.coefficient, out);
                continue;
            }
            with_buffer(out.len(), |deltas| {
                vector.write_masked(tile, deltas);
                add_scaled(deltas, vector.coefficient, out);
            });
        }
        if let Some(divisor) = self.divisor {
            divide(out, divisor);
        }
    }
}

/// `out = base + sum over i of c_i[v] (x_i - base)`, each vector v of the tensor with coefficients of its own.
#[derive(Debug)]
pub struct VectorTaskSum {
    pub base: usize,
    pub vectors: Vectors,
    /// For each input, one for each vector; none for the base.
    pub coefficients: Vec<Option<Arc<[f32]>>>,
}

impl Kernel for VectorTaskSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        out.copy_from_slice(base);
        with_buffer(out.len(), |deltas| {
            for (input, coefficients) in tile.inputs.iter().zip(&self.coefficients) {
                let Some(coefficients) = coefficients else { continue };
                subtract(input, base, deltas);
                add_by_vector(self.vectors, tile.at, deltas, coefficients, out);
            }
        });
    }
}

/// How the sign of an element is elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// By the sum of the weighted deltas.
    Mass,
    /// By the number of weighted deltas of each sign.
    Count,
}

/// Like [`TaskVectorSum`], but an element takes only the task vectors of the elected sign (a draw counts as plus), and
/// with `normalize` divides by the weights of those that it took.
#[derive(Debug)]
pub struct ElectedSum {
    pub base: usize,
    pub vectors: Vec<TaskVector>,
    pub election: Election,
    pub normalize: bool,
    pub scale: f32,
}

impl Kernel for ElectedSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        self.write_sum(tile, out);
        add_to_base(tile.inputs[self.base], self.scale, out);
    }

    fn unit(&self) -> u64 {
        unit_of(&self.vectors)
    }
}

impl ElectedSum {
    /// The elected sum alone, neither scaled nor on top of the base.
    pub(crate) fn write_sum(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let length = out.len();
        // the votes of every vector, then the ballot, then the divisor
        with_buffer((self.vectors.len() + 2) * length, |buffer| {
            let (votes, sums) = buffer.split_at_mut(self.vectors.len() * length);
            sums.fill(0.0);
            let (ballot, divisor) = sums.split_at_mut(length);
            for (vector, votes) in self.vectors.iter().zip(votes.chunks_mut(length)) {
                vector.write_masked(tile, votes);
                match self.election {
                    Election::Mass => vote_by_mass(votes, vector.coefficient, ballot),
                    Election::Count => vote_by_count(votes, vector.coefficient, ballot),
                }
            }
            out.fill(0.0);
            for (vector, votes) in self.vectors.iter().zip(votes.chunks(length)) {
                add_elected(votes, vector.weight, ballot, out, divisor);
            }
            if self.normalize {
                divide_where_set(out, divisor);
            }
        });
    }
}

/// A merged task vector.
#[derive(Debug)]
pub enum MergedVector {
    Sum(TaskVectorSum),
    Elected(ElectedSum),
}

/// TALL masks: the merged vector where it matters to enough of the tasks. Task k finds an element important when
/// `|x_k - base| > lambda |merged - (x_k - base)|`.
#[derive(Debug)]
pub struct Consensus {
    pub base: usize,
    pub vectors: Vec<TaskVector>,
    pub merged: MergedVector,
    pub mask_lambda: f32,
    pub agreeing_min: f32,
    pub scale: f32,
}

impl Kernel for Consensus {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        match &self.merged {
            MergedVector::Sum(sum) => sum.write_sum(tile, out),
            MergedVector::Elected(sum) => sum.write_sum(tile, out),
        }
        let base = tile.inputs[self.base];
        with_scratch(out.len(), |agreeing| {
            for vector in &self.vectors {
                for (((n, merged), x), base) in agreeing.iter_mut().zip(&*out).zip(tile.inputs[vector.input]).zip(base)
                {
                    let delta = (x - base) * vector.weight;
                    *n += if delta.abs() > self.mask_lambda * (merged - delta).abs() { 1.0 } else { 0.0 };
                }
            }
            for (out, n) in out.iter_mut().zip(agreeing) {
                *out = if *n >= self.agreeing_min { *out } else { 0.0 };
            }
        });
        add_to_base(base, self.scale, out);
    }

    fn unit(&self) -> u64 {
        match &self.merged {
            MergedVector::Sum(sum) => sum.unit(),
            MergedVector::Elected(sum) => sum.unit(),
        }
    }
}

simd_clones! { pub(crate) fn subtract(x: &[f32], base: &[f32], deltas: &mut [f32]) = subtract_body; }
simd_clones! { fn add_delta(x: &[f32], base: &[f32], coefficient: f32, sum: &mut [f32]) = add_delta_body; }
simd_clones! { pub(crate) fn add_to_base(base: &[f32], scale: f32, sum: &mut [f32]) = add_to_base_body; }
simd_clones! { fn vote_by_mass(votes: &mut [f32], coefficient: f32, ballot: &mut [f32]) = vote_by_mass_body; }
simd_clones! { fn vote_by_count(votes: &mut [f32], coefficient: f32, ballot: &mut [f32]) = vote_by_count_body; }
simd_clones! { fn add_elected(votes: &[f32], weight: f32, ballot: &[f32], sum: &mut [f32], divisor: &mut [f32]) = add_elected_body; }
simd_clones! { fn divide_where_set(sum: &mut [f32], divisor: &[f32]) = divide_where_set_body; }

#[inline(always)]
fn subtract_body(x: &[f32], base: &[f32], deltas: &mut [f32]) {
    for ((d, x), base) in deltas.iter_mut().zip(x).zip(base) {
        *d = x - base;
    }
}

#[inline(always)]
fn add_delta_body(x: &[f32], base: &[f32], coefficient: f32, sum: &mut [f32]) {
    for ((s, x), base) in sum.iter_mut().zip(x).zip(base) {
        *s = (x - base).mul_add(coefficient, *s);
    }
}

#[inline(always)]
fn add_to_base_body(base: &[f32], scale: f32, sum: &mut [f32]) {
    for (s, base) in sum.iter_mut().zip(base) {
        *s = s.mul_add(scale, *base);
    }
}

/// Turns deltas into votes, in place.
#[inline(always)]
fn vote_by_mass_body(votes: &mut [f32], coefficient: f32, ballot: &mut [f32]) {
    for (v, b) in votes.iter_mut().zip(ballot) {
        *v *= coefficient;
        *b += *v;
    }
}

#[inline(always)]
fn vote_by_count_body(votes: &mut [f32], coefficient: f32, ballot: &mut [f32]) {
    for (v, b) in votes.iter_mut().zip(ballot) {
        *v *= coefficient;
        *b += if *v > 0.0 {
            1.0
        } else if *v < 0.0 {
            -1.0
        } else {
            0.0
        };
    }
}

#[inline(always)]
fn add_elected_body(votes: &[f32], weight: f32, ballot: &[f32], sum: &mut [f32], divisor: &mut [f32]) {
    for (((s, d), b), v) in sum.iter_mut().zip(divisor).zip(ballot).zip(votes) {
        let elected = if *b >= 0.0 { *v > 0.0 } else { *v < 0.0 };
        *s += if elected { *v } else { 0.0 };
        *d += if elected { weight } else { 0.0 };
    }
}

#[inline(always)]
fn divide_where_set_body(sum: &mut [f32], divisor: &[f32]) {
    for (s, d) in sum.iter_mut().zip(divisor) {
        *s /= if *d == 0.0 { 1.0 } else { *d };
    }
}
