//! `variants` and `grid` to changes. Unknown keys are errors here even in a lenient recipe: a variant that changes nothing
//! would be another merge of the same.

use std::sync::Arc;

use super::change::{Change, Target};
use super::refusal;
use crate::decode::TOP_KEYS;
use crate::draft::problem_at;
use crate::node::{Kind, Node};
use crate::problem::{escape, nearest};
use crate::{Problem, Refusal, limits};

/// What a variant cannot change.
const NOT_CHANGED: &[&str] = &["name", "lenient", "variants", "grid"];

/// One variant before it has a name for certain.
pub(super) struct Unnamed {
    pub name: Option<Node>,
    pub changes: Vec<Change>,
    /// What a name made for it may tell: of a grid the values that vary.
    pub telling: Vec<Change>,
    pub pointer: String,
}

/// Each entry with what it changes.
pub(super) fn list(node: &Node) -> Result<Vec<Unnamed>, Refusal> {
    let what = "a list of variants, as `- {name: strong, parameters: {t: 0.7}}`";
    let Kind::List(items) = &node.kind else { return Err(wrong_type(node, "/variants", what).into()) };
    count(node, "/variants", items.len())?;
    let mut reader = Reader { one: true, ..Reader::default() };
    let mut variants = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let pointer = format!("/variants/{i}");
        let changes: Vec<Change> = reader.changes(item, &pointer).into_iter().flatten().collect();
        variants.push(Unnamed { name: item.get("name").cloned(), telling: changes.clone(), changes, pointer });
    }
    reader.end(variants)
}

/// Every combination, the last value varying fastest.
pub(super) fn grid(node: &Node) -> Result<Vec<Unnamed>, Refusal> {
    let mut reader = Reader::default();
    let axes = reader.changes(node, "/grid");
    let total = axes.iter().map(Vec::len).fold(1_usize, usize::saturating_mul);
    if axes.is_empty() && reader.problems.is_empty() {
        count(node, "/grid", 0)?;
    }
    count(node, "/grid", total.max(1))?;
    let variants =
        if reader.problems.is_empty() { (0..total).map(|n| combination(&axes, n)).collect() } else { Vec::new() };
    reader.end(variants)
}

fn combination(axes: &[Vec<Change>], number: usize) -> Unnamed {
    let mut rest = number;
    let (mut changes, mut telling) = (Vec::new(), Vec::new());
    for axis in axes.iter().rev() {
        let change = axis[rest % axis.len()].clone();
        rest /= axis.len();
        if axis.len() > 1 {
            telling.push(change.clone());
        }
        changes.push(change);
    }
    changes.reverse();
    telling.reverse();
    Unnamed { name: None, changes, telling, pointer: "/grid".to_owned() }
}

fn count(node: &Node, pointer: &str, count: usize) -> Result<(), Problem> {
    if count == 0 {
        let detail = "no variant is written; write at least one, or leave this out".to_owned();
        return Err(problem_at(node, pointer, "missing", detail));
    }
    if count > limits::VARIANTS_MAX {
        let detail = format!("makes {count} merges; at most {} are accepted in one request", limits::VARIANTS_MAX);
        return Err(problem_at(node, pointer, "too_many", detail));
    }
    Ok(())
}

fn wrong_type(node: &Node, pointer: &str, expected: &str) -> Problem {
    problem_at(node, pointer, "invalid_type", format!("expected {expected}, found {}", node.describe()))
}

#[derive(Default)]
struct Reader {
    /// Whether a value is one value, as in a variant, or a list of them, as in a grid.
    one: bool,
    problems: Vec<Problem>,
}

impl Reader {
    fn end(self, variants: Vec<Unnamed>) -> Result<Vec<Unnamed>, Refusal> {
        if self.problems.is_empty() { Ok(variants) } else { Err(refusal(self.problems)) }
    }

    /// For each value that changes, what it may be.
    fn changes(&mut self, node: &Node, pointer: &str) -> Vec<Vec<Change>> {
        let mut axes = Vec::new();
        let expected = "a map of what changes, as `{parameters: {t: ...}}`";
        for (key, value, at) in self.entries(node, pointer, expected) {
            match (key, &value.kind) {
                ("name", _) if self.one => {}
                ("parameters", _) => self.each(value, &at, &mut axes, |name| Target::Parameter(name.to_owned())),
                ("options", _) => self.each(value, &at, &mut axes, |name| Target::Option(name.to_owned())),
                ("models", Kind::Map(_)) => {
                    for (model, parameters, at) in self.entries(value, &at, "") {
                        let target =
                            |name: &str| Target::OfModel { model: model.to_owned(), parameter: name.to_owned() };
                        self.each(parameters, &at, &mut axes, target);
                    }
                }
                (key, _) if TOP_KEYS.contains(&key) && !NOT_CHANGED.contains(&key) => {
                    axes.extend(self.axis(Target::Key(key.to_owned()), value, &at));
                }
                (key, _) => self.unknown(key, value, &at),
            }
        }
        if axes.len() > limits::CHANGES_MAX {
            let detail = format!("changes {} values; at most {} are accepted", axes.len(), limits::CHANGES_MAX);
            self.problems.push(problem_at(node, pointer, "too_many", detail));
            axes.clear();
        }
        axes
    }

    fn entries<'a>(&mut self, node: &'a Node, pointer: &str, expected: &str) -> Vec<(&'a str, &'a Node, String)> {
        let Kind::Map(entries) = &node.kind else {
            self.problems.push(wrong_type(node, pointer, expected));
            return Vec::new();
        };
        let place = |name: &str| format!("{pointer}/{}", escape(name));
        entries.iter().map(|(key, value)| (key.name.as_str(), value, place(&key.name))).collect()
    }

    fn each(&mut self, node: &Node, pointer: &str, axes: &mut Vec<Vec<Change>>, target: impl Fn(&str) -> Target) {
        for (name, value, at) in self.entries(node, pointer, "a map of names and values") {
            axes.extend(self.axis(target(name), value, &at));
        }
    }

    fn axis(&mut self, target: Target, node: &Node, pointer: &str) -> Option<Vec<Change>> {
        if self.one {
            return Some(vec![Change { target, value: Arc::new(node.clone()), pointer: pointer.to_owned() }]);
        }
        let expected = format!("a list of values that `{target}` takes one after the other");
        match &node.kind {
            Kind::List(items) if !items.is_empty() => {
                let change = |(i, item): (usize, &Node)| Change {
                    target: target.clone(),
                    value: Arc::new(item.clone()),
                    pointer: format!("{pointer}/{i}"),
                };
                Some(items.iter().enumerate().map(change).collect())
            }
            _ => {
                self.problems.push(wrong_type(node, pointer, &expected));
                None
            }
        }
    }

    fn unknown(&mut self, key: &str, node: &Node, pointer: &str) {
        if self.problems.len() >= limits::PROBLEMS_MAX {
            return;
        }
        let known = TOP_KEYS.iter().copied().filter(|known| !NOT_CHANGED.contains(known));
        let advice = match nearest(key, known) {
            _ if NOT_CHANGED.contains(&key) => "it is said once for all of them".to_owned(),
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("a parameter goes below `parameters`, as `parameters: {{{key}: ...}}`"),
        };
        let detail = format!("a variant cannot change `{key}`; {advice}");
        self.problems.push(problem_at(node, pointer, "unknown_key", detail));
    }
}
