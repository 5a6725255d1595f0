//! The family that adds task vectors to a base: `out = base + lambda * combine over i of w_i trim(x_i - base)`.
//! Its members differ by the flags of [`TaskVectorMethod`], so they are data.

use std::sync::Arc;

use super::{About, Base, Cost, Default, Inputs, Merge, Method, Parameter, Scope, TaskParameters};
use crate::kernel::{
    Consensus, Draws, ElectedSum, Election, Kernel, Mask, MergedVector, Ranking, TaskVector, TaskVectorSum,
};
use crate::statistic::{Cut, Reduced, Statistic};

pub struct TaskVectorMethod {
    pub name: &'static str,
    pub title: &'static str,
    pub formula: &'static str,
    pub source: &'static str,
    pub advice: &'static str,
    pub trim: Trim,
    /// Only what agrees with the elected sign is added.
    pub elects: bool,
    pub normalize: bool,
    /// What is kept is scaled up to what the whole was, unless the recipe says otherwise.
    pub rescales: bool,
    /// Only what enough of the tasks find important is added.
    pub consensus: bool,
    pub weight: Default,
}

/// Which elements of a task vector are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trim {
    All,
    /// The largest magnitudes; the number is the default density in percent.
    Magnitude(u32),
    /// Each with the same probability.
    Random,
    /// Large magnitudes without the very largest.
    Outliers,
    /// With a probability that rises with the magnitude's rank in its row.
    Ranked,
}

impl TaskVectorMethod {
    fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = vec![
            Parameter::number("weight", Scope::EachInputButBase, self.weight, "factor of this model's task vector"),
            Parameter::number("lambda", Scope::Shared, Default::Number(1.0), "factor on the merged task vector"),
            Parameter::boolean(
                "normalize",
                self.normalize,
                "divide by the sum of the weights (of those that agree, where signs are elected)",
            ),
            Parameter::boolean("int8_mask", false, "accepted for mergekit recipes; changes no number"),
            Parameter::number(
                "lines_alpha",
                Scope::Shared,
                Default::Absent,
                "LiNeS: factor of tensors outside the layers and of the first layer (arXiv:2410.17146)",
            ),
            Parameter::number(
                "lines_beta",
                Scope::Shared,
                Default::Absent,
                "LiNeS: what the factor has gained at the last layer, rising evenly",
            ),
        ];
        parameters.extend(self.trim_parameters());
        if self.elects {
            let about = "whether an element's sign is elected by the sum of the votes or by their number";
            parameters.push(Parameter::word("sign_method", &["sum", "count"], "sum", about));
        }
        if self.consensus {
            parameters.push(Parameter::number(
                "mask_lambda",
                Scope::Shared,
                Default::Number(0.4),
                "how much a task's own part must weigh against the rest to be important, 0.2 to 0.6",
            ));
            parameters.push(Parameter::count("consensus_min", 2.0, "tasks that must find an element important"));
        }
        parameters
    }

    fn trim_parameters(&self) -> Vec<Parameter> {
        let each =
            |name, default, about| Parameter::number(name, Scope::EachInputButBase, Default::Number(default), about);
        let l1 = if self.rescales { "l1" } else { "none" };
        let random = &["none", "l1", "expected"];
        let rescale_random = Parameter::word(
            "rescale",
            random,
            l1,
            "l1: keep the L1 norm (mergekit); expected: divide by the probability (the papers)",
        );
        match self.trim {
            Trim::All => Vec::new(),
            Trim::Magnitude(percent) => vec![
                each(
                    "density",
                    f64::from(percent) / 100.0,
                    "share of a task vector's elements that is kept, largest magnitudes first",
                )
                .within(0.0, 1.0)
                .of_statistics(),
                Parameter::word(
                    "rescale",
                    &["none", "l1"],
                    l1,
                    "l1: multiply what is kept so that its L1 norm is that of the whole",
                )
                .of_statistics(),
                Parameter::word(
                    "trim_scope",
                    &["tensor", "model"],
                    "tensor",
                    "whether the share is taken of each tensor, or of the whole model (as the paper does)",
                )
                .of_statistics(),
            ],
            Trim::Random => vec![
                each(
                    "density",
                    1.0,
                    "probability with which an element is kept; beside `drop_rate`, share kept by magnitude afterwards",
                )
                .within(0.0, 1.0),
                Parameter::number(
                    "drop_rate",
                    Scope::EachInputButBase,
                    Default::Absent,
                    "probability with which an element is dropped; a trim to `density` by magnitude follows",
                )
                .within(0.0, 1.0),
                rescale_random,
            ],
            Trim::Outliers => vec![
                each("density", 1.0, "share of elements that is kept").within(0.0, 1.0),
                each("gamma", 0.01, "share of the largest elements that is dropped as outliers").within(0.0, 1.0),
                Parameter::word(
                    "rescale",
                    &["none", "l1"],
                    l1,
                    "l1: multiply what is kept so that its L1 norm is that of the whole",
                ),
            ],
            Trim::Ranked => vec![
                each("density", 1.0, "mean probability with which an element is kept").within(0.0, 1.0),
                each(
                    "epsilon",
                    0.15,
                    "the probability is density - epsilon for the smallest of a row, density + epsilon for the largest",
                ),
                rescale_random,
            ],
        }
    }

    fn cost(&self) -> Cost {
        match self.trim {
            Trim::All => Cost::Elementwise,
            Trim::Random | Trim::Ranked => Cost::TwoPasses,
            Trim::Magnitude(_) | Trim::Outliers => Cost::Selection,
        }
    }

    fn first(&self, parameters: &TaskParameters, input: usize) -> Result<First, String> {
        let number = |name| parameters.number_of(input, name).expect("declared for each input but the base");
        let elements = parameters.elements();
        Ok(match self.trim {
            Trim::All => First::All,
            Trim::Magnitude(_) => kept(number("density"), elements).map_or(First::All, First::Largest),
            Trim::Outliers => outliers(number("density"), number("gamma"), elements),
            Trim::Random => {
                let keep = parameters.number_of(input, "drop_rate").map_or(number("density"), |drop| 1.0 - drop);
                random(keep, parameters.draws_of(input), parameters.word("rescale") == "expected")
            }
            Trim::Ranked => ranked(number("density"), number("epsilon"), parameters, input)?,
        })
    }

    /// What is kept by magnitude after a random drop.
    fn then(&self, parameters: &TaskParameters, input: usize) -> Option<u64> {
        parameters.number_of(input, "drop_rate")?;
        kept(parameters.number_of(input, "density")?, parameters.elements())
    }
}

impl Method for TaskVectorMethod {
    fn about(&self) -> About {
        About {
            name: self.name,
            title: self.title,
            formula: self.formula,
            source: self.source,
            advice: self.advice,
            cost: self.cost(),
            inputs: Inputs { base: Base::Required, min: 1, max: None },
            parameters: self.parameters(),
        }
    }

    fn spans_the_model(&self, parameters: &TaskParameters) -> bool {
        matches!(self.trim, Trim::Magnitude(_)) && parameters.word("trim_scope") == "model"
    }

    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String> {
        let base = parameters.base.ok_or("task vectors need a base")?;
        let vector = |input| {
            Ok(Vector {
                input,
                weight: parameters.number_of(input, "weight").expect("declared for each input but the base"),
                first: self.first(parameters, input)?,
                then: self.then(parameters, input),
            })
        };
        let vectors: Vec<Vector> = parameters.others().into_iter().map(vector).collect::<Result<_, String>>()?;
        let rescales = self.trim != Trim::All && parameters.word("rescale") == "l1";
        let phases = phases(&vectors, rescales);
        Ok(Box::new(TaskVectorMerge {
            base,
            phases,
            vectors,
            election: self.elects.then(|| election(parameters)),
            normalize: parameters.boolean("normalize"),
            consensus: self
                .consensus
                .then(|| (parameters.number("mask_lambda") as f32, parameters.number("consensus_min") as f32)),
            scale: parameters.number("lambda") * lines(parameters),
        }))
    }
}

fn election(parameters: &TaskParameters) -> Election {
    if parameters.word("sign_method") == "count" { Election::Count } else { Election::Mass }
}

/// Layer-increasing scaling; 1 where the recipe does not ask for it.
fn lines(parameters: &TaskParameters) -> f64 {
    let number = |name| match parameters.shared.get(name) {
        Some(super::Resolved::Number(n)) => Some(*n),
        _ => None,
    };
    match (number("lines_alpha"), number("lines_beta")) {
        (None, None) => 1.0,
        (alpha, beta) => alpha.unwrap_or(1.0) + beta.unwrap_or(0.0) * parameters.depth.unwrap_or(0.0),
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

/// Of the elements in order of magnitude, `density` of them below the `gamma` largest; where both do not fit, fewer count
/// as outliers.
fn outliers(density: f64, gamma: f64, elements: u64) -> First {
    if density >= 1.0 {
        return First::All;
    }
    let target = (density.max(0.0) * elements as f64) as u64;
    let top = ((gamma.max(0.0) * elements as f64) as u64).min(elements - target);
    if target == 0 { First::Largest(0) } else { First::Band { outer: target + top, inner: top } }
}

fn random(keep: f64, draws: Draws, unbiased: bool) -> First {
    if keep >= 1.0 {
        First::All
    } else if keep <= 0.0 {
        First::Largest(0)
    } else {
        First::Random { draws, keep: keep as f32, unbiased }
    }
}

fn ranked(density: f64, epsilon: f64, parameters: &TaskParameters, input: usize) -> Result<First, String> {
    if density >= 1.0 {
        return Ok(First::All);
    }
    if density <= 0.0 {
        return Ok(First::Largest(0));
    }
    if density + epsilon >= 1.0 || density - epsilon <= 0.0 {
        return Err(format!(
            "density {density} plus and minus epsilon {epsilon} must lie between 0 and 1; choose a smaller epsilon"
        ));
    }
    // a vector is one row; more dimensions than two are ranked along the second, as mergekit does
    let (length, stride) = match parameters.shape[..] {
        [] | [_] => (parameters.elements(), 1),
        [_, second, ref rest @ ..] => (second, rest.iter().product()),
    };
    let unbiased = parameters.word("rescale") == "expected";
    let ranking =
        Ranking { length, stride, lowest: (density - epsilon) as f32, spread: (2.0 * epsilon) as f32, unbiased };
    Ok(First::Ranked { draws: parameters.draws_of(input), ranking })
}

#[derive(Debug)]
struct Vector {
    input: usize,
    weight: f64,
    first: First,
    then: Option<u64>,
}

/// The first stage of a trim.
#[derive(Debug, Clone)]
enum First {
    All,
    Largest(u64),
    Band { outer: u64, inner: u64 },
    Random { draws: Draws, keep: f32, unbiased: bool },
    Ranked { draws: Draws, ranking: Ranking },
}

/// Statistics are asked for in this order, those that are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Cuts of the first stage.
    Cuts,
    /// L1 norms before and after it.
    Norms,
    /// Cuts of the second stage.
    Then,
}

fn phases(vectors: &[Vector], rescales: bool) -> Vec<Phase> {
    let cuts = vectors.iter().any(|v| matches!(v.first, First::Largest(_) | First::Band { .. }));
    let trims = vectors.iter().any(|v| !matches!(v.first, First::All));
    let then = vectors.iter().any(|v| v.then.is_some());
    let wanted = [(Phase::Cuts, cuts), (Phase::Norms, rescales && trims), (Phase::Then, then)];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(phase, _)| phase).collect()
}

#[derive(Debug)]
struct TaskVectorMerge {
    base: usize,
    vectors: Vec<Vector>,
    phases: Vec<Phase>,
    election: Option<Election>,
    normalize: bool,
    /// Mask lambda and tasks that must agree.
    consensus: Option<(f32, f32)>,
    scale: f64,
}

impl Merge for TaskVectorMerge {
    fn copies(&self) -> Option<usize> {
        self.vectors.is_empty().then_some(self.base)
    }

    fn statistic(&self, known: &[Reduced]) -> Option<Statistic> {
        let phase = self.phases.get(known.len())?;
        Some(match phase {
            Phase::Cuts => self.cuts(),
            Phase::Norms => self.norms(known),
            Phase::Then => self.then_cuts(known),
        })
    }

    fn kernel(&self, known: &[Reduced], offset: u64) -> Result<Box<dyn Kernel>, String> {
        let vectors: Vec<TaskVector> = (0..self.vectors.len()).map(|k| self.task_vector(k, known, offset)).collect();
        let scale = self.scale as f32;
        let Some((mask_lambda, agreeing_min)) = self.consensus else {
            return Ok(match self.merged(vectors) {
                MergedVector::Sum(sum) => Box::new(TaskVectorSum { scale, ..sum }),
                MergedVector::Elected(sum) => Box::new(ElectedSum { scale, ..sum }),
            });
        };
        let merged = self.merged(vectors.clone());
        Ok(Box::new(Consensus { base: self.base, vectors, merged, mask_lambda, agreeing_min, scale }))
    }
}

impl TaskVectorMerge {
    fn merged(&self, vectors: Vec<TaskVector>) -> MergedVector {
        match self.election {
            Some(election) => MergedVector::Elected(ElectedSum {
                base: self.base,
                vectors,
                election,
                normalize: self.normalize,
                scale: 1.0,
            }),
            None => MergedVector::Sum(TaskVectorSum { base: self.base, vectors, divisor: self.divisor(), scale: 1.0 }),
        }
    }

    /// The sum of the weights; a sum of nothing divides by nothing.
    fn divisor(&self) -> Option<f32> {
        let sum: f64 = self.vectors.iter().map(|v| v.weight).sum();
        (self.normalize && sum.abs() >= 1e-8).then_some(sum as f32)
    }

    fn known<'a>(&self, phase: Phase, known: &'a [Reduced]) -> Option<&'a Reduced> {
        known.get(self.phases.iter().position(|p| *p == phase)?)
    }

    fn cuts(&self) -> Statistic {
        let of = self
            .vectors
            .iter()
            .map(|v| Arc::new(TaskVector::plain(v.input, self.base, 1.0)) as Arc<dyn Kernel>)
            .collect();
        let keep = self
            .vectors
            .iter()
            .enumerate()
            .flat_map(|(k, v)| v.first.counts().into_iter().map(move |n| (k, n)))
            .collect();
        Statistic::Cuts { of, keep }
    }

    fn norms(&self, known: &[Reduced]) -> Statistic {
        let masked = |(k, v): (usize, &Vector)| TaskVector {
            masks: self.first_masks(k, known, 0),
            ..TaskVector::plain(v.input, self.base, 1.0)
        };
        Statistic::Norms { of: self.vectors.iter().enumerate().map(masked).collect() }
    }

    fn then_cuts(&self, known: &[Reduced]) -> Statistic {
        let of = (0..self.vectors.len()).map(|k| {
            let vector = TaskVector {
                masks: self.scaled_masks(k, known, 0),
                ..TaskVector::plain(self.vectors[k].input, self.base, 1.0)
            };
            Arc::new(vector) as Arc<dyn Kernel>
        });
        let keep = self.vectors.iter().enumerate().filter_map(|(k, v)| Some((k, v.then?))).collect();
        Statistic::Cuts { of: of.collect(), keep }
    }

    fn task_vector(&self, k: usize, known: &[Reduced], offset: u64) -> TaskVector {
        let vector = &self.vectors[k];
        let mut masks = self.scaled_masks(k, known, offset);
        if vector.then.is_some() {
            let nth = self.vectors[..k].iter().filter(|v| v.then.is_some()).count();
            let cut = self.known(Phase::Then, known).expect("asked for before the kernel").cuts()[nth];
            masks.push(Mask::Cut { cut, offset });
        }
        TaskVector { masks, ..TaskVector::plain(vector.input, self.base, vector.weight as f32) }
    }

    /// The first stage and its rescale.
    fn scaled_masks(&self, k: usize, known: &[Reduced], offset: u64) -> Vec<Mask> {
        let Some(norms) = self.known(Phase::Norms, known).map(|norms| &norms.norms()[k]) else {
            return self.first_masks(k, known, offset);
        };
        let mut masks = match &norms.kept {
            Some(kept) => vec![Mask::Kept { kept: kept.clone(), offset }],
            None => self.first_masks(k, known, offset),
        };
        // next to nothing is left as it is
        if norms.whole >= 1e-7 && norms.masked >= 1e-7 && !masks.is_empty() {
            masks.push(Mask::Scale((norms.whole / norms.masked) as f32));
        }
        masks
    }

    fn first_masks(&self, k: usize, known: &[Reduced], offset: u64) -> Vec<Mask> {
        let cut = |nth: usize| -> Cut {
            let before: usize = self.vectors[..k].iter().map(|v| v.first.counts().len()).sum();
            self.known(Phase::Cuts, known).expect("asked for before what needs it").cuts()[before + nth]
        };
        match &self.vectors[k].first {
            First::All => Vec::new(),
            First::Largest(_) => vec![Mask::Cut { cut: cut(0), offset }],
            First::Band { .. } => vec![Mask::Band { outer: cut(0), inner: cut(1) }],
            First::Random { draws, keep, unbiased } => {
                let mut masks = vec![Mask::Random { draws: draws.clone(), keep: *keep }];
                if *unbiased {
                    masks.push(Mask::Scale(1.0 / keep));
                }
                masks
            }
            First::Ranked { draws, ranking } => vec![Mask::Ranked { draws: draws.clone(), ranking: *ranking }],
        }
    }
}

impl First {
    /// Counts of the cuts it needs.
    fn counts(&self) -> Vec<u64> {
        match self {
            First::Largest(count) => vec![*count],
            First::Band { outer, inner } => vec![*outer, *inner],
            First::All | First::Random { .. } | First::Ranked { .. } => Vec::new(),
        }
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

    #[test]
    fn outliers_make_way_where_density_needs_the_room() {
        let band = |density, gamma, elements| match outliers(density, gamma, elements) {
            First::Band { outer, inner } => Some((outer, inner)),
            _ => None,
        };
        assert_eq!(band(0.5, 0.25, 8), Some((6, 2)));
        assert_eq!(band(0.9, 0.25, 8), Some((8, 1)));
        assert_eq!(band(0.5, 0.0, 8), Some((4, 0)));
        assert_eq!(band(0.0, 0.1, 8), None);
    }
}
