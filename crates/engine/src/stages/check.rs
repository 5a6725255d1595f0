//! What can be said of a recipe when some of its models are elsewhere.

use checkpoint::Access;
use recipe::{ModelRef, Problem, Refusal, Stage, Stages};

use super::plan::Planning;
use super::{open_but, shadowed};
use crate::check::check_with;
use crate::{Settings, Sources};

/// A recipe in which nothing is wrong as far as its models are here.
#[derive(Debug)]
pub struct Checked {
    pub warnings: Vec<Problem>,
    /// Models that could be on the Hub; what they hold is not known here.
    pub elsewhere: Vec<ModelRef>,
}

/// Checks every document, and plans those stages all of whose models are here.
pub fn check_stages(stages: &Stages, access: &Access) -> Result<Checked, Refusal> {
    let mut planning = Planning::default();
    planning.found.warnings.extend([stages.warnings.clone(), shadowed(stages, access)].concat());
    let mut all_elsewhere: Vec<ModelRef> = Vec::new();
    for stage in stages {
        let elsewhere = elsewhere(stage, access);
        check_stage(&mut planning, stage, &elsewhere, access);
        for model in elsewhere {
            if !all_elsewhere.contains(model) {
                all_elsewhere.push(model.clone());
            }
        }
    }
    planning.found.refuse_if_any()?;
    Ok(Checked { warnings: planning.found.warnings, elsewhere: all_elsewhere })
}

fn elsewhere<'a>(stage: &'a Stage, access: &Access) -> Vec<&'a ModelRef> {
    let all = Sources::elsewhere(&stage.recipe, access).into_iter();
    all.filter(|model| !stage.uses.iter().any(|u| u.model == **model)).collect()
}

fn check_stage(planning: &mut Planning, stage: &Stage, elsewhere: &[&ModelRef], access: &Access) {
    let checked = planning.found.of(stage, check_with(&stage.recipe, access));
    let sources = checked.as_ref().and_then(|_| open_but(elsewhere, stage, &mut planning.found, access));
    planning.add(stage, sources.filter(|_| elsewhere.is_empty()), &Settings::default());
    // a stage that is planned is warned of by that
    if let Some((_, warnings)) = checked.filter(|_| !planning.is_last_planned()) {
        planning.found.warnings.extend(warnings.into_iter().map(|w| stage.place(w)));
    }
}
