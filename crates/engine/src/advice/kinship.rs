//! Whether models come from one base, as their values show.

use super::sample::Sample;
use super::{Advice, Opened};
use crate::methods::Base;

/// Fine-tuning moves weights by 0.1 to 20 % of their size; models trained apart differ by about 140 %.
const FINETUNE_DISTANCE_MAX: f64 = 0.5;

pub(super) fn not_a_finetune(opened: &Opened<'_>) -> Vec<Advice> {
    let Some((first, others)) = opened.samples.split() else { return Vec::new() };
    let needs_base = opened.subject.about.inputs.base == Base::Required;
    let advice = |other: &Sample| {
        let distance = other.distance(first).filter(|d| *d > FINETUNE_DISTANCE_MAX)?;
        let percent = (distance * 100.0).round();
        let relation = if needs_base { "was not tuned from the base" } else { "does not come from the same base as" };
        let detail = format!(
            "this model {relation} {:?}: its weights differ by {percent} % of their size, where fine-tuning gives 0.1 to 20 %; models trained apart do not merge well",
            first.model.to_string()
        );
        Some(Advice { pointer: other.pointer.clone(), detail })
    };
    others.iter().filter_map(advice).collect()
}

pub(super) fn same_model_twice(opened: &Opened<'_>) -> Vec<Advice> {
    let samples = opened.samples.all();
    let advice = |(i, sample): (usize, &Sample)| {
        let same = samples[..i].iter().find(|earlier| earlier.equals(sample))?;
        let detail = format!(
            "this model has the same values as {:?} wherever they were compared; one model under two names adds nothing to a merge",
            same.model.to_string()
        );
        Some(Advice { pointer: sample.pointer.clone(), detail })
    };
    samples.iter().enumerate().filter_map(advice).collect()
}
