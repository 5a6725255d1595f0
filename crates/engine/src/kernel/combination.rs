//! Linear combinations of the inputs.

use std::sync::Arc;

use super::{Kernel, Tile};
use crate::simd::simd_clones;
use crate::statistic::Vectors;

/// `out = c x`: a factor of 1 leaves every number as it is, the sign of zero too.
#[derive(Debug)]
pub struct Scaled(pub f32);

impl Kernel for Scaled {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(tile.inputs[0]) {
            *out = x * self.0;
        }
    }
}

/// `out = (sum over i of c_i x_i) / divisor`, fused multiply-adds in the order of the inputs, starting at 0.
/// Moves k reads and one write per element.
#[derive(Debug)]
pub struct WeightedSum {
    pub coefficients: Vec<f32>,
    pub divisor: Option<f32>,
}

impl Kernel for WeightedSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        out.fill(0.0);
        for (input, coefficient) in tile.inputs.iter().zip(&self.coefficients) {
            add_scaled(input, *coefficient, out);
        }
        if let Some(divisor) = self.divisor {
            divide(out, divisor);
        }
    }
}

/// `out = sum over i of c_i[v] x_i`, each vector v of the tensor with coefficients of its own.
#[derive(Debug)]
pub struct VectorSum {
    pub vectors: Vectors,
    /// For each input, one for each vector.
    pub coefficients: Vec<Arc<[f32]>>,
}

impl Kernel for VectorSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        out.fill(0.0);
        for (input, coefficients) in tile.inputs.iter().zip(&self.coefficients) {
            add_by_vector(self.vectors, tile.at, input, coefficients, out);
        }
    }
}

/// Adds the elements from `at` of the tensor on, each times the coefficient of its vector.
pub(super) fn add_by_vector(vectors: Vectors, at: u64, x: &[f32], coefficients: &[f32], sum: &mut [f32]) {
    for (part, of) in vectors.parts(at, x.len()) {
        let (x, sum) = (&x[part.clone()], &mut sum[part]);
        match coefficients[of] {
            [coefficient] => add_scaled(x, coefficient, sum),
            ref each => add_weighted(x, each, sum),
        }
    }
}

simd_clones! { pub(crate) fn add_scaled(x: &[f32], coefficient: f32, sum: &mut [f32]) = add_scaled_body; }
simd_clones! { fn add_weighted(x: &[f32], coefficients: &[f32], sum: &mut [f32]) = add_weighted_body; }
simd_clones! { pub(crate) fn divide(sum: &mut [f32], divisor: f32) = divide_body; }

#[inline(always)]
fn add_scaled_body(x: &[f32], coefficient: f32, sum: &mut [f32]) {
    for (s, x) in sum.iter_mut().zip(x) {
        *s = x.mul_add(coefficient, *s);
    }
}

#[inline(always)]
fn add_weighted_body(x: &[f32], coefficients: &[f32], sum: &mut [f32]) {
    for ((s, x), coefficient) in sum.iter_mut().zip(x).zip(coefficients) {
        *s = x.mul_add(*coefficient, *s);
    }
}

#[inline(always)]
fn divide_body(sum: &mut [f32], divisor: f32) {
    for s in sum {
        *s /= divisor;
    }
}
