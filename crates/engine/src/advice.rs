//! What practice teaches of a recipe that can be merged as it stands: warnings, never errors.
//!
//! Adding a lesson is a function and an entry in [`LESSONS`]. Most look at the recipe alone; some look at the opened models,
//! and of tensor data at a few KiB each.

mod choice;
mod configs;
mod density;
mod ends;
mod kinship;
mod sample;
mod settings;
mod tokenizers;
mod weights;

use std::collections::BTreeSet;

use recipe::{ModelRef, Problem, Recipe};

use crate::methods::About;
use crate::slices::Slice;
use crate::{Source, Sources};
use sample::Samples;

struct Lesson {
    /// Stable word for programs, which may filter by it.
    code: &'static str,
    look: Look,
}

enum Look {
    Recipe(fn(&Subject<'_>) -> Vec<Advice>),
    Models(fn(&Opened<'_>) -> Vec<Advice>),
}

/// Where it applies, and what to try and why.
struct Advice {
    pointer: String,
    detail: String,
}

static LESSONS: &[Lesson] = &[
    Lesson { code: "weights_do_not_sum", look: Look::Recipe(weights::do_not_sum) },
    Lesson { code: "one_sided_weights", look: Look::Recipe(weights::one_sided) },
    Lesson { code: "weight_is_zero", look: Look::Recipe(weights::zero) },
    Lesson { code: "over_weighted", look: Look::Recipe(weights::too_much) },
    Lesson { code: "density_at_edge", look: Look::Recipe(density::at_edge) },
    Lesson { code: "t_at_edge", look: Look::Recipe(choice::t_at_edge) },
    Lesson { code: "one_t_for_all", look: Look::Recipe(choice::one_t_for_all) },
    Lesson { code: "many_models", look: Look::Recipe(choice::many_models) },
    Lesson { code: "first_last_layers", look: Look::Recipe(ends::of_recipe) },
    Lesson { code: "first_last_layers", look: Look::Models(ends::of_models) },
    Lesson { code: "architecture_mismatch", look: Look::Models(configs::architectures) },
    Lesson { code: "configs_differ", look: Look::Models(configs::differ) },
    Lesson { code: "tokenizers_differ", look: Look::Models(tokenizers::differ) },
    Lesson { code: "not_a_finetune", look: Look::Models(kinship::not_a_finetune) },
    Lesson { code: "same_model_twice", look: Look::Models(kinship::same_model_twice) },
    Lesson { code: "evaluate", look: Look::Recipe(choice::evaluate) },
];

/// Pieces of advice of one lesson: a recipe of thousands of slices is not answered with thousands of lines.
const OF_A_LESSON_MAX: usize = 4;

/// What lessons look at.
pub(crate) struct Subject<'a> {
    pub recipe: &'a Recipe,
    pub about: &'a About,
    pub slices: &'a [Slice<'a>],
}

struct Opened<'a> {
    subject: &'a Subject<'a>,
    sources: &'a Sources,
    samples: Samples,
}

/// What can be said of the recipe alone.
pub(crate) fn of_recipe(subject: &Subject<'_>) -> Vec<Problem> {
    told(subject, |look| match look {
        Look::Recipe(look) => look(subject),
        Look::Models(_) => Vec::new(),
    })
}

/// What can be said once the models are open.
pub(crate) fn of_models(subject: &Subject<'_>, sources: &Sources) -> Vec<Problem> {
    if is_silenced(subject.recipe) {
        return Vec::new();
    }
    let opened = Opened { subject, sources, samples: Samples::read(&subject.models(), sources) };
    told(subject, |look| match look {
        Look::Recipe(_) => Vec::new(),
        Look::Models(look) => look(&opened),
    })
}

fn told(subject: &Subject<'_>, look: impl Fn(&Look) -> Vec<Advice>) -> Vec<Problem> {
    if is_silenced(subject.recipe) {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for lesson in LESSONS {
        let placed = look(&lesson.look).into_iter().filter(|advice| seen.insert((lesson.code, advice.pointer.clone())));
        for advice in placed.take(OF_A_LESSON_MAX) {
            problems.push(subject.recipe.positions.problem(&advice.pointer, lesson.code, advice.detail));
        }
    }
    problems
}

fn is_silenced(recipe: &Recipe) -> bool {
    !recipe.options.advice
}

impl Opened<'_> {
    fn source(&self, model: &ModelRef) -> &Source {
        &self.sources.list[self.sources.index_of(model)]
    }
}

impl<'a> Subject<'a> {
    fn has(&self, parameter: &str) -> bool {
        self.about.parameters.iter().any(|p| p.name == parameter)
    }

    /// Every model whose tensors are merged, once, with the place of its first mention. The one that the others are compared
    /// with comes first: the base, or else the first source.
    fn models(&self) -> Vec<(String, &'a ModelRef)> {
        let sources = self.slices.iter().flat_map(|slice| &slice.sources);
        let mut models: Vec<(String, &ModelRef)> = sources.map(|s| (s.pointer.clone(), s.model)).collect();
        let base = self.slices.iter().find_map(|slice| slice.named_base);
        models.sort_by_key(|(_, model)| Some(*model) != base);
        let mut seen = BTreeSet::new();
        models.retain(|(_, model)| seen.insert(*model));
        models
    }
}

/// A number as people write it.
fn figure(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn list(figures: impl IntoIterator<Item = f64>) -> String {
    let all: Vec<String> = figures.into_iter().map(figure).collect();
    match all.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => all.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_for_programs() {
        for lesson in LESSONS {
            assert!(lesson.code.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", lesson.code);
        }
    }

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(list([0.75, 0.25]), "0.75 and 0.25");
        assert_eq!(list([1.0 / 3.0, 0.1 + 0.2, 2.0]), "0.333, 0.3 and 2");
        assert_eq!(list([1.0]), "1");
    }
}
