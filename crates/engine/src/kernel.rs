//! Kernels: how one output element comes from the input elements at the same place.

use crate::simd::simd_clones;
use crate::statistic::Cut;

/// Elements one kernel call handles at most: a few inputs of this length stay in the L1 cache.
pub const TILE_MAX: usize = 2048;

/// The same span of every input, as f32.
pub struct Tile<'a> {
    pub inputs: &'a [&'a [f32]],
    /// Index of the first element in its tensor.
    pub at: u64,
}

/// An elementwise function with its coefficients. The result for an element depends on that element's inputs and index
/// alone, never on the tile it came in.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// `out` has the length of each input, at most [`TILE_MAX`].
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]);
}

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

/// `out = base + scale (sum over i of c_i kept(x_i - base)) / divisor`: task vectors, trimmed and added.
#[derive(Debug)]
pub struct TaskVectorSum {
    pub base: usize,
    pub vectors: Vec<TaskVector>,
    pub divisor: Option<f32>,
    pub scale: f32,
}

/// One input as a delta from the base.
#[derive(Debug, Clone)]
pub struct TaskVector {
    pub input: usize,
    /// What the delta is multiplied with: the weight, and the rescale of the trim.
    pub coefficient: f32,
    /// What it adds to the divisor of an elected mean.
    pub weight: f32,
    pub cut: Option<Cut>,
}

impl Kernel for TaskVectorSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        out.fill(0.0);
        for vector in &self.vectors {
            let cut = vector.cut.unwrap_or(Cut::KEEP_ALL).from(tile.at);
            add_task_vector(tile.inputs[vector.input], base, cut, vector.coefficient, out);
        }
        if let Some(divisor) = self.divisor {
            divide(out, divisor);
        }
        add_scaled_to(base, self.scale, out);
    }
}

/// Like [`TaskVectorSum`], but an element takes only the task vectors whose sign is that of their sum (0 counts as
/// plus), and with `normalize` divides by the weights of those that it took.
#[derive(Debug)]
pub struct ElectedSum {
    pub base: usize,
    pub vectors: Vec<TaskVector>,
    pub normalize: bool,
    pub scale: f32,
}

impl Kernel for ElectedSum {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        let mut mass = [0.0; TILE_MAX];
        let mass = &mut mass[..out.len()];
        for vector in &self.vectors {
            let cut = vector.cut.unwrap_or(Cut::KEEP_ALL).from(tile.at);
            add_mass(tile.inputs[vector.input], base, cut, vector.coefficient, mass);
        }
        let mut divisor = [0.0; TILE_MAX];
        let divisor = &mut divisor[..out.len()];
        out.fill(0.0);
        for vector in &self.vectors {
            let cut = vector.cut.unwrap_or(Cut::KEEP_ALL).from(tile.at);
            let coefficients = (vector.coefficient, vector.weight);
            add_elected(tile.inputs[vector.input], base, cut, coefficients, mass, out, divisor);
        }
        if self.normalize {
            divide_where_set(out, divisor);
        }
        add_scaled_to(base, self.scale, out);
    }
}

simd_clones! { fn add_scaled(x: &[f32], coefficient: f32, sum: &mut [f32]) = add_scaled_body; }
simd_clones! { fn divide(sum: &mut [f32], divisor: f32) = divide_body; }
simd_clones! { fn add_task_vector(x: &[f32], base: &[f32], cut: crate::statistic::TileCut, coefficient: f32, sum: &mut [f32]) = add_task_vector_body; }
simd_clones! { fn add_scaled_to(base: &[f32], scale: f32, sum: &mut [f32]) = add_scaled_to_body; }
simd_clones! { fn add_mass(x: &[f32], base: &[f32], cut: crate::statistic::TileCut, coefficient: f32, mass: &mut [f32]) = add_mass_body; }
simd_clones! { fn add_elected(x: &[f32], base: &[f32], cut: crate::statistic::TileCut, coefficients: (f32, f32), mass: &[f32], sum: &mut [f32], divisor: &mut [f32]) = add_elected_body; }
simd_clones! { fn divide_where_set(sum: &mut [f32], divisor: &[f32]) = divide_where_set_body; }

#[inline(always)]
fn add_scaled_body(x: &[f32], coefficient: f32, sum: &mut [f32]) {
    for (s, x) in sum.iter_mut().zip(x) {
        *s = x.mul_add(coefficient, *s);
    }
}

#[inline(always)]
fn divide_body(sum: &mut [f32], divisor: f32) {
    for s in sum {
        *s /= divisor;
    }
}

/// An element's delta where its cut keeps it, else 0.
#[inline(always)]
fn kept_delta(x: f32, base: f32, cut: crate::statistic::TileCut, index: usize) -> f32 {
    let delta = x - base;
    if cut.keeps(delta, index) { delta } else { 0.0 }
}

#[inline(always)]
fn add_task_vector_body(x: &[f32], base: &[f32], cut: crate::statistic::TileCut, coefficient: f32, sum: &mut [f32]) {
    for (i, ((s, x), base)) in sum.iter_mut().zip(x).zip(base).enumerate() {
        *s = kept_delta(*x, *base, cut, i).mul_add(coefficient, *s);
    }
}

#[inline(always)]
fn add_scaled_to_body(base: &[f32], scale: f32, sum: &mut [f32]) {
    for (s, base) in sum.iter_mut().zip(base) {
        *s = s.mul_add(scale, *base);
    }
}

#[inline(always)]
fn add_mass_body(x: &[f32], base: &[f32], cut: crate::statistic::TileCut, coefficient: f32, mass: &mut [f32]) {
    for (i, ((m, x), base)) in mass.iter_mut().zip(x).zip(base).enumerate() {
        *m += kept_delta(*x, *base, cut, i) * coefficient;
    }
}

#[inline(always)]
fn add_elected_body(
    x: &[f32],
    base: &[f32],
    cut: crate::statistic::TileCut,
    (coefficient, weight): (f32, f32),
    mass: &[f32],
    sum: &mut [f32],
    divisor: &mut [f32],
) {
    for (i, ((((s, d), m), x), base)) in sum.iter_mut().zip(divisor).zip(mass).zip(x).zip(base).enumerate() {
        let vote = kept_delta(*x, *base, cut, i) * coefficient;
        let elected = if *m >= 0.0 { vote > 0.0 } else { vote < 0.0 };
        *s += if elected { vote } else { 0.0 };
        *d += if elected { weight } else { 0.0 };
    }
}

#[inline(always)]
fn divide_where_set_body(sum: &mut [f32], divisor: &[f32]) {
    for (s, d) in sum.iter_mut().zip(divisor) {
        *s /= if *d == 0.0 { 1.0 } else { *d };
    }
}
