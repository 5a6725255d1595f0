//! A tensor of both models, and what the recipe wants of it.

use checkpoint::Dtype;

use crate::methods::{Resolved, TaskParameters};
use crate::plan::drafts::Draft;
use crate::plan::{Planner, TaskInput};

pub(super) struct Candidate {
    pub name: String,
    pub finetuned: TaskInput,
    pub base: Option<TaskInput>,
    pub parameters: TaskParameters,
}

impl Planner<'_> {
    /// `None` for what only the base has, which is no part of the fine-tuned model.
    pub(super) fn candidate(&mut self, draft: &Draft) -> Option<Candidate> {
        let slice = &self.slices[draft.slice].of_sources(&draft.present);
        let at = |wanted: bool| (0..draft.inputs.len()).find(|i| (slice.base == Some(*i)) == wanted);
        let finetuned = draft.inputs[at(false)?].clone();
        let base = at(true).map(|i| draft.inputs[i].clone());
        let parameters = self.parameters_of_draft(draft, slice, &finetuned.place.info.shape)?;
        Some(Candidate { name: draft.name.clone(), finetuned, base, parameters })
    }
}

impl Candidate {
    pub fn dtypes(&self) -> Vec<Dtype> {
        std::iter::once(&self.finetuned).chain(&self.base).map(|input| input.place.info.dtype).collect()
    }

    pub fn shape(&self) -> &[u64] {
        &self.finetuned.place.info.shape
    }

    pub fn has_other_shape(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.place.info.shape != self.shape())
    }

    /// A matrix that both have alike.
    pub fn is_matrix(&self) -> bool {
        let shape = self.shape();
        self.base.is_some() && !self.has_other_shape() && shape.len() == 2 && shape.iter().all(|n| *n > 0)
    }

    pub fn matrix(&self) -> (u64, u64) {
        (self.shape()[0], self.shape()[1])
    }

    /// The most that the recipe gives the module.
    pub fn rank(&self) -> Option<u64> {
        let number = |name: &str| match self.parameters.shared.get(name) {
            Some(Resolved::Number(number)) => Some(*number as u64),
            _ => None,
        };
        match (number("rank"), number("max_rank")) {
            (Some(rank), Some(max)) => Some(rank.min(max)),
            (rank, max) => rank.or(max),
        }
    }

    pub fn flag(&self, name: &str) -> bool {
        self.parameters.shared.get(name) == Some(&Resolved::Boolean(true))
    }
}
