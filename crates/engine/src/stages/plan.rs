//! Stages planned one after the other, each from the plans of those it uses.

use recipe::{ModelRef, Refusal, Stage};
use serde_json::{Value, json};

use super::{Found, INPUTS_MAX, OpenStages, PlannedStage, StagedPlan, TENSORS_MAX};
use crate::plan::Product;
use crate::sources::{Source, StageSource, architecture};
use crate::{Plan, Settings, Sources, artifact};

impl OpenStages {
    pub fn plan(self, settings: &Settings) -> Result<StagedPlan, Refusal> {
        let mut planning =
            Planning { found: Found { warnings: self.warnings, ..Found::default() }, ..Planning::default() };
        for (stage, sources) in self.stages.iter().zip(self.sources) {
            planning.add(stage, Some(sources), settings);
        }
        planning.found.refuse_if_any()?;
        let mut stages: Vec<PlannedStage> = planning.planned.into_iter().flatten().collect();
        settle(&mut stages);
        Ok(StagedPlan { stages, warnings: planning.found.warnings })
    }
}

#[derive(Debug, Default)]
pub(super) struct Planning {
    /// `None` for what could not be planned.
    planned: Vec<Option<PlannedStage>>,
    pub found: Found,
    tensors: usize,
    inputs: usize,
}

impl Planning {
    /// Plans a stage; not one of which a model is elsewhere, nor one that uses such.
    pub fn add(&mut self, stage: &Stage, sources: Option<Sources>, settings: &Settings) {
        let planned = sources.and_then(|sources| self.plan(stage, sources, settings));
        self.planned.push(planned);
    }

    pub fn is_last_planned(&self) -> bool {
        matches!(self.planned.last(), Some(Some(_)))
    }

    fn plan(&mut self, stage: &Stage, sources: Sources, settings: &Settings) -> Option<PlannedStage> {
        let sources = self.with_stages(stage, sources)?;
        let mut plan = self.found.of(stage, crate::plan(&stage.recipe, &sources, settings))?;
        self.found.warnings.extend(std::mem::take(&mut plan.warnings).into_iter().map(|w| stage.place(w)));
        self.count(stage, &plan)?;
        let name = stage.name().map(str::to_owned);
        Some(PlannedStage { name, kept: stage.keep, plan, sources, uses: stage.uses.clone() })
    }

    fn with_stages(&mut self, stage: &Stage, sources: Sources) -> Option<Sources> {
        if stage.uses.is_empty() {
            return Some(sources);
        }
        let used: Option<Vec<&PlannedStage>> = stage.uses.iter().map(|u| self.planned[u.stage].as_ref()).collect();
        let made: Result<Vec<Source>, Refusal> =
            used?.iter().zip(&stage.uses).map(|(planned, of)| planned.as_source(&of.model, stage)).collect();
        Some(sources.with_stages(&stage.recipe, self.found.of(stage, made)?))
    }

    /// Stages can grow on each other, so what one merge may have is a limit for all of them.
    fn count(&mut self, stage: &Stage, plan: &Plan) -> Option<()> {
        self.tensors += plan.tasks.len();
        self.inputs += plan.tasks.iter().map(|t| t.inputs.len()).sum::<usize>();
        if self.planned.is_empty() || (self.tensors <= TENSORS_MAX && self.inputs <= INPUTS_MAX) {
            return Some(());
        }
        let detail = format!(
            "up to here the stages have more than {TENSORS_MAX} tensors or {INPUTS_MAX} inputs of tensors; merge less at once"
        );
        self.found.problems.push(stage.problem("", "too_many", detail));
        None
    }
}

impl PlannedStage {
    /// What this stage will make, as a source of a later one.
    fn as_source(&self, model: &ModelRef, of: &Stage) -> Result<Source, Refusal> {
        let refused = |detail: String| {
            let pointer = of.recipe.models().into_iter().find(|(_, m)| *m == model).map(|(pointer, _)| pointer);
            let problem = of.recipe.positions.problem(&pointer.unwrap_or_default(), "invalid_checkpoint", detail);
            Refusal::from(problem)
        };
        if !matches!(self.plan.product, Product::Model) {
            let detail = format!(
                "stage {:?} makes an adapter, and adapters that stages make cannot be used in the same recipe yet; let `{}` be the last document, or keep it and use it in a recipe of its own",
                model.path, self.plan.about.name
            );
            return Err(refused(detail));
        }
        let checkpoint = artifact::planned(&self.plan, &self.sources)
            .map_err(|error| refused(format!("stage {:?}: {error}", model.path)))?;
        if checkpoint.files.is_empty() {
            return Err(refused(format!("stage {:?} makes no tensor", model.path)));
        }
        let stage = StageSource { plan_digest: self.plan.digest.clone(), made_of: self.plan.made_of.clone() };
        Ok(Source {
            model: model.clone(),
            architecture: architecture(model, &checkpoint),
            checkpoint,
            stage: Some(stage),
            applied: None,
            adapter: None,
        })
    }
}

/// The result is published with the stages that are kept, so its digest covers them too.
fn settle(stages: &mut [PlannedStage]) {
    match stages {
        [alone] => alone.name = None,
        [earlier @ .., result] => {
            let made: Vec<Value> = earlier.iter().map(|s| json!([s.name, s.plan.digest, s.kept])).collect();
            let identity = json!({"result": result.plan.digest, "stages": made});
            result.plan.digest = checkpoint::digest_bytes(identity.to_string().as_bytes());
        }
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use checkpoint::{Access, Dtype};
    use recipe::Stages;

    use super::*;

    #[test]
    fn stages_together_may_have_no_more_than_one_merge() {
        let dir = tempfile::tempdir().unwrap();
        testkit::TinyCheckpoint::llama(2, Dtype::F32, 1).write(&dir.path().join("a"));
        let text = "name: s\nmerge_method: passthrough\nmodels: [{model: a}]\n---\nmerge_method: passthrough\nmodels: [{model: s}]\n";
        let opened = || {
            let stages = Stages::parse(text, false).unwrap();
            OpenStages::open(stages, &Access::Under(vec![dir.path().to_owned()])).unwrap()
        };
        let one = opened().plan(&Settings::default()).unwrap().stages()[0].plan.tasks.len();
        for (tensors, inputs, told) in [
            (TENSORS_MAX - 2 * one, INPUTS_MAX - 2 * one, None),
            (TENSORS_MAX - 2 * one + 1, 0, Some("/1")),
            (0, INPUTS_MAX - 2 * one + 1, Some("/1")),
        ] {
            let OpenStages { stages, sources, .. } = opened();
            let mut planning = Planning { tensors, inputs, ..Planning::default() };
            for (stage, sources) in stages.iter().zip(sources) {
                planning.add(stage, Some(sources), &Settings::default());
            }
            assert_eq!(planning.found.problems.first().map(|p| p.pointer.as_str()), told);
        }
    }
}
