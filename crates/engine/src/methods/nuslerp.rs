//! Spherical interpolation of two models by weights, flat or vector by vector, around a base or around the origin:
//! `t = w2 / (w1 + w2)`, `out = base + slerp(a - base, b - base, t)`. After mergekit's NuSLERP; no paper.

use super::slerp::on_the_arc;
use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters, TooFew};
use crate::kernel::{Kernel, TaskVector, TaskVectorSum, VectorSum, VectorTaskSum, WeightedSum};
use crate::statistic::{Along, Gram, Reduced, Statistic, Vectors};

/// Vectors count as colinear where the square of the sine is no more than this.
const COLINEAR: f64 = 1e-16;
const NORM_MIN: f64 = 1e-7;

pub struct NuSlerp;

impl Method for NuSlerp {
    fn about(&self) -> About {
        About {
            name: "nuslerp",
            title: "NuSLERP (weighted spherical interpolation)",
            formula: "t = w2/(w1+w2); out = base + sin((1-t)A)/sin(A) (a-base) + sin(tA)/sin(A) (b-base), A the angle between the two",
            source: "mergekit's NuSLERP; Shoemake 1985, https://doi.org/10.1145/325165.325242",
            advice: "like slerp, with weights; give a base to interpolate what was learned instead of the whole weights",
            cost: Cost::TwoPasses,
            inputs: Inputs { base: Base::Optional, min: 2, max: Some(2) },
            parameters: vec![
                Parameter::number("weight", Scope::EachInputButBase, Default::Required, "share of this model"),
                Parameter::boolean(
                    "nuslerp_flatten",
                    true,
                    "one angle for the whole tensor; false for one angle a vector",
                ),
                Parameter::boolean(
                    "nuslerp_row_wise",
                    false,
                    "without flatten: vectors run along the first dimension, not the last",
                ),
            ],
        }
    }

    fn when_too_few(&self) -> TooFew {
        TooFew::CopyTheOne
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let others = parameters.others();
        let [a, b] = others[..] else { return Err("nuslerp merges exactly 2 models besides the base".into()) };
        let weight = |i| parameters.number_of(i, "weight").expect("declared for each input but the base");
        let sum = weight(a) + weight(b);
        let t = if sum.abs() < 1e-6 { 0.5 } else { weight(b) / sum };
        Ok(Box::new(NuSlerpMerge {
            pair: (a, b),
            base: parameters.base,
            inputs: parameters.inputs,
            t,
            vectors: vectors(parameters),
        }))
    }
}

/// `None` for the tensor as one vector.
fn vectors(parameters: &TaskParameters) -> Option<Vectors> {
    if parameters.boolean("nuslerp_flatten") {
        return None;
    }
    let (rows, columns) = parameters.rows();
    let along_first = parameters.boolean("nuslerp_row_wise") && parameters.shape.len() > 1;
    if !along_first {
        return Some(Vectors { rows, columns, along: Along::Rows });
    }
    let first = parameters.shape[0].max(1);
    Some(Vectors { rows: first, columns: parameters.elements() / first, along: Along::Columns })
}

#[derive(Debug)]
struct NuSlerpMerge {
    pair: (usize, usize),
    base: Option<usize>,
    inputs: usize,
    t: f64,
    vectors: Option<Vectors>,
}

impl Merge for NuSlerpMerge {
    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        known.is_empty().then_some(match self.vectors {
            None => Statistic::Gram { origin: self.base },
            Some(vectors) => Statistic::VectorGram { origin: self.base, vectors },
        })
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        Ok(match self.vectors {
            None => self.flat(known[0].gram()),
            Some(vectors) => self.by_vector(known[0].grams(), vectors),
        })
    }
}

impl NuSlerpMerge {
    fn flat(&self, gram: &Gram) -> Box<dyn Kernel> {
        let (of_a, of_b) = self.coefficients(gram);
        let (a, b) = self.pair;
        match self.base {
            None => {
                let mut coefficients = vec![0.0; self.inputs];
                (coefficients[a], coefficients[b]) = (of_a, of_b);
                Box::new(WeightedSum { coefficients, divisor: None })
            }
            Some(base) => {
                let vectors = vec![TaskVector::plain(a, base, of_a), TaskVector::plain(b, base, of_b)];
                Box::new(TaskVectorSum { base, vectors, divisor: None, scale: 1.0 })
            }
        }
    }

    fn by_vector(&self, grams: &[Gram], vectors: Vectors) -> Box<dyn Kernel> {
        let (of_a, of_b): (Vec<f32>, Vec<f32>) = grams.iter().map(|gram| self.coefficients(gram)).unzip();
        let mut coefficients = vec![None; self.inputs];
        coefficients[self.pair.0] = Some(of_a.into());
        coefficients[self.pair.1] = Some(of_b.into());
        match self.base {
            None => Box::new(VectorSum { vectors, coefficients: coefficients.into_iter().flatten().collect() }),
            Some(base) => Box::new(VectorTaskSum { base, vectors, coefficients }),
        }
    }

    fn coefficients(&self, gram: &Gram) -> (f32, f32) {
        let (a, b) = self.pair;
        let norm = |i| gram.norm(i).max(NORM_MIN);
        let cosine = (gram.dot(a, b) / (norm(a) * norm(b))).clamp(-1.0, 1.0);
        let is_colinear = 1.0 - cosine * cosine <= COLINEAR;
        let (of_a, of_b) = if is_colinear { (1.0 - self.t, self.t) } else { on_the_arc(cosine, self.t) };
        (of_a as f32, of_b as f32)
    }
}
