//! A name for each variant: the user's, else what it sets, else its number.

use std::collections::HashSet;

use super::change::{Change, Target};
use super::read::Unnamed;
use super::refusal;
use crate::draft::problem_at;
use crate::node::{Kind, Node};
use crate::{Problem, Refusal, limits};

pub(super) fn named(read: Vec<Unnamed>) -> Result<Vec<(String, Vec<Change>)>, Refusal> {
    let mut problems = Vec::new();
    let mut taken = HashSet::new();
    let names: Vec<Option<String>> = read.iter().map(|variant| given(variant, &mut taken, &mut problems)).collect();
    if !problems.is_empty() {
        return Err(refusal(problems));
    }
    let mut variants = Vec::new();
    for (i, (name, variant)) in names.into_iter().zip(read).enumerate() {
        let name = name.unwrap_or_else(|| made(i, &variant.telling, &mut taken));
        variants.push((name, variant.changes));
    }
    Ok(variants)
}

fn given(variant: &Unnamed, taken: &mut HashSet<String>, problems: &mut Vec<Problem>) -> Option<String> {
    let node = variant.name.as_ref()?;
    let pointer = format!("{}/name", variant.pointer);
    let mut error = |code: &str, detail: String| {
        problems.push(problem_at(node, &pointer, code, detail));
        None
    };
    let Some(name) = scalar(node).filter(|name| is_plain(name)) else {
        let detail = format!(
            "{} is no name of a variant; write 1 to {} letters, digits, `.`, `-` and `_`, the first no `.` or `-`",
            node.describe(),
            limits::VARIANT_NAME_CHARS_MAX
        );
        return error("invalid_value", detail);
    };
    // on some file systems names that differ in case are one
    if !taken.insert(name.to_ascii_lowercase()) {
        return error("conflict", format!("another variant is called {name:?} too; names differ, not only in case"));
    }
    Some(name)
}

/// `t-0.3_a.weight-0.2`, or the number where that is no name.
fn made(index: usize, telling: &[Change], taken: &mut HashSet<String>) -> String {
    let told = told(telling).filter(|name| taken.insert(name.to_ascii_lowercase()));
    let numbered = (index + 1..).map(|n| format!("variant-{n}"));
    told.unwrap_or_else(|| {
        numbered.into_iter().find(|name| taken.insert(name.clone())).expect("there are more numbers than variants")
    })
}

fn told(changes: &[Change]) -> Option<String> {
    let parts: Option<Vec<String>> =
        changes.iter().map(|c| Some(format!("{}-{}", short(&c.target), scalar(&c.value)?))).collect();
    parts.map(|parts| parts.join("_")).filter(|name| is_plain(name))
}

fn short(target: &Target) -> String {
    match target {
        Target::Key(name) | Target::Parameter(name) | Target::Option(name) => name.clone(),
        Target::OfModel { model, parameter } => {
            format!("{}.{parameter}", model.trim_end_matches('/').rsplit('/').next().unwrap_or(model))
        }
    }
}

fn scalar(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Text(text) => Some(text.clone()),
        Kind::Bool(b) => Some(b.to_string()),
        Kind::Number(n) => Some(n.to_string()),
        Kind::Null | Kind::List(_) | Kind::Map(_) => None,
    }
}

/// A name that may be a directory below an output.
fn is_plain(name: &str) -> bool {
    (1..=limits::VARIANT_NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}
