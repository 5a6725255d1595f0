//! Merges of which later ones take what earlier ones make: planned as one, made one after the other.
//!
//! Invariants: every stage is planned from headers before any is made, a later one from the plan of an earlier one; and a
//! recipe of one document is planned and made as if there were no stages.

mod check;
mod execute;
mod plan;
mod summary;

use std::collections::HashSet;

use checkpoint::Access;
use recipe::{ModelRef, Problem, Refusal, Stage, StageUse, Stages};
use serde_json::Value;

use crate::check::check_with;
use crate::{ArtifactFile, Plan, Settings, Sources};
pub use check::{Checked, check_stages};
pub use execute::execute_stages;
pub use summary::StageSummary;

/// Tensors of all stages together: as many as of one merge.
const TENSORS_MAX: usize = 200_000;

/// Inputs of all tensors of all stages together.
const INPUTS_MAX: usize = 1_000_000;

/// Every stage with its models opened, but for those that other stages make.
#[derive(Debug)]
pub struct OpenStages {
    stages: Stages,
    sources: Vec<Sources>,
    warnings: Vec<Problem>,
}

/// What will be made, stage by stage.
#[derive(Debug)]
pub struct StagedPlan {
    stages: Vec<PlannedStage>,
    /// Of all stages.
    pub warnings: Vec<Problem>,
}

#[derive(Debug)]
pub struct PlannedStage {
    /// `None` where there is one document, or the result has no name.
    pub name: Option<String>,
    /// The artifact stays, below `stages/NAME` of the result.
    pub kept: bool,
    pub plan: Plan,
    sources: Sources,
    uses: Vec<StageUse>,
}

/// What the artifact of the result says and holds of the stages before it.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    pub manifests: Vec<Value>,
    pub files: Vec<ArtifactFile>,
}

/// Checks every document, opens all models and plans all stages, or says everything that stands in the way.
pub fn open_and_plan_stages(stages: Stages, access: &Access, settings: &Settings) -> Result<StagedPlan, Refusal> {
    OpenStages::open(stages, access)?.plan(settings)
}

impl OpenStages {
    pub fn open(stages: Stages, access: &Access) -> Result<OpenStages, Refusal> {
        let mut found = Found { warnings: stages.warnings.clone(), ..Found::default() };
        for stage in &stages {
            if let Some((_, warnings)) = found.of(stage, check_with(&stage.recipe, access)) {
                found.warnings.extend(warnings.into_iter().map(|w| stage.place(w)));
            }
        }
        found.refuse_if_any()?;
        let opened: Vec<_> = stages.iter().map(|stage| open_but(&[], stage, &mut found, access)).collect();
        let sources = opened.into_iter().flatten().collect();
        found.refuse_if_any()?;
        // what `check` warns of, planning warns of again
        let warnings = [stages.warnings.clone(), shadowed(&stages, access)].concat();
        Ok(OpenStages { stages, sources, warnings })
    }

    /// Every model that no stage makes, each once.
    pub fn models(&self) -> Vec<String> {
        let models = self.sources.iter().flat_map(Sources::iter).map(|source| source.model.to_string());
        let mut seen = HashSet::new();
        models.filter(|model| seen.insert(model.clone())).collect()
    }
}

impl StagedPlan {
    /// In the order in which they are made; the last is the result.
    pub fn stages(&self) -> &[PlannedStage] {
        &self.stages
    }

    pub fn result(&self) -> &Plan {
        &self.stages.last().expect("there is at least one stage").plan
    }

    /// The models that the result is made of, through whatever stages.
    pub fn made_of(&self) -> &[String] {
        &self.result().made_of
    }

    /// SHA-256 over everything that decides the bytes of the artifact, kept stages counted.
    pub fn digest(&self) -> &str {
        &self.result().digest
    }
}

/// Findings of several documents.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Found {
    /// What came of a stage; why nothing did is noted.
    fn of<T>(&mut self, stage: &Stage, result: Result<T, Refusal>) -> Option<T> {
        let noted = result.map_err(|refusal| {
            let refusal = stage.place_all(refusal);
            self.problems.extend(refusal.problems);
            self.warnings.extend(refusal.warnings);
        });
        noted.ok()
    }

    fn refuse_if_any(&mut self) -> Result<(), Refusal> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.truncate(recipe::limits::PROBLEMS_MAX);
        Err(Refusal { problems: std::mem::take(&mut self.problems), warnings: std::mem::take(&mut self.warnings) })
    }
}

/// The models of a stage, but for those elsewhere and those that other stages make.
fn open_but(elsewhere: &[&ModelRef], stage: &Stage, found: &mut Found, access: &Access) -> Option<Sources> {
    let made: Vec<&ModelRef> = stage.uses.iter().map(|u| &u.model).collect();
    for (pointer, model) in stage.recipe.models() {
        if model.lora.is_some() && made.contains(&model) {
            let detail = format!("{:?} is a stage; adapters on what a stage makes are not supported yet", model.path);
            found.problems.push(stage.problem(&pointer, "not_yet", detail));
        }
    }
    found.of(stage, Sources::open_but(&[elsewhere, &made].concat(), &stage.recipe, access))
}

/// Of a stage and a model with the same name, the stage is meant.
fn shadowed(stages: &Stages, access: &Access) -> Vec<Problem> {
    let is_several = stages.iter().len() > 1;
    let named = stages.iter().filter(|_| is_several).filter_map(|stage| Some((stage, stage.name()?)));
    named
        .filter(|(_, name)| access.resolve_dir(name).is_ok())
        .map(|(stage, name)| {
            let detail = format!("there is a model {name:?} too; in this recipe {name:?} means the stage");
            stage.problem("/name", "shadowed_model", detail)
        })
        .collect()
}
