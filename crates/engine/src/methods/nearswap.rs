//! Takes over the other model where it is near: `w = clamp(t / |a - b|, 0, 1)`, `out = (1-w) a + w b`.
//! After the community's Nearswap; no paper.

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters, TooFew};
use crate::kernel::{Kernel, Tile};
use crate::simd::simd_clones;
use crate::statistic::Reduced;

pub struct NearSwap;

impl Method for NearSwap {
    fn about(&self) -> About {
        About {
            name: "nearswap",
            title: "Nearswap",
            formula: "w = clamp(t / max(|a - b|, 1e-6), 0, 1); out = (1-w) a + w b, a the base",
            source: "alchemonaut's NearSwap on the Hub; no paper",
            advice: "adds a light touch of a similar model; t is a distance in weights, about 1e-4 to 1e-3",
            cost: Cost::Elementwise,
            inputs: Inputs { base: Base::Required, min: 2, max: Some(2) },
            parameters: vec![Parameter::number(
                "t",
                Scope::Shared,
                Default::Required,
                "distance up to which the other model's element is taken whole",
            )],
        }
    }

    fn when_too_few(&self) -> TooFew {
        TooFew::CopyTheBase
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("nearswap needs a base")?;
        Ok(Box::new(NearSwapMerge { base, t: parameters.number("t") as f32 }))
    }
}

#[derive(Debug, Clone, Copy)]
struct NearSwapMerge {
    base: usize,
    t: f32,
}

impl Merge for NearSwapMerge {
    fn kernel(&self, _: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(*self))
    }
}

impl Kernel for NearSwapMerge {
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]) {
        swap(tile.inputs[self.base], tile.inputs[1 - self.base], self.t, out);
    }
}

simd_clones! { fn swap(a: &[f32], b: &[f32], t: f32, out: &mut [f32]) = swap_body; }

#[inline(always)]
fn swap_body(a: &[f32], b: &[f32], t: f32, out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        let weight = (t / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
        *out = weight.mul_add(*b, (1.0 - weight) * a);
    }
}
