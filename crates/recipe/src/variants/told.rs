//! Findings of several variants in one list.

use std::collections::HashMap;

use super::Variant;
use crate::{Problem, Refusal, limits};

/// Names that one finding lists.
const NAMES_MAX: usize = 3;

/// Does the same with each merge: gives all results, and what they warn of; or all that stands in their way. Findings are
/// placed in the text. What is true of all variants is told once; the rest begins with the variants it is true of.
pub fn with_each<T>(
    variants: &[Variant],
    mut one: impl FnMut(&Variant) -> Result<(T, Vec<Problem>), Refusal>,
) -> Result<(Vec<T>, Vec<Problem>), Refusal> {
    let mut results = Vec::new();
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for variant in variants {
        let (wrong, warned) = match one(variant) {
            Ok((result, warned)) => {
                results.push(result);
                (Vec::new(), warned)
            }
            Err(refusal) => (refusal.problems, refusal.warnings),
        };
        problems.push((variant.name.clone(), variant.all_placed(wrong)));
        warnings.push((variant.name.clone(), variant.all_placed(warned)));
    }
    let warnings = told_once(warnings);
    match results.len() == variants.len() {
        true => Ok((results, warnings)),
        false => Err(Refusal { problems: told_once(problems), warnings }),
    }
}

/// One entry a merge: its name and what was found in it.
pub(super) fn told_once(found: Vec<(Option<String>, Vec<Problem>)>) -> Vec<Problem> {
    let merges = found.len();
    let mut places: HashMap<(String, String, String), usize> = HashMap::new();
    let mut told: Vec<(Problem, Vec<String>)> = Vec::new();
    for (name, problems) in found {
        for problem in problems {
            let key = (problem.pointer.clone(), problem.code.clone(), problem.detail.clone());
            let place = *places.entry(key).or_insert(told.len());
            if place == told.len() {
                told.push((problem, Vec::new()));
            }
            let names = &mut told[place].1;
            let name = name.clone().unwrap_or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    told.truncate(limits::VARIANT_PROBLEMS_MAX);
    told.into_iter().map(|(problem, names)| of(merges, problem, &names)).collect()
}

fn of(merges: usize, problem: Problem, names: &[String]) -> Problem {
    if names.len() == merges {
        return problem;
    }
    let shown = names.iter().take(NAMES_MAX).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let word = if names.len() == 1 { "variant" } else { "variants" };
    Problem { detail: format!("{word} {shown}{more}: {}", problem.detail), ..problem }
}
