//! One input, copied bit for bit, or times `scale`. Stacks layers of several models when used with slices.

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, Scaled};
use crate::statistic::Reduced;

pub struct Passthrough;

impl Method for Passthrough {
    fn about(&self) -> About {
        About {
            name: "passthrough",
            title: "Passthrough (layers stacked)",
            formula: "out = x, or scale x",
            source: "the \"frankenmerge\" of the community; no paper",
            advice: "stacking layers of different models into a deeper one; expect to train or test it afterwards",
            cost: Cost::Elementwise,
            inputs: Inputs { base: Base::Ordinary, min: 1, max: Some(1) },
            parameters: vec![Parameter::number(
                "scale",
                Scope::EachInput,
                Default::Absent,
                "factor on every element; not set copies the bits",
            )],
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        Ok(Box::new(PassthroughMerge { scale: parameters.number_of(0, "scale").filter(|scale| *scale != 1.0) }))
    }
}

pub(super) fn copy() -> Box<dyn Merge> {
    Box::new(PassthroughMerge { scale: None })
}

#[derive(Debug)]
struct PassthroughMerge {
    scale: Option<f64>,
}

impl Merge for PassthroughMerge {
    fn copies(&self) -> Option<usize> {
        self.scale.is_none().then_some(0)
    }

    fn kernel(&self, _: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Scaled(self.scale.unwrap_or(1.0) as f32)))
    }
}
