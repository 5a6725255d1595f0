//! A recipe of several documents: each is a stage, a later one may use what an earlier one makes, the last is the result.
//!
//! Invariant: stages are in an order in which each comes after those it uses, and every one of them leads to the result or
//! is kept.

mod order;

use crate::node::{Key, Kind, Node};
use crate::problem::{Problem, Refusal};
use crate::{ModelRef, Recipe, Scalar, limits};

/// What to merge, in one document or in several.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages {
    list: Vec<Stage>,
    /// What is to be said of the documents' order and names.
    pub warnings: Vec<Problem>,
}

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    pub recipe: Recipe,
    /// The artifact stays, below `stages/NAME` of the result.
    pub keep: bool,
    /// Models of the recipe that are earlier stages.
    pub uses: Vec<StageUse>,
    /// Which document this is, where there are several: pointers begin with it.
    document: Option<usize>,
}

/// A model reference that means the artifact of an earlier stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageUse {
    pub model: ModelRef,
    /// Place among the stages.
    pub stage: usize,
}

impl Stages {
    /// Parses the documents of a YAML text, or those of a list in one. A single document is what [`Recipe::parse`] makes of it.
    pub fn parse(text: &str, lenient: bool) -> Result<Stages, Refusal> {
        Stages::from_node(Node::from_documents(text)?, lenient)
    }

    /// The same from a JSON object, or from a list of them.
    pub fn from_json(value: &serde_json::Value, lenient: bool) -> Result<Stages, Refusal> {
        Stages::from_node(Node::from_json(value), lenient)
    }

    fn from_node(node: Node, lenient: bool) -> Result<Stages, Refusal> {
        node.within_limits()?;
        let (documents, is_list) = node.into_documents();
        Stages::of(&documents, is_list, lenient)
    }

    /// In a list, pointers begin with the number of the document.
    pub(crate) fn of(documents: &[Node], is_list: bool, lenient: bool) -> Result<Stages, Refusal> {
        match documents {
            [only] => one(only, is_list.then_some(0), lenient),
            several => many(several, lenient),
        }
    }

    /// In the order in which they are made.
    pub fn iter(&self) -> std::slice::Iter<'_, Stage> {
        self.list.iter()
    }

    /// The stage whose artifact is published.
    pub fn result(&self) -> &Stage {
        self.list.last().expect("there is at least one document")
    }
}

impl<'a> IntoIterator for &'a Stages {
    type Item = &'a Stage;
    type IntoIter = std::slice::Iter<'a, Stage>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Stage {
    /// By which others use it; always there on a stage that is not the result.
    pub fn name(&self) -> Option<&str> {
        self.recipe.name.as_deref()
    }

    /// A finding about this document as a finding about the whole: its pointer begins with the document's number.
    pub fn place(&self, problem: Problem) -> Problem {
        place(self.document, problem)
    }

    pub fn place_all(&self, refusal: Refusal) -> Refusal {
        place_all(self.document, refusal)
    }

    /// A finding at a place of this document.
    pub fn problem(&self, pointer: &str, code: &str, detail: impl Into<String>) -> Problem {
        self.place(self.recipe.positions.problem(pointer, code, detail))
    }
}

fn place(document: Option<usize>, problem: Problem) -> Problem {
    match document {
        Some(number) => Problem { pointer: format!("/{number}{}", problem.pointer), ..problem },
        None => problem,
    }
}

fn place_all(document: Option<usize>, refusal: Refusal) -> Refusal {
    let placed = |list: Vec<Problem>| list.into_iter().map(|p| place(document, p)).collect();
    Refusal { problems: placed(refusal.problems), warnings: placed(refusal.warnings) }
}

fn one(node: &Node, document: Option<usize>, lenient: bool) -> Result<Stages, Refusal> {
    let mut stage = read(node, document, lenient)?;
    let mut warnings = Vec::new();
    if std::mem::take(&mut stage.keep) {
        warnings.push(stage.problem("/keep", "no_effect", KEPT_ANYWAY));
    }
    Ok(Stages { list: vec![stage], warnings })
}

const KEPT_ANYWAY: &str = "`keep` has no effect on the result, which is kept anyway";

/// Every document, or the problems of all of them.
fn many(nodes: &[Node], lenient: bool) -> Result<Stages, Refusal> {
    if nodes.is_empty() {
        return Err(Problem::of_whole("missing", "the recipe has no document; write at least one").into());
    }
    if nodes.len() > limits::STAGES_MAX {
        let detail = format!("the recipe has {} documents; at most {} are accepted", nodes.len(), limits::STAGES_MAX);
        return Err(Problem::of_whole("too_many", detail).into());
    }
    let mut stages = Vec::with_capacity(nodes.len());
    let mut refused = Refusal { problems: Vec::new(), warnings: Vec::new() };
    for (number, node) in nodes.iter().enumerate() {
        match read(node, Some(number), lenient) {
            Ok(stage) => stages.push(stage),
            Err(refusal) => {
                refused.problems.extend(refusal.problems);
                refused.warnings.extend(refusal.warnings);
            }
        }
    }
    if refused.problems.is_empty() {
        return order::in_order(stages);
    }
    refused.problems.truncate(limits::PROBLEMS_MAX);
    Err(refused)
}

fn read(node: &Node, document: Option<usize>, lenient: bool) -> Result<Stage, Refusal> {
    let (node, keep) = take_keep(node).map_err(|problem| place(document, problem))?;
    let recipe = crate::decode::decode(&node, lenient).map_err(|refusal| place_all(document, refusal))?;
    Ok(Stage { recipe, keep, uses: Vec::new(), document })
}

/// `keep` says what becomes of an artifact, not what is in it: it is read here, so that it changes no recipe and no seed.
fn take_keep(node: &Node) -> Result<(Node, bool), Problem> {
    let is_keep = |(key, _): &(Key, Node)| key.name == "keep";
    let Kind::Map(entries) = &node.kind else { return Ok((node.clone(), false)) };
    let Some((_, value)) = entries.iter().find(|entry| is_keep(entry)) else { return Ok((node.clone(), false)) };
    let keep = match &value.kind {
        Kind::Null => Some(false),
        Kind::Bool(keep) => Some(*keep),
        Kind::Text(text) => Scalar::Text(text.clone()).boolean(),
        _ => None,
    };
    let keep = keep.ok_or_else(|| Problem {
        pointer: "/keep".into(),
        line: value.at.map(|at| at.0),
        column: value.at.map(|at| at.1),
        code: "invalid_type".into(),
        detail: format!("expected true or false, found {}", value.describe()),
    })?;
    let rest = entries.iter().filter(|entry| !is_keep(entry)).cloned().collect();
    Ok((Node { at: node.at, kind: Kind::Map(rest) }, keep))
}

#[cfg(test)]
mod tests;
