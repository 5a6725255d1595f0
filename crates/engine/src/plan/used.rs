//! What of each model's tensors a plan reads, and which it leaves out.

use std::collections::{BTreeSet, HashSet};

use checkpoint::TensorPlace;
use serde::Serialize;

use super::TensorTask;
use crate::{Source, Sources};

/// Names of unused tensors that are told; of the rest their number is.
const UNUSED_TOLD_MAX: usize = 10;

/// One model of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedModel {
    pub model: String,
    pub tensors: usize,
    /// Of all its tensors.
    pub bytes: u64,
    /// Of those that the merge reads.
    pub read_bytes: u64,
    /// Tensors that nothing of the output is made of, as layers that no slice takes.
    pub unused_tensors: usize,
    /// The first of them by name.
    pub unused: Vec<String>,
}

type Place = (usize, u64, u64);

pub(super) fn models(tasks: &[TensorTask], sources: &Sources) -> Vec<PlannedModel> {
    let mut used: Vec<HashSet<Place>> = vec![HashSet::new(); sources.list.len()];
    for input in tasks.iter().flat_map(|task| &task.inputs) {
        used[input.source].insert(place(&input.place));
        let Some(rows) = &input.rows else { continue };
        for source in rows.sources().collect::<BTreeSet<_>>() {
            used[source].extend(rows.places[source].as_ref().map(place));
        }
    }
    sources.list.iter().zip(&used).map(|(source, used)| model(source, used)).collect()
}

fn place(place: &TensorPlace) -> Place {
    (place.file, place.info.start, place.info.bytes)
}

fn model(source: &Source, used: &HashSet<Place>) -> PlannedModel {
    let tensors = &source.checkpoint.tensors;
    let bytes_of = |places: &mut dyn Iterator<Item = &TensorPlace>| places.map(|p| p.info.bytes).sum();
    let unused: Vec<&String> =
        tensors.iter().filter(|(_, p)| !used.contains(&place(p))).map(|(name, _)| name).collect();
    PlannedModel {
        model: source.model.to_string(),
        tensors: tensors.len(),
        bytes: bytes_of(&mut tensors.values()),
        read_bytes: bytes_of(&mut tensors.values().filter(|p| used.contains(&place(p)))),
        unused_tensors: unused.len(),
        unused: unused.into_iter().take(UNUSED_TOLD_MAX).cloned().collect(),
    }
}
