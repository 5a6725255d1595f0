//! SCE: select the elements in which the models vary most, weigh each model by its energy, erase what is against the
//! elected sign. Wan et al. 2024, "FuseChat", arXiv:2408.07990.

use std::sync::Arc;

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, Kernels, Tile, add_scaled, divide as divide_all, subtract, with_buffer, with_scratch};
use crate::simd::simd_clones;
use crate::statistic::{Cut, Reduced, Statistic, TileCut};

pub struct Sce;

impl Method for Sce {
    fn about(&self) -> About {
        About {
            name: "sce",
            title: "SCE (select, calculate, erase)",
            formula: "keep the select_topk elements of largest variance over models; c_i = mean of delta_i^2, normalised; out = base + (sum of c_i delta_i of the elected sign) / (sum of those c_i)",
            source: "https://arxiv.org/abs/2408.07990",
            advice: "fine-tunes of one base without weights to choose; select_topk 0.1 to 1",
            cost: Cost::Selection,
            inputs: Inputs { base: Base::Required, min: 1, max: None },
            parameters: vec![
                Parameter::number(
                    "select_topk",
                    Scope::Shared,
                    Default::Number(1.0),
                    "share of the elements that vary at all which is kept",
                ),
                Parameter::boolean("int8_mask", false, "accepted for mergekit recipes; changes no number"),
            ],
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("sce needs a base")?;
        let others: Arc<[usize]> = parameters.others().into();
        let topk = parameters.number("select_topk");
        let selects = topk < 1.0;
        Ok(Box::new(SceMerge { base, others, topk, selects, elements: parameters.elements() }))
    }
}

#[derive(Debug)]
struct SceMerge {
    base: usize,
    others: Arc<[usize]>,
    topk: f64,
    selects: bool,
    elements: u64,
}

impl Merge for SceMerge {
    fn copies(&self) -> Option<usize> {
        (self.others.is_empty() || self.topk <= 0.0).then_some(self.base)
    }

    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        let variance = || Variance { base: self.base, others: self.others.clone() };
        if self.copies().is_some() {
            return None;
        }
        match (self.selects, known.len()) {
            (true, 0) => Some(Statistic::Sums { of: Arc::new(vec![Arc::new(Varies(variance())) as Arc<dyn Kernel>]) }),
            (true, 1) => {
                let count = (known[0].sums()[0] * self.topk) as u64;
                Some(Statistic::Cuts { of: vec![Arc::new(variance())], keep: vec![(0, count)] })
            }
            (true, 2) | (false, 0) => Some(Statistic::Sums { of: Arc::new(Energies(self.selected(known))) }),
            _ => None,
        }
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        if self.copies().is_some() {
            return Ok(Box::new(SceKernel { selected: self.selected(known), weights: Vec::new() }));
        }
        let energies = known.last().expect("asked for before the kernel").sums();
        let mean: Vec<f64> = energies.iter().map(|e| e / self.elements.max(1) as f64).collect();
        let sum: f64 = mean.iter().sum();
        let equal = 1.0 / self.others.len() as f64;
        let weights = mean.iter().map(|m| (if sum < ENERGY_MIN { equal } else { m / sum }) as f32).collect();
        Ok(Box::new(SceKernel { selected: self.selected(known), weights }))
    }
}

/// Below this mean energy the models count as equally strong, as mergekit does it.
const ENERGY_MIN: f64 = 1e-6;

impl SceMerge {
    fn selected(&self, known: &[Reduced]) -> Selected {
        let cut = if self.selects && known.len() > 1 { known[1].cuts()[0] } else { Cut::KEEP_ALL };
        Selected { variance: Variance { base: self.base, others: self.others.clone() }, cut, selects: self.selects }
    }
}

/// Population variance of the deltas, over the models.
#[derive(Debug, Clone)]
struct Variance {
    base: usize,
    others: Arc<[usize]>,
}

impl Kernel for Variance {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        let n = self.others.len() as f32;
        with_scratch(out.len(), |means| {
            for input in self.others.iter() {
                add_difference(tile.inputs[*input], base, means);
            }
            divide_all(means, n);
            out.fill(0.0);
            for input in self.others.iter() {
                add_square_off(tile.inputs[*input], base, means, 1.0 / n, out);
            }
        });
    }
}

#[derive(Debug)]
struct Varies(Variance);

impl Kernel for Varies {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        self.0.combine(tile, out);
        mark_non_zero(out);
    }
}

/// Deltas where the variance is among the largest, 0 elsewhere.
#[derive(Debug, Clone)]
struct Selected {
    variance: Variance,
    cut: Cut,
    selects: bool,
}

impl Selected {
    /// 1 where selected.
    fn write_mask(&self, tile: &Tile<'_>, mask: &mut [f32]) {
        if !self.selects {
            return mask.fill(1.0);
        }
        self.variance.combine(tile, mask);
        mark_kept(mask, self.cut.from(tile.at));
    }

    fn write_delta(&self, tile: &Tile<'_>, input: usize, mask: &[f32], deltas: &mut [f32]) {
        subtract(tile.inputs[input], tile.inputs[self.variance.base], deltas);
        select(mask, deltas);
    }
}

/// Squares of the selected deltas of each model but the base.
#[derive(Debug)]
struct Energies(Selected);

impl Kernels for Energies {
    fn count(&self) -> usize {
        self.0.variance.others.len()
    }

    fn each(&self, tile: &Tile<'_>, take: &mut dyn FnMut(usize, &[f32])) {
        with_buffer(tile.len(), |mask| {
            self.0.write_mask(tile, mask);
            with_buffer(tile.len(), |squares| {
                for (which, input) in self.0.variance.others.iter().enumerate() {
                    self.0.write_delta(tile, *input, mask, squares);
                    square(squares);
                    take(which, squares);
                }
            });
        });
    }
}

#[derive(Debug)]
struct SceKernel {
    selected: Selected,
    /// Of each model but the base; without any the base is the result.
    weights: Vec<f32>,
}

impl Kernel for SceKernel {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.selected.variance.base];
        let length = out.len();
        out.fill(0.0);
        with_buffer((self.weights.len() + 3) * length, |buffer| {
            let (sums, rest) = buffer.split_at_mut(2 * length);
            sums.fill(0.0);
            let (ballot, divisor) = sums.split_at_mut(length);
            let (mask, deltas) = rest.split_at_mut(length);
            self.selected.write_mask(tile, mask);
            for (input, deltas) in self.selected.variance.others.iter().zip(deltas.chunks_mut(length)) {
                self.selected.write_delta(tile, *input, mask, deltas);
                add_scaled(deltas, 1.0, ballot);
            }
            for (weight, deltas) in self.weights.iter().zip(deltas.chunks(length)) {
                add_if_elected(deltas, ballot, *weight, out, divisor);
            }
            divide(divisor, out);
        });
        add_scaled(base, 1.0, out);
    }
}

simd_clones! { fn add_difference(x: &[f32], base: &[f32], sum: &mut [f32]) = add_difference_body; }
simd_clones! { fn add_square_off(x: &[f32], base: &[f32], means: &[f32], share: f32, out: &mut [f32]) = add_square_off_body; }
simd_clones! { fn mark_non_zero(out: &mut [f32]) = mark_non_zero_body; }
simd_clones! { fn mark_kept(mask: &mut [f32], cut: TileCut) = mark_kept_body; }
simd_clones! { fn select(mask: &[f32], deltas: &mut [f32]) = select_body; }
simd_clones! { fn square(out: &mut [f32]) = square_body; }
simd_clones! {
    fn add_if_elected(
        deltas: &[f32], ballot: &[f32], weight: f32, out: &mut [f32], divisor: &mut [f32],
    ) = add_if_elected_body;
}
simd_clones! { fn divide(divisor: &[f32], out: &mut [f32]) = divide_body; }

#[inline(always)]
fn add_difference_body(x: &[f32], base: &[f32], sum: &mut [f32]) {
    for ((sum, x), base) in sum.iter_mut().zip(x).zip(base) {
        *sum += x - base;
    }
}

#[inline(always)]
fn add_square_off_body(x: &[f32], base: &[f32], means: &[f32], share: f32, out: &mut [f32]) {
    for (((out, mean), x), base) in out.iter_mut().zip(means).zip(x).zip(base) {
        let off = (x - base) - mean;
        *out = (off * share).mul_add(off, *out);
    }
}

#[inline(always)]
fn mark_non_zero_body(out: &mut [f32]) {
    for value in out {
        *value = if *value != 0.0 { 1.0 } else { 0.0 };
    }
}

#[inline(always)]
fn mark_kept_body(mask: &mut [f32], cut: TileCut) {
    for (i, value) in mask.iter_mut().enumerate() {
        *value = if cut.keeps(*value, i) { 1.0 } else { 0.0 };
    }
}

#[inline(always)]
fn select_body(mask: &[f32], deltas: &mut [f32]) {
    for (delta, mask) in deltas.iter_mut().zip(mask) {
        *delta = if *mask > 0.0 { *delta } else { 0.0 };
    }
}

#[inline(always)]
fn square_body(out: &mut [f32]) {
    for value in out {
        *value *= *value;
    }
}

#[inline(always)]
fn add_if_elected_body(deltas: &[f32], ballot: &[f32], weight: f32, out: &mut [f32], divisor: &mut [f32]) {
    for (((out, divisor), ballot), delta) in out.iter_mut().zip(divisor).zip(ballot).zip(deltas) {
        let elected = if *ballot >= 0.0 { *delta > 0.0 } else { *delta < 0.0 };
        *out += if elected { delta * weight } else { 0.0 };
        *divisor += if elected { weight } else { 0.0 };
    }
}

#[inline(always)]
fn divide_body(divisor: &[f32], out: &mut [f32]) {
    for (out, divisor) in out.iter_mut().zip(divisor) {
        *out /= divisor.max(1e-6);
    }
}
