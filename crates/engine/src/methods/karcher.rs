//! The Riemannian (Karcher) mean of the inputs' directions, by gradient steps on the sphere, times their mean length.
//! "Karcher mean merging", arXiv:2603.04972. Every iterate is a combination of the inputs, so the whole iteration runs on
//! k coefficients and the Gram matrix; the tensor is read twice, however many steps there are.

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{Kernel, WeightedSum};
use crate::statistic::{Gram, Reduced, Statistic};

pub struct Karcher;

impl Method for Karcher {
    fn about(&self) -> About {
        About {
            name: "karcher",
            title: "Karcher mean (Riemannian barycentre)",
            formula: "m <- exp_m(mean of log_m(x_i/|x_i|)) until the step is shorter than tol; out = (mean of |x_i|) m",
            source: "https://arxiv.org/abs/2603.04972",
            advice: "slerp without weights for any number of models",
            cost: Cost::TwoPasses,
            inputs: Inputs { base: Base::Ordinary, min: 1, max: None },
            parameters: vec![
                Parameter::count("max_iter", 10.0, "steps at most"),
                Parameter::number(
                    "tol",
                    Scope::Shared,
                    Default::Number(1e-5),
                    "a step shorter than this is the last; so is a length shorter than this no direction",
                )
                .within(1e-12, 1.0),
            ],
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        Ok(Box::new(KarcherMerge {
            inputs: parameters.inputs,
            steps: parameters.number("max_iter") as usize,
            tol: parameters.number("tol"),
        }))
    }
}

#[derive(Debug)]
struct KarcherMerge {
    inputs: usize,
    steps: usize,
    tol: f64,
}

impl Merge for KarcherMerge {
    fn copies(&self) -> Option<usize> {
        (self.inputs == 1).then_some(0)
    }

    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        (known.is_empty() && self.inputs > 1).then_some(Statistic::Gram { origin: None })
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        let coefficients = match known.first() {
            None => vec![1.0],
            Some(gram) => self.coefficients(gram.gram()),
        };
        Ok(Box::new(WeightedSum { coefficients: coefficients.into_iter().map(|c| c as f32).collect(), divisor: None }))
    }
}

impl KarcherMerge {
    fn coefficients(&self, gram: &Gram) -> Vec<f64> {
        let norms: Vec<f64> = (0..self.inputs).map(|i| gram.norm(i)).collect();
        let valid: Vec<usize> = (0..self.inputs).filter(|i| norms[*i] > self.tol).collect();
        if valid.is_empty() {
            return vec![0.0; self.inputs];
        }
        let units: Vec<Vec<f64>> = valid.iter().map(|i| unit(self.inputs, *i, norms[*i])).collect();
        let mean = self.iterate(gram, &units);
        let length = norms.iter().sum::<f64>() / self.inputs as f64;
        mean.into_iter().map(|c| c * length).collect()
    }

    fn iterate(&self, gram: &Gram, units: &[Vec<f64>]) -> Vec<f64> {
        let share = 1.0 / units.len() as f64;
        let sum = combine(self.inputs, units.iter().map(|u| (share, u)));
        let length = gram.length(&sum);
        let mut mean = if length < self.tol { units[0].clone() } else { sum.into_iter().map(|c| c / length).collect() };
        for _ in 0..self.steps {
            let tangent = self.tangent(gram, units, &mean, share);
            let step = gram.length(&tangent);
            if step < self.tol {
                break;
            }
            let (cos, sin) = (libm::cos(step), libm::sin(step) / step);
            mean = combine(self.inputs, [(cos, &mean), (sin, &tangent)]);
            let length = gram.length(&mean);
            if length > self.tol {
                mean.iter_mut().for_each(|c| *c /= length);
            }
        }
        mean
    }

    /// The mean of the logarithms of all directions at `mean`.
    fn tangent(&self, gram: &Gram, units: &[Vec<f64>], mean: &[f64], share: f64) -> Vec<f64> {
        let mut tangent = vec![0.0; self.inputs];
        for unit in units {
            let cosine = gram.of(mean, unit).clamp(-1.0, 1.0);
            let angle = libm::acos(cosine);
            if angle < self.tol {
                continue;
            }
            let factor = share * angle / libm::sin(angle);
            for (t, (u, m)) in tangent.iter_mut().zip(unit.iter().zip(mean)) {
                *t += factor * (u - cosine * m);
            }
        }
        tangent
    }
}

fn unit(size: usize, i: usize, norm: f64) -> Vec<f64> {
    let mut vector = vec![0.0; size];
    vector[i] = 1.0 / norm;
    vector
}

fn combine<'a>(size: usize, terms: impl IntoIterator<Item = (f64, &'a Vec<f64>)>) -> Vec<f64> {
    let mut sum = vec![0.0; size];
    for (factor, term) in terms {
        sum.iter_mut().zip(term).for_each(|(s, t)| *s += factor * t);
    }
    sum
}
