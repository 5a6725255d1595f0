//! One value that a variant changes, and where that is in the recipe.

use std::fmt;

use crate::Problem;
use crate::draft::{problem_at, set_option};
use crate::node::{Kind, Node};
use crate::problem::escape;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub target: Target,
    pub value: Node,
    /// Where the value stands in the text.
    pub pointer: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A key of the recipe as a whole.
    Key(String),
    Parameter(String),
    Option(String),
    /// A parameter of a model wherever the recipe merges it: of `models`, or of the sources of `slices`.
    OfModel {
        model: String,
        parameter: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Key(key) => f.write_str(key),
            Target::Parameter(name) => f.write_str(name),
            Target::Option(name) => write!(f, "options.{}", name.replace('-', "_")),
            Target::OfModel { model, parameter } => write!(f, "{model}.{parameter}"),
        }
    }
}

/// Gives where each changed value now stands, and where it stood in the text. Whole keys go first, so that the rest
/// changes what they set.
pub(super) fn apply(root: &mut Node, changes: &[Change]) -> Result<Vec<(String, String)>, Vec<Problem>> {
    let (whole, parts): (Vec<_>, Vec<_>) = changes.iter().partition(|c| matches!(c.target, Target::Key(_)));
    let mut moved = Vec::new();
    let mut problems = Vec::new();
    for change in whole.into_iter().chain(parts) {
        match apply_one(root, change) {
            Ok(places) => moved.extend(places.into_iter().map(|place| (place, change.pointer.clone()))),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(moved) } else { Err(problems) }
}

fn apply_one(root: &mut Node, change: &Change) -> Result<Vec<String>, Problem> {
    let value = change.value.clone();
    match &change.target {
        Target::Key(key) => {
            root.set(key, value);
            Ok(vec![format!("/{}", escape(key))])
        }
        Target::Parameter(name) => {
            set_parameter(root, name, value);
            Ok(vec![format!("/parameters/{}", escape(name))])
        }
        Target::Option(name) => {
            set_option(root, name, value);
            Ok(vec![format!("/options/{}", escape(name)), format!("/options/{}", escape(&name.replace('-', "_")))])
        }
        Target::OfModel { model, parameter } => of_model(root, change, model, parameter),
    }
}

fn set_parameter(node: &mut Node, name: &str, value: Node) {
    if let Some(parameters) = node.slot("parameters", value.at) {
        parameters.set(name, value);
    }
}

fn of_model(root: &mut Node, change: &Change, model: &str, parameter: &str) -> Result<Vec<String>, Problem> {
    let mut entries = entries(root);
    let mut found: Vec<usize> =
        (0..entries.len()).filter(|i| entries[*i].1.get("model").is_some_and(|m| names(m, model))).collect();
    if found.is_empty() {
        // of models that are alike the number says which
        found.extend(model.parse::<usize>().ok().filter(|i| *i < entries.len()));
    }
    if found.is_empty() {
        let detail =
            format!("no model of the recipe is {model:?}; write one as the recipe does, or its number from 0 on");
        return Err(problem_at(&change.value, &change.pointer, "unknown_model", detail));
    }
    let place = |i: usize, entries: &mut [(String, &mut Node)]| {
        let (pointer, entry) = &mut entries[i];
        set_parameter(entry, parameter, change.value.clone());
        format!("{pointer}/parameters/{}", escape(parameter))
    };
    Ok(found.into_iter().map(|i| place(i, &mut entries)).collect())
}

/// Every model that the recipe merges, with its pointer, in the order of the text.
fn entries(root: &mut Node) -> Vec<(String, &mut Node)> {
    let Kind::Map(keys) = &mut root.kind else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in keys {
        match key.name.as_str() {
            "models" => found.extend(items("/models", value)),
            "slices" => {
                for (pointer, slice) in items("/slices", value) {
                    let Kind::Map(parts) = &mut slice.kind else { continue };
                    let sources = parts.iter_mut().filter(|(key, _)| key.name == "sources");
                    found.extend(sources.flat_map(|(_, value)| items(&format!("{pointer}/sources"), value)));
                }
            }
            _ => {}
        }
    }
    found
}

fn items<'a>(pointer: &str, node: &'a mut Node) -> Vec<(String, &'a mut Node)> {
    let Kind::List(items) = &mut node.kind else { return Vec::new() };
    items.iter_mut().enumerate().map(|(i, item)| (format!("{pointer}/{i}"), item)).collect()
}

/// Whether a model of the recipe, as text or as `{path: ...}`, is the one meant.
fn names(node: &Node, model: &str) -> bool {
    match &node.kind {
        Kind::Text(text) => text == model,
        Kind::Map(_) => ["path", "model"].iter().filter_map(|key| node.get(key)).any(|inner| names(inner, model)),
        _ => false,
    }
}
