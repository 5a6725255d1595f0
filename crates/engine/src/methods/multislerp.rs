//! Several models interpolated on the sphere at once: their weighted directions are averaged, the spread around the
//! average is taken in its tangent space, and the result gets their weighted length. After mergekit's MultiSLERP; no
//! paper. Everything follows from the Gram matrix.

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, TaskVector, TaskVectorSum, WeightedSum};
use crate::statistic::{Gram, Reduced, Statistic};

pub struct MultiSlerp;

impl Method for MultiSlerp {
    fn about(&self) -> About {
        About {
            name: "multislerp",
            title: "MultiSLERP (barycentre on the sphere)",
            formula: "u_i = x_i/|x_i|; m = normalised sum of w_i u_i; T = sum of w_i (u_i - (u_i.m) m); out = (sum of w_i |x_i|) (m cos|T| + T sin|T|/|T|); around the base when there is one",
            source: "mergekit's MultiSLERP; no paper",
            advice: "slerp for more than two models",
            cost: Cost::TwoPasses,
            inputs: Inputs { base: Base::Optional, min: 1, max: None },
            parameters: vec![
                Parameter::number("weight", Scope::EachInputButBase, Default::Required, "share of this model"),
                Parameter::boolean("normalize_weights", true, "divide the weights by their sum"),
                Parameter::number(
                    "eps",
                    Scope::Shared,
                    Default::Number(1e-8),
                    "added to lengths before dividing by them",
                )
                .within(1e-12, 1.0),
            ],
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let others = parameters.others();
        let mut weights: Vec<f64> = others
            .iter()
            .map(|i| parameters.number_of(*i, "weight").expect("declared for each input but the base"))
            .collect();
        if parameters.boolean("normalize_weights") {
            let sum: f64 = weights.iter().sum();
            if sum.abs() < 1e-8 {
                return Err("the weights sum to 0, so they cannot be normalised; change them, or set `normalize_weights: false`".into());
            }
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        if others.is_empty() {
            return Err("multislerp needs a model besides the base".into());
        }
        Ok(Box::new(MultiSlerpMerge {
            others,
            weights,
            base: parameters.base,
            inputs: parameters.inputs,
            eps: parameters.number("eps"),
        }))
    }
}

#[derive(Debug)]
struct MultiSlerpMerge {
    others: Vec<usize>,
    weights: Vec<f64>,
    base: Option<usize>,
    inputs: usize,
    eps: f64,
}

impl Merge for MultiSlerpMerge {
    fn copies(&self) -> Option<usize> {
        (self.others.len() == 1).then_some(self.others[0])
    }

    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        (known.is_empty() && self.others.len() > 1).then_some(Statistic::Gram { origin: self.base })
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        if self.others.len() == 1 {
            let mut coefficients = vec![0.0; self.inputs];
            coefficients[self.others[0]] = 1.0;
            return Ok(Box::new(WeightedSum { coefficients, divisor: None }));
        }
        let coefficients = self.coefficients(known[0].gram())?;
        Ok(match self.base {
            None => {
                Box::new(WeightedSum { coefficients: coefficients.iter().map(|c| *c as f32).collect(), divisor: None })
            }
            Some(base) => {
                let vectors =
                    self.others.iter().map(|i| TaskVector::plain(*i, base, coefficients[*i] as f32)).collect();
                Box::new(TaskVectorSum { base, vectors, divisor: None, scale: 1.0 })
            }
        })
    }
}

impl MultiSlerpMerge {
    /// All vectors here are combinations of the inputs, written by their coefficients.
    fn coefficients(&self, gram: &Gram) -> Result<Vec<f64>, String> {
        let of = |f: &dyn Fn(usize, usize) -> f64| {
            let mut coefficients = vec![0.0; self.inputs];
            for (k, i) in self.others.iter().enumerate() {
                coefficients[*i] = f(k, *i);
            }
            coefficients
        };
        let unit = |i: usize| 1.0 / (gram.norm(i) + self.eps);
        let sum = of(&|k, i| self.weights[k] * unit(i));
        let length = gram.length(&sum);
        if length < self.eps {
            // vectors of no length have no direction either: nothing was learned here, and their sum says so
            let lengthless = self.others.iter().all(|i| gram.norm(*i) < self.eps);
            return match self.others.len() {
                2 => Ok(of(&|k, _| self.weights[k])),
                _ if lengthless => Ok(of(&|k, _| self.weights[k])),
                _ => {
                    Err("the weighted directions of the models cancel, so they have no mean; change the weights".into())
                }
            };
        }
        let mean: Vec<f64> = sum.iter().map(|c| c / length).collect();
        let along: f64 = self
            .others
            .iter()
            .enumerate()
            .map(|(k, i)| self.weights[k] * unit(*i) * gram.of(&basis(self.inputs, *i), &mean))
            .sum();
        let tangent = of(&|k, i| self.weights[k] * unit(i) - along * mean[i]);
        let angle = gram.length(&tangent) + self.eps;
        let scale: f64 = self.others.iter().enumerate().map(|(k, i)| self.weights[k] * gram.norm(*i)).sum();
        let (cos, sin) = (libm::cos(angle), libm::sin(angle) / angle);
        Ok(of(&|_, i| scale * (mean[i] * cos + tangent[i] * sin)))
    }
}

fn basis(size: usize, i: usize) -> Vec<f64> {
    let mut vector = vec![0.0; size];
    vector[i] = 1.0;
    vector
}
