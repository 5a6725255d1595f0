//! Weighted average: `out = (sum of w_i x_i) / (sum of w_i)`, or the bare sum without `normalize`.
//! Wortsman et al. 2022, "Model soups", arXiv:2203.05482.

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, WeightedSum};
use crate::statistic::Reduced;

pub struct Linear;

impl Method for Linear {
    fn about(&self) -> About {
        About {
            name: "linear",
            title: "Linear (weighted average)",
            formula: "out = (sum of w_i x_i) / (sum of w_i); without normalize, the sum alone",
            source: "https://arxiv.org/abs/2203.05482",
            advice: "fine-tunes of one base that are alike; weights between 0.3 and 0.7 rarely hurt",
            cost: Cost::Elementwise,
            inputs: Inputs { base: Base::Ordinary, min: 1, max: None },
            parameters: vec![
                Parameter::number(
                    "weight",
                    Scope::EachInput,
                    Default::WhenSetNowhere(1.0),
                    "share of this model in the average",
                ),
                Parameter::boolean("normalize", true, "divide by the sum of the weights"),
            ],
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let coefficients: Vec<f32> = parameters.numbers("weight").into_iter().map(|w| w as f32).collect();
        let divisor = parameters.boolean("normalize").then(|| coefficients.iter().sum::<f32>());
        if divisor.is_some_and(|sum| sum.abs() < 1e-8) {
            return Err(
                "the weights sum to 0, so there is no average; change them, or set `normalize: false` for the bare sum"
                    .into(),
            );
        }
        Ok(Box::new(LinearMerge { coefficients, divisor }))
    }
}

#[derive(Debug)]
struct LinearMerge {
    coefficients: Vec<f32>,
    divisor: Option<f32>,
}

impl Merge for LinearMerge {
    fn kernel(&self, _: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(WeightedSum { coefficients: self.coefficients.clone(), divisor: self.divisor }))
    }
}
