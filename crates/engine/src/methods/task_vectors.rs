//! The family that adds task vectors to a base: `out = base + lambda * combine over i of w_i trim(x_i - base)`.
//! Its members differ by the flags of [`TaskVectorMethod`], so they are data.

use super::{About, Base, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{ElectedSum, Kernel, TaskVector, TaskVectorSum};
use crate::statistic::{Cut, L1, Reduced, Statistic};

pub struct TaskVectorMethod {
    pub name: &'static str,
    pub title: &'static str,
    pub formula: &'static str,
    pub source: &'static str,
    pub advice: &'static str,
    /// Each task vector keeps its largest magnitudes, as many as `density` says.
    pub trims: bool,
    /// Only what agrees with the elected sign is added.
    pub elects: bool,
    pub normalize: bool,
}

impl Method for TaskVectorMethod {
    fn about(&self) -> About {
        let mut parameters = vec![
            Parameter::number(
                "weight",
                Scope::EachInputButBase,
                Default::Required,
                "factor of this model's task vector",
            ),
            Parameter::number("lambda", Scope::Shared, Default::Number(1.0), "factor on the merged task vector"),
            Parameter::boolean(
                "normalize",
                self.normalize,
                "divide by the sum of the weights (of those that agree, where signs are elected)",
            ),
            Parameter::boolean("int8_mask", false, "accepted for mergekit recipes; changes no number"),
        ];
        if self.trims {
            let about = "share of a task vector's elements that is kept, largest magnitudes first";
            parameters.push(
                Parameter::number("density", Scope::EachInputButBase, Default::Number(1.0), about).within(0.0, 1.0),
            );
            parameters.push(Parameter::boolean(
                "rescale",
                false,
                "multiply what is kept so that its L1 norm is that of the whole",
            ));
        }
        About {
            name: self.name,
            title: self.title,
            formula: self.formula,
            source: self.source,
            advice: self.advice,
            inputs: Inputs { base: Base::Required, min: 1, max: None },
            parameters,
        }
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("task vectors need a base")?;
        let vectors = (0..parameters.inputs).filter(|i| *i != base).map(|input| Vector {
            input,
            weight: parameters.number_of(input, "weight").expect("declared for each input but the base"),
            keep: parameters.number_of(input, "density").and_then(|density| kept(density, parameters.elements())),
        });
        Ok(Box::new(TaskVectorMerge {
            base,
            inputs: parameters.inputs,
            vectors: vectors.collect(),
            elects: self.elects,
            normalize: parameters.boolean("normalize"),
            rescale: self.trims && parameters.boolean("rescale"),
            lambda: parameters.number("lambda"),
        }))
    }
}

/// How many of `elements` a density keeps; `None` for all. A density above 0 keeps at least one.
fn kept(density: f64, elements: u64) -> Option<u64> {
    if density >= 1.0 {
        None
    } else if density <= 0.0 {
        Some(0)
    } else {
        Some(((density * elements as f64) as u64).clamp(1, elements.max(1)))
    }
}

#[derive(Debug)]
struct Vector {
    input: usize,
    weight: f64,
    keep: Option<u64>,
}

#[derive(Debug)]
struct TaskVectorMerge {
    base: usize,
    inputs: usize,
    vectors: Vec<Vector>,
    elects: bool,
    normalize: bool,
    rescale: bool,
    lambda: f64,
}

impl TaskVectorMerge {
    fn trims(&self) -> bool {
        self.vectors.iter().any(|v| v.keep.is_some())
    }

    fn keep(&self) -> Vec<Option<u64>> {
        let mut keep = vec![None; self.inputs];
        for vector in &self.vectors {
            keep[vector.input] = vector.keep;
        }
        keep
    }
}

impl Merge for TaskVectorMerge {
    fn copies(&self) -> Option<usize> {
        self.vectors.is_empty().then_some(self.base)
    }

    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        match known {
            [] if self.trims() => Some(Statistic::Cuts { origin: self.base, keep: self.keep() }),
            [Reduced::Cuts(cuts)] if self.rescale => Some(Statistic::L1 { origin: self.base, cuts: cuts.clone() }),
            _ => None,
        }
    }

    fn kernel(&self, known: &[Reduced]) -> Box<dyn Kernel> {
        let cuts: &[Option<Cut>] = match known.first() {
            Some(Reduced::Cuts(cuts)) => cuts,
            _ => &[],
        };
        let norms: &[L1] = match known.get(1) {
            Some(Reduced::L1(norms)) => norms,
            _ => &[],
        };
        let vectors: Vec<TaskVector> = self
            .vectors
            .iter()
            .map(|v| TaskVector {
                input: v.input,
                coefficient: (v.weight * rescale(norms.get(v.input))) as f32,
                weight: v.weight as f32,
                cut: cuts.get(v.input).copied().flatten(),
            })
            .collect();
        let scale = self.lambda as f32;
        if self.elects {
            return Box::new(ElectedSum { base: self.base, vectors, normalize: self.normalize, scale });
        }
        Box::new(TaskVectorSum { base: self.base, vectors, divisor: self.divisor(), scale })
    }
}

impl TaskVectorMerge {
    /// The sum of the weights; a sum of nothing divides by nothing.
    fn divisor(&self) -> Option<f32> {
        let sum: f64 = self.vectors.iter().map(|v| v.weight).sum();
        (self.normalize && sum.abs() >= 1e-8).then_some(sum as f32)
    }
}

/// Norm of the whole over norm of what was kept; 1 where either is next to nothing.
fn rescale(norms: Option<&L1>) -> f64 {
    match norms {
        Some(L1 { all, kept }) if *all >= 1e-7 && *kept >= 1e-7 => all / kept,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_density_keeps_the_count_it_names() {
        let cases = [
            (1.0, 10, None),
            (2.0, 10, None),
            (0.5, 10, Some(5)),
            (0.55, 10, Some(5)),
            (0.01, 10, Some(1)),
            (0.0, 10, Some(0)),
            (-1.0, 10, Some(0)),
            (0.5, 0, Some(1)),
        ];
        for (density, elements, expected) in cases {
            assert_eq!(kept(density, elements), expected, "{density} of {elements}");
        }
    }
}
