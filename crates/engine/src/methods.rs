//! The registry of merge methods. A method never meets a backend or a file: it says which statistics it needs, how they
//! and the parameters become coefficients, and which kernel makes an element.
//!
//! Adding one is a file beside this and a line in [`METHODS`]; checks, documentation, planning and tests iterate over it.

mod linear;
mod passthrough;
mod slerp;
mod task_arithmetic;
mod task_vectors;
mod ties;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::statistic::{Reduced, Statistic};

pub static METHODS: &[&dyn Method] =
    &[&linear::Linear, &passthrough::Passthrough, &slerp::Slerp, &task_arithmetic::TASK_ARITHMETIC, &ties::TIES];

/// Methods that mergekit users know and that are still to come here; named so that the refusal can say so.
pub const METHODS_TO_COME: &[&str] = &[
    "nuslerp",
    "multislerp",
    "karcher",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "sce",
    "ram",
    "ramplus_tl",
    "model_stock",
    "nearswap",
    "arcee_fusion",
];

pub fn find(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|m| m.about().name == name)
}

pub trait Method: Sync {
    fn about(&self) -> About;

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
    pub inputs: Inputs,
    pub parameters: Vec<Parameter>,
}

/// How many inputs a tensor may have, the base counted.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Number,
    Boolean,
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
    /// Not set is a meaning of its own.
    Absent,
}

impl Parameter {
    const fn number(name: &'static str, scope: Scope, default: Default, about: &'static str) -> Parameter {
        Parameter { name, kind: Kind::Number, scope, default, range: None, about }
    }

    const fn boolean(name: &'static str, default: bool, about: &'static str) -> Parameter {
        Parameter {
            name,
            kind: Kind::Boolean,
            scope: Scope::Shared,
            default: Default::Boolean(default),
            range: None,
            about,
        }
    }

    const fn within(mut self, low: f64, high: f64) -> Parameter {
        self.range = Some((low, high));
        self
    }
}

/// A parameter's value for one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Resolved {
    Number(f64),
    Boolean(bool),
}

/// Everything a method may know of a tensor before its data is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskParameters {
    pub shape: Vec<u64>,
    #[serde(skip)]
    pub inputs: usize,
    /// Which input is the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<usize>,
    pub shared: BTreeMap<&'static str, Resolved>,
    /// For each input.
    pub each: Vec<BTreeMap<&'static str, Resolved>>,
}

impl TaskParameters {
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

    fn kernel(&self, known: &[Reduced]) -> Box<dyn Kernel>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_registered_once_and_told_in_full() {
        let mut names: Vec<_> = METHODS.iter().map(|m| m.about().name).collect();
        assert!(names.iter().all(|name| !METHODS_TO_COME.contains(name)));
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
