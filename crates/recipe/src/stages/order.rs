//! Which stage uses which, which one is the result, and the order in which they are made.

use std::collections::HashMap;

use super::{KEPT_ANYWAY, Stage, StageUse, Stages};
use crate::problem::{Problem, Refusal};

/// Characters of a stage's name at most: it is the name of a directory.
const NAME_MAX: usize = 128;

pub(super) fn in_order(mut stages: Vec<Stage>) -> Result<Stages, Refusal> {
    refuse_if_any(names(&stages))?;
    let pointers = uses(&mut stages)?;
    refuse_if_any(cycle(&stages, &pointers))?;
    let result = result(&stages)?;
    let mut warnings = Vec::new();
    if std::mem::take(&mut stages[result].keep) {
        warnings.push(stages[result].problem("/keep", "no_effect", KEPT_ANYWAY));
    }
    let needed = needed(&stages, result);
    for (stage, _) in stages.iter().zip(&needed).filter(|(_, needed)| !**needed) {
        let detail = format!(
            "stage {:?} does not lead to the result and is not kept, so it is not made; use it, or add `keep: true`",
            stage.name().unwrap_or_default()
        );
        warnings.push(stage.problem("/name", "unused_stage", detail));
    }
    let order = order(&stages, &needed, result);
    Ok(Stages { list: arrange(stages, &order), warnings })
}

fn refuse_if_any(problems: impl IntoIterator<Item = Problem>) -> Result<(), Refusal> {
    let problems: Vec<Problem> = problems.into_iter().collect();
    if problems.is_empty() { Ok(()) } else { Err(Refusal { problems, warnings: Vec::new() }) }
}

fn names(stages: &[Stage]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut unnamed = false;
    for (i, stage) in stages.iter().enumerate() {
        match stage.name() {
            None if unnamed => {
                let detail = "a second document without `name`; only the result may have none";
                problems.push(stage.problem("", "unnamed_stage", detail));
            }
            None => unnamed = true,
            Some(name) if !is_plain(name) => {
                let detail = format!(
                    "stage name {name:?} is no plain name of a directory; use letters, digits, `.`, `-` and `_`, at most {NAME_MAX}, no dot first"
                );
                problems.push(stage.problem("/name", "invalid_value", detail));
            }
            Some(name) if stages[..i].iter().any(|s| s.name() == Some(name)) => {
                let detail = format!("two documents have the name {name:?}; give each its own");
                problems.push(stage.problem("/name", "duplicate_stage", detail));
            }
            Some(_) => {}
        }
    }
    problems
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.len() <= NAME_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// Fills in what each stage uses; gives the pointers of these references, in the same order.
fn uses(stages: &mut [Stage]) -> Result<Vec<Vec<String>>, Refusal> {
    let places: HashMap<String, usize> =
        stages.iter().enumerate().filter_map(|(i, s)| Some((s.name()?.to_owned(), i))).collect();
    let mut problems = Vec::new();
    let mut pointers = Vec::with_capacity(stages.len());
    for stage in stages {
        let mut found = Vec::new();
        for (pointer, model) in stage.recipe.models() {
            if let Some(adapter) = model.lora.as_ref().filter(|adapter| places.contains_key(&adapter.path)) {
                let detail = format!(
                    "{:?} is a stage; an adapter that a stage makes cannot be applied in the same recipe yet: submit it as a job of its own",
                    adapter.path
                );
                problems.push(stage.problem(&pointer, "not_yet", detail));
            }
            let Some(used) = places.get(&model.path) else { continue };
            if model.revision.is_some() {
                let detail = format!("{:?} is a stage, which has no revision; write its name alone", model.path);
                problems.push(stage.problem(&pointer, "invalid_value", detail));
            }
            found.push((pointer, StageUse { model: model.clone(), stage: *used }));
        }
        let (at, uses) = found.into_iter().unzip();
        stage.uses = uses;
        pointers.push(at);
    }
    refuse_if_any(problems)?;
    Ok(pointers)
}

/// Stages that use each other in a circle, told at the reference of the first of them.
fn cycle(stages: &[Stage], pointers: &[Vec<String>]) -> Option<Problem> {
    let circle = find_circle(stages)?;
    let (first, second) = (circle[0], circle[1 % circle.len()]);
    let name = |i: &usize| stages[*i].name().unwrap_or_default();
    let path: Vec<&str> = circle.iter().chain([&first]).map(name).collect();
    let detail = format!("stages use each other in a circle: {}", path.join(" uses "));
    let reference = stages[first].uses.iter().position(|u| u.stage == second);
    let pointer = reference.map_or("", |i| pointers[first][i].as_str());
    Some(stages[first].problem(pointer, "circular_stages", detail))
}

/// Beginning with the first in the text.
fn find_circle(stages: &[Stage]) -> Option<Vec<usize>> {
    let mut left: Vec<bool> = vec![true; stages.len()];
    let blocked = |left: &[bool], i: usize| stages[i].uses.iter().any(|u| left[u.stage]);
    while let Some(free) = (0..stages.len()).find(|i| left[*i] && !blocked(&left, *i)) {
        left[free] = false;
    }
    // each of those left uses one of those left, so following them comes back
    let next = |i: usize| stages[i].uses.iter().map(|u| u.stage).find(|s| left[*s]);
    let mut path = vec![left.iter().position(|left| *left)?];
    loop {
        let at = next(path[path.len() - 1])?;
        if let Some(start) = path.iter().position(|seen| *seen == at) {
            let mut circle = path.split_off(start);
            let first = (0..circle.len()).min_by_key(|i| circle[*i]).unwrap_or(0);
            circle.rotate_left(first);
            return Some(circle);
        }
        path.push(at);
    }
}

/// The document without a name, else the one that no other uses.
fn result(stages: &[Stage]) -> Result<usize, Refusal> {
    if let Some(unnamed) = stages.iter().position(|s| s.name().is_none()) {
        return Ok(unnamed);
    }
    let used = |i: usize| stages.iter().any(|s| s.uses.iter().any(|u| u.stage == i));
    let unused: Vec<usize> = (0..stages.len()).filter(|i| !used(*i)).collect();
    let last = *unused.last().expect("without a circle some stage is used by no other");
    if unused.len() == 1 {
        return Ok(last);
    }
    let names: Vec<&str> = unused.iter().filter_map(|i| stages[*i].name()).collect();
    let detail = format!(
        "several documents are used by no other ({}); leave the `name` of one away: it is the result",
        names.join(", ")
    );
    Err(stages[last].problem("/name", "ambiguous_result", detail).into())
}

/// Which stages lead to the result or to one that is kept.
fn needed(stages: &[Stage], result: usize) -> Vec<bool> {
    let mut needed = vec![false; stages.len()];
    let mut left: Vec<usize> = (0..stages.len()).filter(|i| *i == result || stages[*i].keep).collect();
    while let Some(i) = left.pop() {
        if !std::mem::replace(&mut needed[i], true) {
            left.extend(stages[i].uses.iter().map(|u| u.stage));
        }
    }
    needed
}

/// Each after those it uses, else as in the text, the result last.
fn order(stages: &[Stage], needed: &[bool], result: usize) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(stages.len());
    let ready = |order: &[usize], i: usize| {
        needed[i] && i != result && !order.contains(&i) && stages[i].uses.iter().all(|u| order.contains(&u.stage))
    };
    while let Some(next) = (0..stages.len()).find(|i| ready(&order, *i)) {
        order.push(next);
    }
    order.push(result);
    order
}

fn arrange(stages: Vec<Stage>, order: &[usize]) -> Vec<Stage> {
    let mut stages: Vec<Option<Stage>> = stages.into_iter().map(Some).collect();
    let place = |old: usize| order.iter().position(|i| *i == old).expect("what a needed stage uses is needed");
    let mut list = Vec::with_capacity(order.len());
    for i in order {
        let mut stage = stages[*i].take().expect("each is in the order once");
        for of in &mut stage.uses {
            of.stage = place(of.stage);
        }
        list.push(stage);
    }
    list
}
