//! The registry of merge methods. A method never meets a backend or a file: it says which statistics it needs, how they
//! and the parameters become coefficients, and which kernel makes an element.
//!
//! Adding one is a file beside this and a line in [`METHODS`]; checks, documentation, planning and tests iterate over it.

mod arcee_fusion;
mod breadcrumbs;
mod consensus;
mod dare;
mod della;
mod karcher;
mod linear;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod passthrough;
mod pcb;
mod presets;
mod ram;
mod sce;
mod slerp;
mod task_arithmetic;
mod task_vectors;
mod ties;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::kernel::{Draws, Kernel};
use crate::philox::Stream;
use crate::statistic::{Reduced, Statistic};

pub static METHODS: &[&dyn Method] = &[
    &linear::Linear,
    &slerp::Slerp,
    &nuslerp::NuSlerp,
    &multislerp::MultiSlerp,
    &karcher::Karcher,
    &passthrough::Passthrough,
    &task_arithmetic::TASK_ARITHMETIC,
    &ties::TIES,
    &dare::DARE_LINEAR,
    &dare::DARE_TIES,
    &della::DELLA,
    &della::DELLA_LINEAR,
    &breadcrumbs::BREADCRUMBS,
    &breadcrumbs::BREADCRUMBS_TIES,
    &sce::Sce,
    &ram::RAM,
    &ram::RAMPLUS_TL,
    &model_stock::ModelStock,
    &nearswap::NearSwap,
    &arcee_fusion::ArceeFusion,
    &consensus::CONSENSUS_TASK_ARITHMETIC,
    &consensus::CONSENSUS_TIES,
    &pcb::Pcb,
    &presets::WISE_FT,
    &presets::EXPO,
    &presets::CHAT_VECTOR,
    &presets::NEGATION,
];

pub fn find(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|m| m.about().name == name)
}

/// One input as it is: what passthrough does without a scale.
pub(crate) fn copy() -> Box<dyn Merge> {
    passthrough::copy()
}

pub trait Method: Sync {
    fn about(&self) -> About;

    /// Whether the statistics are to be taken over all tensors at once, by these parameters.
    fn spans_the_model(&self, _parameters: &TaskParameters) -> bool {
        false
    }

    /// What becomes of a tensor that too few of the models have.
    fn when_too_few(&self) -> TooFew {
        TooFew::Refuse
    }

    /// Applies the method to one tensor whose parameters are resolved. The error says what to write instead.
    fn prepare(&self, parameters: &TaskParameters) -> Result<Box<dyn Merge>, String>;
}

/// What a user is told of a method, and what checks go by.
#[derive(Debug, Clone, Serialize)]
pub struct About {
    pub name: &'static str,
    pub title: &'static str,
    pub formula: &'static str,
    /// Paper or source of the formula.
    pub source: &'static str,
    pub advice: &'static str,
    pub cost: Cost,
    pub inputs: Inputs,
    pub parameters: Vec<Parameter>,
}

impl About {
    /// Whether the result follows from a seed.
    pub(crate) fn draws_numbers(&self) -> bool {
        self.name.starts_with("dare_") || self.name.starts_with("della") || self.name == crate::lora::kinds::EXTRACT
    }
}

/// What becomes of a tensor that fewer models have than the method merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooFew {
    Refuse,
    /// The one model that has it gives it.
    CopyTheOne,
    /// The base gives it, if it is the base that has it.
    CopyTheBase,
    /// The same, and without the base the tensor is left out, with a warning.
    CopyTheBaseOrLeaveOut,
}

/// What an element costs: how often inputs are read before the output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Inputs are read once.
    Elementwise,
    /// Inputs are read twice: for inner products, then for the output.
    TwoPasses,
    /// Inputs are read twice or more: for exact cuts and what depends on them, then for the output.
    Selection,
}

/// How many inputs a tensor may have, the base counted unless it is optional.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Inputs {
    pub base: Base,
    pub min: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// With one, its differences are merged; without, the models themselves. It does not count among the inputs.
    Optional,
    /// A base is an input like any other.
    Ordinary,
    /// The first source where none is named.
    FirstByDefault,
    Required,
}

#[derive(Debug, Clone, Serialize)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub scope: Scope,
    pub default: Default,
    /// Inclusive bounds that a value must lie in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<(f64, f64)>,
    pub about: &'static str,
    /// Whether a statistic over the whole model depends on it, so that it cannot differ between tensors that share one.
    #[serde(skip)]
    pub(crate) of_statistics: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Number,
    /// A whole number.
    Count,
    Boolean,
    /// One of some words.
    Word(&'static [&'static str]),
}

/// Which inputs a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One value for the tensor.
    Shared,
    EachInput,
    EachInputButBase,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Default {
    Required,
    /// Required, except that a recipe which sets it nowhere means this number everywhere.
    WhenSetNowhere(f64),
    Number(f64),
    Boolean(bool),
    Word(&'static str),
    /// Not set is a meaning of its own.
    Absent,
}

impl Parameter {
    const fn number(name: &'static str, scope: Scope, default: Default, about: &'static str) -> Parameter {
        Parameter { name, kind: Kind::Number, scope, default, range: None, about, of_statistics: false }
    }

    const fn boolean(name: &'static str, default: bool, about: &'static str) -> Parameter {
        Parameter {
            name,
            kind: Kind::Boolean,
            scope: Scope::Shared,
            default: Default::Boolean(default),
            range: None,
            about,
            of_statistics: false,
        }
    }

    const fn word(
        name: &'static str,
        words: &'static [&'static str],
        default: &'static str,
        about: &'static str,
    ) -> Parameter {
        Parameter {
            name,
            kind: Kind::Word(words),
            scope: Scope::Shared,
            default: Default::Word(default),
            range: None,
            about,
            of_statistics: false,
        }
    }

    const fn count(name: &'static str, default: f64, about: &'static str) -> Parameter {
        Parameter {
            name,
            kind: Kind::Count,
            scope: Scope::Shared,
            default: Default::Number(default),
            range: Some((0.0, 1e6)),
            about,
            of_statistics: false,
        }
    }

    const fn within(mut self, low: f64, high: f64) -> Parameter {
        self.range = Some((low, high));
        self
    }

    const fn of_statistics(mut self) -> Parameter {
        self.of_statistics = true;
        self
    }
}

/// A parameter's value for one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Resolved {
    Number(f64),
    Boolean(bool),
    Word(&'static str),
}

/// Everything a method may know of a tensor before its data is read.
#[derive(Debug, Clone, Serialize)]
pub struct TaskParameters {
    #[serde(skip)]
    pub draws: DrawSource,
    pub shape: Vec<u64>,
    /// Where the tensor's layer is in the output, from 0 at the first to 1 at the last; `None` outside the layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
    #[serde(skip)]
    pub inputs: usize,
    /// Which input is the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<usize>,
    pub shared: Values,
    /// For each input.
    pub each: Vec<Values>,
}

/// Parameters by name. Tensors that have the same ones share them: a model may have a hundred thousand tensors.
pub type Values = Arc<BTreeMap<&'static str, Resolved>>;

/// Where a tensor's random numbers come from.
#[derive(Clone)]
pub enum DrawSource {
    Philox {
        seed: u64,
        tensor: String,
    },
    /// For each input, numbers from outside: to compare with another implementation's generator.
    Given(Arc<dyn Fn(usize) -> Draws + Send + Sync>),
}

impl std::fmt::Debug for DrawSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DrawSource::Philox { seed, tensor } => write!(f, "Philox {seed} {tensor:?}"),
            DrawSource::Given(_) => f.write_str("Given"),
        }
    }
}

impl TaskParameters {
    /// Random numbers for one input's elements.
    fn draws_of(&self, input: usize) -> Draws {
        match &self.draws {
            DrawSource::Philox { seed, tensor } => Draws::Philox(Stream::new(*seed, tensor, input as u32)),
            DrawSource::Given(draws) => draws(input),
        }
    }

    /// The tensor as rows of its last dimension; a vector is one row.
    fn rows(&self) -> (u64, u64) {
        let columns = self.shape.last().copied().unwrap_or(1).max(1);
        (self.elements() / columns, columns)
    }

    /// Every input but the base.
    fn others(&self) -> Vec<usize> {
        (0..self.inputs).filter(|i| Some(*i) != self.base).collect()
    }

    fn word(&self, name: &str) -> &'static str {
        match self.shared.get(name) {
            Some(Resolved::Word(word)) => word,
            other => unreachable!("{name} is declared as a word, found {other:?}"),
        }
    }

    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// A shared number; checks saw to it that it is there.
    fn number(&self, name: &str) -> f64 {
        match self.shared.get(name) {
            Some(Resolved::Number(n)) => *n,
            other => unreachable!("{name} is declared as a shared number, found {other:?}"),
        }
    }

    fn boolean(&self, name: &str) -> bool {
        match self.shared.get(name) {
            Some(Resolved::Boolean(b)) => *b,
            other => unreachable!("{name} is declared as a shared boolean, found {other:?}"),
        }
    }

    fn number_of(&self, input: usize, name: &str) -> Option<f64> {
        match self.each[input].get(name) {
            Some(Resolved::Number(n)) => Some(*n),
            _ => None,
        }
    }

    /// A number of every input in turn; checks saw to it that it is there.
    fn numbers(&self, name: &str) -> Vec<f64> {
        (0..self.inputs).map(|i| self.number_of(i, name).expect("declared for each input")).collect()
    }
}

/// A method applied to one tensor: statistics are asked for one after the other, then the kernel is made.
pub trait Merge: Send + Sync + std::fmt::Debug {
    /// The input whose values are the result unchanged, when there is one.
    fn copies(&self) -> Option<usize> {
        None
    }

    /// The next statistic needed, given those reduced so far.
    fn statistic(&self, _known: &[Reduced]) -> Option<Statistic> {
        None
    }

    /// `offset` is where the tensor begins in what the statistics were taken over: 0 unless that is the whole model.
    /// The error says why these values cannot be merged.
    fn kernel(&self, known: &[Reduced], offset: u64) -> Result<Box<dyn Kernel>, String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_registered_once_and_told_in_full() {
        let mut names: Vec<_> = METHODS.iter().map(|m| m.about().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
        for about in METHODS.iter().map(|m| m.about()) {
            assert!(
                !about.formula.is_empty() && !about.source.is_empty() && !about.advice.is_empty(),
                "{}",
                about.name
            );
            assert!(about.parameters.iter().all(|p| !p.about.is_empty()), "{}", about.name);
        }
    }
}
