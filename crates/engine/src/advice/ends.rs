//! The first and the last layers of a stack of slices, and what stands before and after them.

use super::{Advice, Opened, Subject};
use crate::slices::Slice;

pub(super) fn of_recipe(subject: &Subject<'_>) -> Vec<Advice> {
    let modules = subject.slices.chunk_by(|a, b| a.module == b.module);
    modules.flat_map(|slices| begins_late(slices).into_iter().chain(foreign_head(subject, slices))).collect()
}

/// What the layers read first is what the embeddings give.
fn begins_late(slices: &[Slice<'_>]) -> Option<Advice> {
    let (slice, range) = with_layers(slices).next()?;
    let model = slice.sources[0].model.to_string();
    (range.start > 0).then(|| Advice {
        pointer: slice.pointer.clone(),
        detail: format!(
            "the output begins with layer {} of {model:?}; the first layers read the embeddings and do badly elsewhere: begin with layer 0",
            range.start
        ),
    })
}

/// Copied stacks whose head was trained with another model's embeddings.
fn foreign_head(subject: &Subject<'_>, slices: &[Slice<'_>]) -> Option<Advice> {
    let (first, last) = (slices.first()?, slices.last()?);
    let range = last.sources[0].range?;
    let (embeddings, head) = (first.sources[0].model, last.sources[0].model);
    let is_copied = subject.about.inputs.max == Some(1);
    // a slice without layers is there for its norm and head: they were chosen
    (is_copied && embeddings != head && !range.is_empty()).then(|| Advice {
        pointer: last.pointer.clone(),
        detail: format!(
            "embeddings come from {:?}, final norm and output head (where it is not tied) from {:?}; to take both from one model, end with a slice of it without layers, as `layer_range: [{end}, {end}]`",
            embeddings.to_string(),
            head.to_string(),
            end = range.end
        ),
    })
}

/// What the final norm and the head read is what the last layers give.
pub(super) fn of_models(opened: &Opened<'_>) -> Vec<Advice> {
    opened
        .subject
        .slices
        .chunk_by(|a, b| a.module == b.module)
        .filter_map(|slices| ends_early(opened, slices))
        .collect()
}

fn ends_early(opened: &Opened<'_>, slices: &[Slice<'_>]) -> Option<Advice> {
    let (slice, range) = with_layers(slices).last()?;
    let source = &slice.sources[0];
    let model = opened.source(source.model);
    let count = model.architecture.stack_of(slice.module)?.count;
    (range.end < count).then(|| Advice {
        pointer: slice.pointer.clone(),
        detail: format!(
            "the output ends with layer {} of {:?}, which has {count}; the last layers prepare what the output head reads: end with layer {}",
            range.end - 1,
            source.model.to_string(),
            count - 1
        ),
    })
}

fn with_layers<'a>(slices: &'a [Slice<'a>]) -> impl DoubleEndedIterator<Item = (&'a Slice<'a>, recipe::LayerRange)> {
    slices.iter().filter_map(|slice| Some((slice, slice.sources[0].range.filter(|range| !range.is_empty())?)))
}
