//! Methods whose statistics are taken over the whole model: all tensors, one after the other, as one long vector.

use super::{Planner, TensorTask, Work};
use crate::methods::{Merge, Method, Resolved, TaskParameters};

/// Statistics to be taken over all merged tensors before any of them is written.
#[derive(Debug)]
pub(crate) struct ModelStatistics {
    /// The method as applied to one vector of all elements.
    pub merge: Box<dyn Merge>,
    /// Tensors in the order in which they follow each other, by their place among the tasks.
    pub tasks: Vec<usize>,
}

impl Planner<'_> {
    pub(super) fn model_statistics(&mut self, method: &dyn Method, tasks: &[TensorTask]) -> Option<ModelStatistics> {
        // a copy has no part in statistics
        let is_merged = |task: &TensorTask| matches!(&task.work, Work::Merge(merge) if merge.copies().is_none());
        let merged: Vec<usize> = (0..tasks.len()).filter(|i| is_merged(&tasks[*i])).collect();
        let first = &tasks[*merged.first()?].parameters;
        if !merged.iter().any(|i| method.spans_the_model(&tasks[*i].parameters)) {
            return None;
        }
        let elements = merged.iter().map(|i| tasks[*i].parameters.elements()).sum();
        let all = TaskParameters { shape: vec![elements], ..first.clone() };
        let names: Vec<&str> = self.about.parameters.iter().filter(|p| p.of_statistics).map(|p| p.name).collect();
        let alone = |i: &&usize| !share_statistics(&tasks[**i].parameters, first, &names);
        if let Some(other) = merged.iter().find(alone) {
            let detail = format!(
                "statistics over the whole model need one value of {} for every tensor, and the same inputs; tensor {:?} has others",
                names.join(", "),
                tasks[*other].name
            );
            self.error("/parameters", "invalid_value", detail);
            return None;
        }
        match method.prepare(&all) {
            Ok(merge) => Some(ModelStatistics { merge, tasks: merged }),
            Err(detail) => {
                self.error("/parameters", "invalid_value", detail);
                None
            }
        }
    }
}

fn share_statistics(a: &TaskParameters, b: &TaskParameters, names: &[&str]) -> bool {
    let of = |p: &TaskParameters| -> Vec<Option<Resolved>> {
        let levels = std::iter::once(&p.shared).chain(&p.each);
        levels.flat_map(|level| names.iter().map(|name| level.get(name).copied())).collect()
    };
    a.inputs == b.inputs && a.base == b.base && of(a) == of(b)
}
