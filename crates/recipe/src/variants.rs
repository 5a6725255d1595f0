//! Several merges of one text: `variants` lists what each changes, `grid` makes every combination of values.
//!
//! Both have the form of the recipe they change: `parameters` and `options` key by key, `models` as a map from a model to
//! the parameters it gets there, any other key as a whole. A grid has a list of values wherever a variant has one.

mod change;
mod names;
mod read;
mod told;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::draft::{Draft, Syntax, problem_at, written};
use crate::node::{Kind, Node};
use crate::{Problem, Refusal, Stages, limits};
use change::Change;
pub use told::with_each;

/// One merge of a text.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Absent where the text is one merge.
    name: Option<String>,
    changes: Vec<Change>,
    /// Where what stands in the recipe of this variant stood in the text: `/parameters/t` in `/variants/1/parameters/t`.
    moved: Vec<(String, String)>,
    /// The document that it changes.
    document: usize,
    draft: Arc<Draft>,
}

pub(crate) fn expand(mut draft: Draft) -> Result<Vec<Variant>, Refusal> {
    let Some(document) = with_variants(&draft)? else { return Ok(vec![Variant::alone(draft)]) };
    let above = draft.above(document);
    let list = take(&mut draft.documents[document], "variants");
    let grid = take(&mut draft.documents[document], "grid");
    let changes = all_changes(list, grid).map_err(|refusal| all_below(&above, refusal))?;
    let draft = Arc::new(draft);
    let mut problems = Vec::new();
    let mut variants = Vec::new();
    for (name, changes) in changes {
        match change::apply(&mut draft.documents[document].clone(), &changes) {
            Ok(moved) => {
                let moved = moved.into_iter().map(|(to, from)| (format!("{above}{to}"), format!("{above}{from}")));
                let (name, moved) = (Some(name), moved.collect());
                variants.push(Variant { name, changes, moved, document, draft: draft.clone() });
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(variants) } else { Err(all_below(&above, refusal(problems))) }
}

/// The document whose variants these are.
fn with_variants(draft: &Draft) -> Result<Option<usize>, Refusal> {
    let key = |node: &Node| ["variants", "grid"].into_iter().find(|key| node.get(key).is_some());
    let mut having = draft.documents.iter().enumerate().filter_map(|(i, node)| Some((i, node, key(node)?)));
    let first = having.next().map(|(i, ..)| i);
    if let Some((other, node, key)) = having.next() {
        let detail = format!("`{key}` stands in more than one document; keep it in one");
        return Err(problem_at(node, &format!("{}/{key}", draft.above(other)), "conflict", detail).into());
    }
    Ok(first)
}

fn all_changes(list: Option<Node>, grid: Option<Node>) -> Result<Vec<(String, Vec<Change>)>, Refusal> {
    let read = match (list, grid) {
        (Some(_), Some(grid)) => {
            let detail = "`variants` and `grid` exclude each other; keep one".to_owned();
            return Err(problem_at(&grid, "/grid", "conflict", detail).into());
        }
        (Some(list), None) => read::list(&list)?,
        (None, Some(grid)) => read::grid(&grid)?,
        (None, None) => Vec::new(),
    };
    names::named(read)
}

fn all_below(above: &str, refusal: Refusal) -> Refusal {
    let below = |list: Vec<Problem>| -> Vec<Problem> {
        list.into_iter().map(|p| Problem { pointer: format!("{above}{}", p.pointer), ..p }).collect()
    };
    Refusal { problems: below(refusal.problems), warnings: below(refusal.warnings) }
}

fn take(root: &mut Node, name: &str) -> Option<Node> {
    let Kind::Map(entries) = &mut root.kind else { return None };
    let place = entries.iter().position(|(key, _)| key.name == name)?;
    Some(entries.remove(place).1).filter(|node| node.kind != Kind::Null)
}

fn refusal(mut problems: Vec<Problem>) -> Refusal {
    problems.truncate(limits::PROBLEMS_MAX);
    Refusal { problems, warnings: Vec::new() }
}

impl Variant {
    fn alone(draft: Draft) -> Variant {
        Variant { name: None, changes: Vec::new(), moved: Vec::new(), document: 0, draft: Arc::new(draft) }
    }

    /// In the characters of a directory's name; `None` where the text is one merge.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it sets, by short names in the order written: `t`, `org/model.weight`, `options.random_seed`, `dtype`.
    pub fn settings(&self) -> Map<String, Value> {
        self.changes.iter().map(|change| (change.target.to_string(), change.value.to_json())).collect()
    }

    /// The merge, or what is wrong with it, at its place in the text.
    pub fn stages(&self, lenient: bool) -> Result<Stages, Refusal> {
        Stages::of(&self.documents(), self.draft.is_list, lenient).map_err(|refusal| self.placed(refusal))
    }

    /// The merge as a text of its own.
    pub fn text(&self) -> Result<String, Refusal> {
        if self.name.is_none() && self.draft.is_as_written {
            return Ok(self.draft.text.clone());
        }
        let text = written(self.draft.syntax, &self.documents(), self.draft.is_list)?;
        Ok(match &self.name {
            Some(name) if self.draft.syntax == Syntax::Yaml => format!("# variant {name}\n{text}"),
            _ => text,
        })
    }

    /// Findings about the merge, made later, at their place in the text.
    pub fn placed(&self, refusal: Refusal) -> Refusal {
        Refusal { problems: self.all_placed(refusal.problems), warnings: self.all_placed(refusal.warnings) }
    }

    pub fn all_placed(&self, problems: Vec<Problem>) -> Vec<Problem> {
        problems.into_iter().map(|problem| self.one_placed(problem)).collect()
    }

    fn one_placed(&self, problem: Problem) -> Problem {
        let below = |(here, there): &(String, String)| {
            let rest = problem.pointer.strip_prefix(here.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (here.len(), format!("{there}{rest}")))
        };
        match self.moved.iter().filter_map(below).max_by_key(|(length, _)| *length) {
            Some((_, pointer)) => Problem { pointer, ..problem },
            None => problem,
        }
    }

    fn documents(&self) -> Vec<Node> {
        let mut documents = self.draft.documents.clone();
        if self.name.is_some() {
            change::apply(&mut documents[self.document], &self.changes)
                .expect("the changes fitted when the variant was made");
        }
        documents
    }
}

#[cfg(test)]
mod tests;
