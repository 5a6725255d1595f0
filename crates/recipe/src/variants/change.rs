//! One value that a variant changes, and where that is in the recipe.

use std::fmt;
use std::sync::Arc;

use crate::draft::{problem_at, set_option};
use crate::node::{Kind, Node};
use crate::problem::escape;
use crate::{Problem, limits};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub target: Target,
    pub value: Arc<Node>,
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
        if moved.len() > limits::CHANGED_PLACES_MAX {
            let detail = format!("changes more than {} places of the recipe", limits::CHANGED_PLACES_MAX);
            return Err(vec![problem_at(&change.value, &change.pointer, "too_many", detail)]);
        }
    }
    if problems.is_empty() { Ok(moved) } else { Err(problems) }
}

fn apply_one(root: &mut Node, change: &Change) -> Result<Vec<String>, Problem> {
    let value = Node::clone(&change.value);
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
    let all = places(root);
    let is_meant =
        |place: &&Place| place.entry(root).and_then(|entry| entry.get("model")).is_some_and(|m| names(m, model));
    let mut found: Vec<Place> = all.iter().filter(is_meant).cloned().collect();
    if found.is_empty() {
        // of models that are alike the number says which
        found.extend(model.parse::<usize>().ok().and_then(|number| all.get(number).cloned()));
    }
    if found.is_empty() {
        let detail =
            format!("no model of the recipe is {model:?}; write one as the recipe does, or its number from 0 on");
        return Err(problem_at(&change.value, &change.pointer, "unknown_model", detail));
    }
    let copies = found.len().saturating_mul(Node::count(&change.value));
    if found.len() > limits::CHANGED_PLACES_MAX || copies > limits::NODES_MAX {
        let detail = format!(
            "sets {} values in {} places, more than a recipe may have",
            Node::count(&change.value),
            found.len()
        );
        return Err(problem_at(&change.value, &change.pointer, "too_many", detail));
    }
    for place in &found {
        let entry = place.entry_mut(root).expect("the place was found in this tree");
        set_parameter(entry, parameter, Node::clone(&change.value));
    }
    Ok(found.into_iter().map(|place| format!("{}/parameters/{}", place.pointer(), escape(parameter))).collect())
}

/// Where the recipe merges a model: the way there.
#[derive(Debug, Clone)]
struct Place(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Item(usize),
}

/// Every such place, in the order of the text.
fn places(root: &Node) -> Vec<Place> {
    let mut found = places_of(root, &[]);
    if let Some(Kind::Map(modules)) = root.get("modules").map(|node| &node.kind) {
        for (key, module) in modules {
            found.extend(places_of(module, &[Step::Key("modules".to_owned()), Step::Key(key.name.clone())]));
        }
    }
    found
}

/// Those of `models` and `slices` in a recipe, or in one of its modules.
fn places_of(scope: &Node, above: &[Step]) -> Vec<Place> {
    let place = |steps: Vec<Step>| Place([above, &steps].concat());
    let key = |name: &str| Step::Key(name.to_owned());
    let models = (0..scope.get("models").map_or(0, Node::len)).map(|i| place(vec![key("models"), Step::Item(i)]));
    let slices = scope.get("slices").map_or(&[][..], Node::items);
    let sources = slices.iter().enumerate().flat_map(|(slice, node)| {
        (0..node.get("sources").map_or(0, Node::len))
            .map(move |source| place(vec![key("slices"), Step::Item(slice), key("sources"), Step::Item(source)]))
    });
    models.chain(sources).collect()
}

impl Place {
    fn pointer(&self) -> String {
        let step = |step: &Step| match step {
            Step::Key(name) => format!("/{}", escape(name)),
            Step::Item(i) => format!("/{i}"),
        };
        self.0.iter().map(step).collect()
    }

    fn entry<'a>(&self, root: &'a Node) -> Option<&'a Node> {
        self.0.iter().try_fold(root, |node, step| match step {
            Step::Key(name) => node.get(name),
            Step::Item(i) => node.items().get(*i),
        })
    }

    fn entry_mut<'a>(&self, root: &'a mut Node) -> Option<&'a mut Node> {
        self.0.iter().try_fold(root, |node, step| match step {
            Step::Key(name) => node.slot(name, None),
            Step::Item(i) => node.item_mut(*i),
        })
    }
}

/// Whether a model of the recipe, as text or as `{path: ...}`, is the one meant.
fn names(node: &Node, model: &str) -> bool {
    match &node.kind {
        Kind::Text(text) => text == model,
        Kind::Map(_) => ["path", "model"].iter().filter_map(|key| node.get(key)).any(|inner| names(inner, model)),
        _ => false,
    }
}
