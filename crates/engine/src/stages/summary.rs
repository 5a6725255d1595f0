//! A recipe of several stages in figures.

use serde::Serialize;

use super::{PlannedStage, StagedPlan};
use crate::PlanSummary;

/// One stage of several; the last is the one that the summary itself is of.
#[derive(Debug, Clone, Serialize)]
pub struct StageSummary {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub method: &'static str,
    pub digest: String,
    /// Models in the order of the document; stages among them by their names.
    pub models: Vec<String>,
    pub tensors: usize,
    /// Bytes of the stage's shards.
    pub bytes: u64,
    /// Whether it is there when the merge is over.
    pub kept: bool,
}

impl StagedPlan {
    /// The result in figures, what is needed for all stages, and the stages where there are several.
    pub fn summary(&self, with_tensors: bool) -> PlanSummary {
        let result = self.result().summary(with_tensors);
        PlanSummary {
            memory_bytes: self.stages.iter().map(|s| s.plan.memory_bytes()).max().unwrap_or_default(),
            disk_bytes: self.disk_bytes(),
            warnings: self.warnings.clone(),
            stages: if self.stages.len() > 1 {
                self.stages.iter().map(|s| self.stage(s)).collect()
            } else {
                Vec::new()
            },
            ..result
        }
    }

    /// Free space for the most that is there at once.
    pub(super) fn disk_bytes(&self) -> u64 {
        let last_uses = self.last_uses();
        let is_there = |i: usize, at: usize| i <= at && last_uses[i].is_none_or(|last| last >= at);
        let at = |at: usize| {
            let there = self.stages.iter().enumerate().filter(|(i, _)| is_there(*i, at));
            there.map(|(_, stage)| stage.plan.disk_bytes()).sum()
        };
        (0..self.stages.len()).map(at).max().unwrap_or_default()
    }

    fn stage(&self, stage: &PlannedStage) -> StageSummary {
        StageSummary {
            name: stage.name.clone(),
            method: stage.plan.about.name,
            digest: stage.plan.digest.clone(),
            models: stage.plan.models.clone(),
            tensors: stage.plan.tasks.len(),
            bytes: stage.plan.output_bytes(),
            kept: stage.kept || std::ptr::eq(&stage.plan, self.result()),
        }
    }
}
