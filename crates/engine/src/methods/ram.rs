//! Reinforced agent merging: an element that one model alone changed is kept whole, one that several changed is averaged.
//! "RAM", arXiv:2601.13572. RAM+ strengthens the elements of one model by how much it shares with the others.

use std::sync::Arc;

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, Tile, add_scaled, with_scratch};
use crate::simd::simd_clones;
use crate::statistic::{Reduced, Statistic};

pub struct Ram {
    name: &'static str,
    title: &'static str,
    formula: &'static str,
    advice: &'static str,
    strengthens: bool,
}

pub static RAM: Ram = Ram {
    name: "ram",
    title: "RAM",
    formula: "model i touches an element when |x_i - base| > epsilon; out = base + (sum of touching deltas) / (their number)",
    advice: "fine-tunes that changed few elements each, as reinforcement learning does",
    strengthens: false,
};

pub static RAMPLUS_TL: Ram = Ram {
    name: "ramplus_tl",
    title: "RAM+ (per tensor)",
    formula: "as ram; a delta that is model i's alone times 1 + r clamp(S_i/U_i, 0, alpha), S_i and U_i its shared and unique elements",
    advice: "as ram, where what is one model's alone fades beside what is shared",
    strengthens: true,
};

impl Method for Ram {
    fn about(&self) -> About {
        let mut parameters = vec![Parameter::number(
            "epsilon",
            Scope::Shared,
            Default::Number(1e-5),
            "a delta no larger than this counts as untouched",
        )];
        if self.strengthens {
            parameters.push(Parameter::number(
                "r",
                Scope::Shared,
                Default::Number(0.1),
                "how much unique deltas are strengthened",
            ));
            parameters.push(Parameter::number(
                "alpha",
                Scope::Shared,
                Default::Number(0.2),
                "the ratio of shared to unique counts up to this",
            ));
        }
        About {
            name: self.name,
            title: self.title,
            formula: self.formula,
            source: "https://arxiv.org/abs/2601.13572",
            advice: self.advice,
            cost: if self.strengthens { Cost::TwoPasses } else { Cost::Elementwise },
            inputs: Inputs { base: Base::Required, min: 1, max: None },
            parameters,
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("ram needs a base")?;
        let touch = Touch { base, others: parameters.others().into(), epsilon: parameters.number("epsilon") as f32 };
        let strength = self.strengthens.then(|| Strength {
            r: parameters.number("r"),
            alpha: parameters.number("alpha"),
            epsilon: parameters.number("epsilon"),
        });
        Ok(Box::new(RamMerge { touch, strength }))
    }
}

#[derive(Debug)]
struct RamMerge {
    touch: Touch,
    strength: Option<Strength>,
}

#[derive(Debug)]
struct Strength {
    r: f64,
    alpha: f64,
    epsilon: f64,
}

impl Merge for RamMerge {
    fn copies(&self) -> Option<usize> {
        self.touch.others.is_empty().then_some(self.touch.base)
    }

    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        (self.strength.is_some() && known.is_empty()).then(|| {
            let count = |input: usize, shared| {
                Arc::new(Touched { touch: self.touch.clone(), input, shared }) as Arc<dyn Kernel>
            };
            let counts = self.touch.others.iter().flat_map(|i| [count(*i, true), count(*i, false)]);
            Statistic::Sums { of: Arc::new(counts.collect::<Vec<_>>()) }
        })
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        let unique = match &self.strength {
            None => vec![1.0; self.touch.others.len()],
            Some(s) => known[0]
                .sums()
                .chunks(2)
                .map(|c| (1.0 + s.r * (c[0] / c[1].max(s.epsilon)).clamp(0.0, s.alpha)) as f32)
                .collect(),
        };
        Ok(Box::new(RamKernel { touch: self.touch.clone(), unique }))
    }
}

/// Which models touch an element.
#[derive(Debug, Clone)]
struct Touch {
    base: usize,
    others: Arc<[usize]>,
    epsilon: f32,
}

impl Touch {
    fn count(&self, tile: &Tile<'_>, counts: &mut [f32]) {
        let base = tile.inputs[self.base];
        for input in self.others.iter() {
            count_touched(tile.inputs[*input], base, self.epsilon, counts);
        }
    }
}

/// 1 where a model touches an element that others touch too, or that no other touches.
#[derive(Debug)]
struct Touched {
    touch: Touch,
    input: usize,
    shared: bool,
}

impl Kernel for Touched {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        with_scratch(out.len(), |counts| {
            self.touch.count(tile, counts);
            let (x, base) = (tile.inputs[self.input], tile.inputs[self.touch.base]);
            mark_touched(x, base, counts, self.touch.epsilon, self.shared, out);
        });
    }
}

#[derive(Debug)]
struct RamKernel {
    touch: Touch,
    /// Factor of each model's unique deltas.
    unique: Vec<f32>,
}

impl Kernel for RamKernel {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        let base = tile.inputs[self.touch.base];
        with_scratch(out.len(), |counts| {
            self.touch.count(tile, counts);
            out.fill(0.0);
            for (input, unique) in self.touch.others.iter().zip(&self.unique) {
                add_touched(tile.inputs[*input], base, counts, self.touch.epsilon, *unique, out);
            }
        });
        add_scaled(base, 1.0, out);
    }
}

simd_clones! { fn count_touched(x: &[f32], base: &[f32], epsilon: f32, counts: &mut [f32]) = count_touched_body; }
simd_clones! {
    fn mark_touched(
        x: &[f32], base: &[f32], counts: &[f32], epsilon: f32, shared: bool, out: &mut [f32],
    ) = mark_touched_body;
}
simd_clones! {
    fn add_touched(
        x: &[f32], base: &[f32], counts: &[f32], epsilon: f32, unique: f32, out: &mut [f32],
    ) = add_touched_body;
}

#[inline(always)]
fn count_touched_body(x: &[f32], base: &[f32], epsilon: f32, counts: &mut [f32]) {
    for ((count, x), base) in counts.iter_mut().zip(x).zip(base) {
        *count += if (x - base).abs() > epsilon { 1.0 } else { 0.0 };
    }
}

#[inline(always)]
fn mark_touched_body(x: &[f32], base: &[f32], counts: &[f32], epsilon: f32, shared: bool, out: &mut [f32]) {
    for (((out, count), x), base) in out.iter_mut().zip(counts).zip(x).zip(base) {
        let wanted = (x - base).abs() > epsilon && (*count > 1.0) == shared;
        *out = if wanted { 1.0 } else { 0.0 };
    }
}

#[inline(always)]
fn add_touched_body(x: &[f32], base: &[f32], counts: &[f32], epsilon: f32, unique: f32, out: &mut [f32]) {
    for (((out, count), x), base) in out.iter_mut().zip(counts).zip(x).zip(base) {
        let delta = x - base;
        let share = if *count > 1.0 { delta / count } else { delta * unique };
        *out += if delta.abs() > epsilon { share } else { 0.0 };
    }
}
