//! Spherical interpolation of two tensors, each seen as one vector:
//! `out = sin((1-t) A) / sin(A) * a + sin(t A) / sin(A) * b`, A the angle between them; along the straight line where
//! they are nearly parallel. Shoemake 1985, "Animating rotation with quaternion curves".

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters, TooFew};
use crate::kernel::{Kernel, WeightedSum};
use crate::statistic::{Gram, Reduced, Statistic};

/// Above this |cosine| the vectors count as parallel: the arc and the line differ by less than bf16 resolves.
const PARALLEL: f64 = 0.9995;
/// A vector shorter than this is not normalised.
const NORM_MIN: f64 = 1e-8;

pub struct Slerp;

impl Method for Slerp {
    fn about(&self) -> About {
        About {
            name: "slerp",
            title: "SLERP (spherical interpolation)",
            formula: "out = sin((1-t)A)/sin(A) a + sin(tA)/sin(A) b, A the angle between a and b; (1-t) a + t b where |cos A| > 0.9995",
            source: "https://doi.org/10.1145/325165.325242",
            advice: "two models of one family; start with t between 0.3 and 0.5, and try different t for attention and MLP",
            cost: Cost::TwoPasses,
            inputs: Inputs { base: Base::FirstByDefault, min: 2, max: Some(2) },
            parameters: vec![
                Parameter::number("t", Scope::Shared, Default::Required, "0 gives the base, 1 the other model"),
                Parameter::word(
                    "angle_scope",
                    &["tensor", "model"],
                    "tensor",
                    "whether each tensor has an angle of its own, or the whole model has one",
                )
                .of_statistics(),
            ],
        }
    }

    fn spans_the_model(&self, parameters: &TaskParameters) -> bool {
        parameters.word("angle_scope") == "model"
    }

    fn when_too_few(&self) -> TooFew {
        TooFew::CopyTheOne
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("slerp needs to know which of the two models is the base")?;
        Ok(Box::new(SlerpMerge { base, t: parameters.number("t") }))
    }
}

#[derive(Debug)]
struct SlerpMerge {
    base: usize,
    t: f64,
}

impl Merge for SlerpMerge {
    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        known.is_empty().then_some(Statistic::Gram { origin: None })
    }

    fn kernel(&self, known: &[Reduced], _: u64) -> Result<Box<dyn Kernel>, String> {
        let other = 1 - self.base;
        let (of_base, of_other) = coefficients(known[0].gram(), self.base, other, self.t);
        let mut coefficients = vec![0.0; 2];
        coefficients[self.base] = of_base as f32;
        coefficients[other] = of_other as f32;
        Ok(Box::new(WeightedSum { coefficients, divisor: None }))
    }
}

fn coefficients(gram: &Gram, a: usize, b: usize, t: f64) -> (f64, f64) {
    let norm = |i| if gram.norm(i) > NORM_MIN { gram.norm(i) } else { 1.0 };
    let cosine = (gram.dot(a, b) / (norm(a) * norm(b))).clamp(-1.0, 1.0);
    // written so that NaN, from inputs that are not finite, takes the line too
    if cosine.abs() <= PARALLEL {
        return on_the_arc(cosine, t);
    }
    (1.0 - t, t)
}

/// Coefficients of two vectors at this cosine, t of the way along the arc between them.
pub(super) fn on_the_arc(cosine: f64, t: f64) -> (f64, f64) {
    let angle = libm::acos(cosine);
    let sin = libm::sin(angle);
    (libm::sin((1.0 - t) * angle) / sin, libm::sin(t * angle) / sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(aa: f64, ab: f64, bb: f64) -> Gram {
        Gram { size: 2, products: vec![aa, ab, ab, bb] }
    }

    #[test]
    fn orthogonal_vectors_meet_half_way_on_the_arc() {
        let (a, b) = coefficients(&gram(1.0, 0.0, 1.0), 0, 1, 0.5);
        assert!((a - std::f64::consts::FRAC_1_SQRT_2).abs() < 1e-15 && (a - b).abs() < 1e-15);
    }

    #[test]
    fn parallel_antipodal_zero_and_unfinite_vectors_take_the_line() {
        for gram in [gram(1.0, 1.0, 1.0), gram(1.0, -1.0, 1.0), gram(f64::INFINITY, f64::INFINITY, 1.0)] {
            assert_eq!(coefficients(&gram, 0, 1, 0.25), (0.75, 0.25));
        }
        let (a, b) = coefficients(&gram(0.0, 0.0, 1.0), 0, 1, 0.0);
        assert_eq!((a, b), (1.0, 0.0));
    }
}
