//! Which output tensors there are, and which input tensors each is made of.

use std::collections::BTreeSet;

use super::{Planner, TaskInput};
use crate::Source;
use crate::layers;
use crate::slices::{Slice, SliceSource};

/// Names under which output heads are written; a model with tied embeddings has none of its own.
pub(crate) const HEADS: &[&str] = &["lm_head.weight", "embed_out.weight", "output.weight"];
/// Embeddings that stand in for a tied head.
const TIED_EMBEDDINGS: &[&str] = &[
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "transformer.wte.weight",
    "gpt_neox.embed_in.weight",
    "model.tok_embeddings.weight",
];

/// Tensors of one output: ten times what the largest models have.
const OUTPUT_TENSORS_MAX: usize = 200_000;

/// Inputs of all tensors together.
const INPUTS_MAX: usize = 1_000_000;

/// An output tensor before its parameters are known.
pub(crate) struct Draft {
    pub name: String,
    pub slice: usize,
    pub t: f64,
    /// As `t`, over the layers of the whole output; `None` outside the layers.
    pub depth: Option<f64>,
    pub inputs: Vec<TaskInput>,
    /// Which of the slice's sources the inputs are of; all, unless the recipe allows tensors to be missing.
    pub present: Vec<usize>,
}

/// All output tensors, sorted by name. What is missing or out of range becomes a problem of the planner.
pub(crate) fn drafts(planner: &mut Planner<'_>) -> Vec<Draft> {
    let slices = planner.slices;
    let mut drafts =
        if slices[0].sources[0].range.is_none() { whole(planner, &slices[0]) } else { sliced(planner, slices) };
    drafts.sort_by(|a, b| a.name.cmp(&b.name));
    drafts
}

/// Whole models: every tensor that any of them has, which all of them must have.
fn whole(planner: &mut Planner<'_>, slice: &Slice<'_>) -> Vec<Draft> {
    let sources = sources_of(planner, slice);
    let names: BTreeSet<&str> =
        sources.iter().flat_map(|(_, s)| s.checkpoint.tensors.keys().map(String::as_str)).collect();
    let mut drafts = Vec::with_capacity(names.len());
    for name in names {
        if is_too_much(planner, &drafts) {
            return drafts;
        }
        let depth = layers::split(name).map(|layer| {
            position(layer.index, sources.iter().map(|(_, s)| s.stacks.count(layer.stack)).max().unwrap_or(1))
        });
        let wanted: Vec<String> = vec![name.to_owned(); sources.len()];
        if let Some((inputs, present)) = inputs(planner, slice, &sources, &wanted) {
            drafts.push(Draft { name: name.to_owned(), slice: 0, t: depth.unwrap_or(0.0), depth, inputs, present });
        }
    }
    drafts
}

/// Slices: layers renumbered in a row; embeddings from the first slice, final norm and head from the last.
fn sliced(planner: &mut Planner<'_>, slices: &[Slice<'_>]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let mut next = 0;
    let depth = slices.iter().filter_map(|s| s.sources[0].range).map(|r| r.len()).sum();
    let mut output_stack: Option<String> = None;
    for (index, slice) in slices.iter().enumerate() {
        let sources = sources_of(planner, slice);
        let Some(stacks) = stacks(planner, slice, &sources) else { continue };
        let output_stack = output_stack.get_or_insert_with(|| stacks[0].clone());
        let length = slice.sources[0].range.map_or(0, |r| r.len());
        for offset in 0..length {
            if is_too_much(planner, &drafts) {
                return drafts;
            }
            let layer = SliceLayer { slice: index, offset, length, depth, output: (output_stack, next + offset) };
            layer_drafts(planner, slice, &sources, &stacks, &layer, &mut drafts);
        }
        next += length;
    }
    outside_layers(planner, slices, 0, true, &mut drafts);
    outside_layers(planner, slices, slices.len() - 1, false, &mut drafts);
    drafts
}

/// Whether there are more tensors or inputs than one plan may have; then a problem says so.
fn is_too_much(planner: &mut Planner<'_>, drafts: &[Draft]) -> bool {
    let too_much = drafts.len() > OUTPUT_TENSORS_MAX || planner.inputs > INPUTS_MAX;
    if too_much {
        let detail =
            format!("more than {OUTPUT_TENSORS_MAX} tensors or {INPUTS_MAX} inputs of tensors; merge less at once");
        planner.error("", "too_many", detail);
    }
    too_much
}

struct SliceLayer<'a> {
    slice: usize,
    offset: u32,
    length: u32,
    /// Layers of the output.
    depth: u32,
    /// Stack and index in the output.
    output: (&'a str, u32),
}

fn layer_drafts(
    planner: &mut Planner<'_>,
    slice: &Slice<'_>,
    sources: &[(usize, &Source)],
    stacks: &[String],
    layer: &SliceLayer<'_>,
    drafts: &mut Vec<Draft>,
) {
    let prefixes: Vec<String> = slice
        .sources
        .iter()
        .zip(stacks)
        .map(|(s, stack)| layers::join(stack, s.range.map_or(0, |r| r.start) + layer.offset, ""))
        .collect();
    let rests: BTreeSet<&str> =
        sources.iter().zip(&prefixes).flat_map(|((_, source), prefix)| names_under(source, prefix)).collect();
    for rest in rests {
        let wanted: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{rest}")).collect();
        if let Some((inputs, present)) = inputs(planner, slice, sources, &wanted) {
            let name = layers::join(layer.output.0, layer.output.1, rest);
            let depth = Some(position(layer.output.1, layer.depth));
            drafts.push(Draft {
                name,
                slice: layer.slice,
                t: position(layer.offset, layer.length),
                depth,
                inputs,
                present,
            });
        }
    }
}

fn outside_layers(
    planner: &mut Planner<'_>,
    slices: &[Slice<'_>],
    index: usize,
    before: bool,
    drafts: &mut Vec<Draft>,
) {
    let slice = &slices[index];
    let sources = sources_of(planner, slice);
    let names: BTreeSet<&str> = sources
        .iter()
        .flat_map(|(_, s)| s.checkpoint.tensors.keys().map(String::as_str))
        .filter(|name| layers::split(name).is_none() && layers::is_before_layers(name) == before)
        .collect();
    for name in names {
        if is_too_much(planner, drafts) {
            return;
        }
        let wanted: Vec<String> = vec![name.to_owned(); sources.len()];
        if let Some((inputs, present)) = inputs(planner, slice, &sources, &wanted) {
            drafts.push(Draft { name: name.to_owned(), slice: index, t: 0.0, depth: None, inputs, present });
        }
    }
}

fn names_under<'a>(source: &'a Source, prefix: &str) -> Vec<&'a str> {
    let from =
        source.checkpoint.tensors.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
    from.map_while(|(name, _)| name.strip_prefix(prefix)).collect()
}

fn sources_of<'a>(planner: &Planner<'a>, slice: &Slice<'_>) -> Vec<(usize, &'a Source)> {
    let index = |s: &SliceSource<'_>| planner.sources.index_of(s.model);
    slice.sources.iter().map(|s| (index(s), &planner.sources.list[index(s)])).collect()
}

/// The stack that each source's layer range speaks of, once the ranges are known to lie within.
fn stacks(planner: &mut Planner<'_>, slice: &Slice<'_>, sources: &[(usize, &Source)]) -> Option<Vec<String>> {
    let found: Vec<Option<String>> =
        slice.sources.iter().zip(sources).map(|(wanted, (_, source))| stack(planner, wanted, source)).collect();
    found.into_iter().collect()
}

fn stack(planner: &mut Planner<'_>, wanted: &SliceSource<'_>, source: &Source) -> Option<String> {
    let model = source.model.to_string();
    let (stack, count) = match source.stacks.main(&source.checkpoint.config) {
        Ok(main) => main,
        Err(reason) => {
            planner.error(
                &format!("{}/model", wanted.pointer),
                "invalid_checkpoint",
                format!("model {model:?}: {reason}"),
            );
            return None;
        }
    };
    if let Some(layer) = source.stacks.gap(stack) {
        planner.error(
            &format!("{}/model", wanted.pointer),
            "invalid_checkpoint",
            format!("model {model:?}: layer {layer} has no tensors"),
        );
        return None;
    }
    let other = source.checkpoint.tensors.keys().filter_map(|n| layers::split(n)).find(|n| n.stack != stack);
    if let Some(other) = other {
        let detail = format!(
            "model {model:?} has layers outside {stack:?} too ({:?}), which slices would leave out; `modules` is not supported yet",
            other.stack
        );
        planner.error(&format!("{}/model", wanted.pointer), "not_yet", detail);
        return None;
    }
    let range = wanted.range.filter(|r| r.end > count);
    if let Some(range) = range {
        let detail = format!(
            "layers {} to {} are asked of model {model:?}, which has {count}: write a range within [0, {count}]",
            range.start, range.end
        );
        planner.error(&format!("{}/layer_range", wanted.pointer), "layer_out_of_range", detail);
        return None;
    }
    Some(stack.to_owned())
}

/// The input of each source; what is missing becomes one problem for the tensor.
fn inputs(
    planner: &mut Planner<'_>,
    slice: &Slice<'_>,
    sources: &[(usize, &Source)],
    names: &[String],
) -> Option<(Vec<TaskInput>, Vec<usize>)> {
    let mut inputs = Vec::with_capacity(sources.len());
    let mut present = Vec::with_capacity(sources.len());
    let mut missing = Vec::new();
    for (at, ((index, source), name)) in sources.iter().zip(names).enumerate() {
        match find(source, name) {
            Some((name, place)) => {
                present.push(at);
                inputs.push(TaskInput { source: *index, name: name.clone(), place: place.clone(), rows: None })
            }
            None => missing.push((name, source.model.to_string())),
        }
    }
    planner.inputs += inputs.len();
    if missing.is_empty() || planner.recipe.options.allow_missing_tensors {
        return Some((inputs, present));
    }
    let lacking: Vec<String> = missing.iter().map(|(_, model)| format!("{model:?}")).collect();
    let detail = format!(
        "tensor {:?} is not in {}, though other inputs have it; nothing is left out in silence: merge models with the same tensors, or set `options: {{allow_missing_tensors: true}}` to merge it from those that have it",
        missing[0].0,
        lacking.join(", ")
    );
    planner.error(&slice.pointer, "missing_tensor", detail);
    None
}

/// A tensor by its name, or the embedding that a tied head shares.
pub(super) fn find<'a>(source: &'a Source, name: &str) -> Option<(&'a String, &'a checkpoint::TensorPlace)> {
    let tensors = &source.checkpoint.tensors;
    tensors.get_key_value(name).or_else(|| {
        let untied = source.checkpoint.config.get("tie_word_embeddings") == Some(&serde_json::Value::Bool(false));
        let tied = HEADS.contains(&name) && !untied;
        tied.then(|| TIED_EMBEDDINGS.iter().find_map(|e| tensors.get_key_value(*e))).flatten()
    })
}

/// Where a layer stands in its slice, from 0 to 1; a single layer stands at the end.
fn position(index: u32, count: u32) -> f64 {
    if count <= 1 { 1.0 } else { f64::from(index) / f64::from(count - 1) }
}
