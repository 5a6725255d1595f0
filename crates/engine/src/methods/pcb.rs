//! PCB-merging: an element competes with the others of its model and with the other models for its place.
//! Du et al. 2024, "Parameter competition balancing", arXiv:2410.02396.

use std::sync::Arc;

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, Tile, add_to_base, with_scratch};
use crate::statistic::{Cut, Reduced, Statistic};

pub struct Pcb;

impl Method for Pcb {
    fn about(&self) -> About {
        About {
            name: "pcb",
            title: "PCB-merging (parameter competition balancing)",
            formula: "a_i = exp(N norm(|d_i|)^2), b_i = tanh(d_i sum of d_j); s_i = a_i b_i, the density largest kept and scaled to 0..1; out = base + lambda (sum of w_i s_i d_i) / (sum of s_i)",
            source: "https://arxiv.org/abs/2410.02396",
            advice: "several task vectors; density 0.05 to 0.2",
            cost: Cost::Selection,
            inputs: Inputs { base: Base::Required, min: 2, max: None },
            parameters: vec![
                Parameter::number(
                    "weight",
                    Scope::EachInputButBase,
                    Default::Number(1.0),
                    "factor of this model's task vector",
                ),
                Parameter::number(
                    "density",
                    Scope::Shared,
                    Default::Number(0.1),
                    "share of elements that win their place",
                )
                .within(0.0, 1.0)
                .of_statistics(),
                Parameter::number(
                    "clamp",
                    Scope::Shared,
                    Default::Number(0.0001),
                    "share of the largest deltas that count as no larger than the rest",
                )
                .within(0.0, 1.0)
                .of_statistics(),
                Parameter::number("lambda", Scope::Shared, Default::Number(1.0), "factor on the merged task vector"),
                Parameter::word(
                    "trim_scope",
                    &["tensor", "model"],
                    "model",
                    "whether elements compete within a tensor or within the whole model (as the paper does)",
                )
                .of_statistics(),
            ],
        }
    }

    fn spans_the_model(&self, parameters: &TaskParameters) -> bool {
        parameters.word("trim_scope") == "model"
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("pcb needs a base")?;
        let others: Arc<[usize]> = parameters.others().into();
        let weights = others
            .iter()
            .map(|i| parameters.number_of(*i, "weight").expect("declared for each input but the base") as f32)
            .collect();
        let elements = parameters.elements();
        let share = |name| (parameters.number(name) * elements as f64) as u64;
        Ok(Box::new(PcbMerge {
            base,
            weights,
            lambda: parameters.number("lambda") as f32,
            largest: share("clamp").max(1),
            kept: share("density").max(1),
            others,
        }))
    }
}

#[derive(Debug)]
struct PcbMerge {
    base: usize,
    others: Arc<[usize]>,
    weights: Vec<f32>,
    lambda: f32,
    /// How many deltas are clamped to the least of them.
    largest: u64,
    kept: u64,
}

impl Merge for PcbMerge {
    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        let each = |kernel: &dyn Fn(usize) -> Arc<dyn Kernel>| (0..self.others.len()).map(kernel).collect::<Vec<_>>();
        match known {
            [] => {
                let of = each(&|k| Arc::new(crate::kernel::TaskVector::plain(self.others[k], self.base, 1.0)));
                Some(Statistic::Cuts { of, keep: (0..self.others.len()).map(|k| (k, self.largest)).collect() })
            }
            // the best score, and the least that is kept
            [clamps] => {
                let of = each(&|k| Arc::new(self.score(k, clamps)));
                Some(Statistic::Cuts {
                    of,
                    keep: (0..self.others.len()).flat_map(|k| [(k, 1), (k, self.kept)]).collect(),
                })
            }
            _ => None,
        }
    }

    fn kernel(&self, known: &[Reduced], offset: u64) -> Result<Box<dyn Kernel>, String> {
        let bounds = known[1].cuts().chunks(2).map(|pair| (pair[0].value(), pair[1])).collect();
        let scores = (0..self.others.len()).map(|k| self.score(k, &known[0])).collect();
        Ok(Box::new(PcbKernel {
            base: self.base,
            scores,
            bounds,
            weights: self.weights.clone(),
            lambda: self.lambda,
            offset,
        }))
    }
}

impl PcbMerge {
    fn score(&self, k: usize, clamps: &Reduced) -> Score {
        Score { base: self.base, others: self.others.clone(), input: self.others[k], clamp: clamps.cuts()[k].value() }
    }
}

/// How well an element of one model stands against the rest of it and against the other models; 0 where it is opposed.
#[derive(Debug)]
struct Score {
    base: usize,
    others: Arc<[usize]>,
    input: usize,
    /// Magnitudes above this count as this; they are normalised by it.
    clamp: f32,
}

impl Kernel for Score {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        out.fill(0.0);
        for input in self.others.iter() {
            for ((sum, x), base) in out.iter_mut().zip(tile.inputs[*input]).zip(base) {
                *sum += x - base;
            }
        }
        let models = self.others.len() as f32;
        for ((out, x), base) in out.iter_mut().zip(tile.inputs[self.input]).zip(base) {
            let delta = x - base;
            let size = if self.clamp > 0.0 { delta.abs().min(self.clamp) / self.clamp } else { 0.0 };
            *out = (libm::expf(models * size * size) * libm::tanhf(delta * *out)).max(0.0);
        }
    }
}

#[derive(Debug)]
struct PcbKernel {
    base: usize,
    scores: Vec<Score>,
    /// Of each model: its best score, and the cut that keeps its winners.
    bounds: Vec<(f32, Cut)>,
    weights: Vec<f32>,
    lambda: f32,
    offset: u64,
}

impl Kernel for PcbKernel {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.base];
        let length = out.len();
        out.fill(0.0);
        with_scratch(2 * length, |scratch| {
            let (scores, divisor) = scratch.split_at_mut(length);
            for ((score, (best, cut)), weight) in self.scores.iter().zip(&self.bounds).zip(&self.weights) {
                score.combine(tile, scores);
                let cut = cut.from(self.offset + tile.at);
                let x = tile.inputs[score.input];
                for (i, (((out, divisor), s), (x, base))) in
                    out.iter_mut().zip(&mut *divisor).zip(&*scores).zip(x.iter().zip(base)).enumerate()
                {
                    let share = if cut.keeps(*s, i) && *best > 0.0 { s / best } else { 0.0 };
                    *out += share * weight * (x - base);
                    *divisor += share;
                }
            }
            out.iter_mut().zip(divisor).for_each(|(out, divisor)| *out /= if *divisor > 0.0 { *divisor } else { 1.0 });
        });
        add_to_base(base, self.lambda, out);
    }
}
