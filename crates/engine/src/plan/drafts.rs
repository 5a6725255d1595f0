//! Which output tensors there are, and which input tensors each is made of.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::missing::Found;
use super::{Planner, TaskInput};
use crate::Source;
use crate::architecture::{FAMILIES, Stack, is_derived_buffer};
use crate::layers;
use crate::slices::{Slice, SliceSource};

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
    /// Taken as it is from its one input.
    pub copied: bool,
}

/// The slices of one module, or of models of a single one.
struct Group<'a> {
    /// Place of the first slice in the recipe.
    first: usize,
    slices: &'a [Slice<'a>],
}

/// All output tensors, sorted by name. What is missing or out of range becomes a problem of the planner.
pub(crate) fn drafts(planner: &mut Planner<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let slices = planner.slices;
    let mut first = 0;
    for of_module in slices.chunk_by(|a, b| a.module == b.module) {
        let group = Group { first, slices: of_module };
        first += of_module.len();
        if of_module[0].is_whole() {
            whole(planner, &group, &mut drafts);
        } else {
            sliced(planner, &group, &mut drafts);
        }
    }
    unmentioned(planner, &mut drafts);
    planner.tell_missing();
    drafts.sort_by(|a, b| a.name.cmp(&b.name));
    drafts
}

/// Whole models: every tensor that any of them has, which all of them must have.
fn whole(planner: &mut Planner<'_>, group: &Group<'_>, drafts: &mut Vec<Draft>) {
    let slice = &group.slices[0];
    let Some(sources) = members(planner, slice) else { return };
    let names: BTreeSet<&str> = sources.iter().flat_map(Member::names).collect();
    for name in names {
        if is_too_much(planner, drafts) {
            return;
        }
        let depth = sources.iter().find_map(|s| s.source.architecture.layer(name));
        let depth = depth.map(|(layer, count)| position(layer.index, count).min(1.0));
        let wanted: Vec<String> = vec![name.to_owned(); sources.len()];
        let place = Place { slice: group.first, t: depth.unwrap_or(0.0), depth };
        add(planner, slice, &sources, &wanted, name.to_owned(), place, drafts);
    }
}

/// Slices: layers renumbered in a row; what comes before them from the first slice, final norm and head from the last.
fn sliced(planner: &mut Planner<'_>, group: &Group<'_>, drafts: &mut Vec<Draft>) {
    let mut next = 0;
    let depth = group.slices.iter().filter_map(|s| s.sources[0].range).map(|r| r.len()).sum();
    let mut output_stack: Option<String> = None;
    for (at, slice) in group.slices.iter().enumerate() {
        let Some(sources) = members(planner, slice) else { return };
        let Some(stacks) = stacks(planner, slice, &sources) else { continue };
        let output_stack = output_stack.get_or_insert_with(|| stacks[0].prefix.clone());
        let length = slice.sources[0].range.map_or(0, |r| r.len());
        for offset in 0..length {
            if is_too_much(planner, drafts) {
                return;
            }
            let layer =
                SliceLayer { slice: group.first + at, offset, length, depth, output: (output_stack, next + offset) };
            layer_drafts(planner, slice, &sources, &stacks, &layer, drafts);
        }
        next += length;
    }
    let Some(output_stack) = output_stack else { return };
    outside_layers(planner, group, 0, true, drafts);
    outside_layers(planner, group, group.slices.len() - 1, false, drafts);
    past_the_depth(planner, group, (&output_stack, next), drafts);
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

/// A source of a slice, and the module of it that the slice is of.
struct Member<'a> {
    index: usize,
    source: &'a Source,
    module: Option<usize>,
}

impl<'a> Member<'a> {
    fn has(&self, name: &str) -> bool {
        self.module.is_none_or(|module| self.source.architecture.module_of(name) == module)
    }

    fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.source.checkpoint.tensors.keys().map(String::as_str).filter(|name| self.has(name))
    }

    /// The layers that a range of this source speaks of.
    fn stack(&self) -> Result<&'a Stack, String> {
        let architecture = &self.source.architecture;
        let with_layers: Vec<_> = architecture.modules.iter().filter_map(|m| m.stack.as_ref()).collect();
        let found = match self.module {
            Some(module) => architecture.modules[module].stack.as_ref(),
            None if with_layers.len() > 1 => {
                return Err(format!(
                    "it has several modules ({}), so `layer_range` is ambiguous; write `modules: {{NAME: {{slices: ...}}}}`",
                    architecture.names()
                ));
            }
            None => with_layers.first().copied(),
        };
        found.ok_or_else(|| "its tensor names show no layers".to_owned())
    }

    /// Its tensors outside the layers that ranges speak of.
    fn outside(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.names().filter(|name| self.source.architecture.layer(name).is_none())
    }
}

fn members<'a>(planner: &mut Planner<'a>, slice: &Slice<'_>) -> Option<Vec<Member<'a>>> {
    let sources: Vec<Option<Member<'a>>> = slice.sources.iter().map(|s| member(planner, slice, s)).collect();
    sources.into_iter().collect()
}

fn member<'a>(planner: &mut Planner<'a>, slice: &Slice<'_>, wanted: &SliceSource<'_>) -> Option<Member<'a>> {
    let index = planner.sources.index_of(wanted.model);
    let source = &planner.sources.list[index];
    let Some(name) = slice.module else { return Some(Member { index, source, module: None }) };
    let found = source.architecture.find(name);
    if found.is_none() {
        let known = source.architecture.names();
        let near = recipe::nearest(name, source.architecture.modules.iter().map(|m| m.name.as_str()));
        let advice = near.map_or(format!("it has {known}"), |near| format!("did you mean `{near}`? It has {known}"));
        let detail = format!("model {:?} has no module `{name}`; {advice}", source.model.to_string());
        planner.error(&format!("/modules/{}", recipe::escape(name)), "unknown_module", detail);
    }
    Some(Member { index, source, module: Some(found?) })
}

struct Place {
    slice: usize,
    t: f64,
    depth: Option<f64>,
}

/// One output tensor, made of the inputs called `wanted`, if they are there.
fn add(
    planner: &mut Planner<'_>,
    slice: &Slice<'_>,
    sources: &[Member<'_>],
    wanted: &[String],
    name: String,
    place: Place,
    drafts: &mut Vec<Draft>,
) {
    let inputs: Vec<Option<TaskInput>> = sources.iter().zip(wanted).map(|(s, name)| input(s, name)).collect();
    let Place { slice: index, t, depth } = place;
    let draft = |inputs, present, copied| Draft { name: name.clone(), slice: index, t, depth, inputs, present, copied };
    match planner.inputs_of(slice, &wanted[0], inputs) {
        Found::Inputs { inputs, present } => drafts.push(draft(inputs, present, false)),
        Found::One(input, at) => drafts.push(draft(vec![input], vec![at], true)),
        Found::Nothing => {}
    }
}

fn input(member: &Member<'_>, name: &str) -> Option<TaskInput> {
    let (name, place) = find(member.source, name)?;
    Some(TaskInput { source: member.index, name: name.clone(), place: place.clone(), rows: None })
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
    sources: &[Member<'_>],
    stacks: &[&Stack],
    layer: &SliceLayer<'_>,
    drafts: &mut Vec<Draft>,
) {
    let prefixes: Vec<String> = slice
        .sources
        .iter()
        .zip(stacks)
        .map(|(s, stack)| layers::join(&stack.prefix, s.range.map_or(0, |r| r.start) + layer.offset, ""))
        .collect();
    let rests: BTreeSet<&str> =
        sources.iter().zip(&prefixes).flat_map(|(member, prefix)| names_under(member.source, prefix)).collect();
    for rest in rests {
        let wanted: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{rest}")).collect();
        let name = layers::join(layer.output.0, layer.output.1, rest);
        let t = position(layer.offset, layer.length);
        let place = Place { slice: layer.slice, t, depth: Some(position(layer.output.1, layer.depth)) };
        add(planner, slice, sources, &wanted, name, place, drafts);
    }
}

fn outside_layers(planner: &mut Planner<'_>, group: &Group<'_>, at: usize, before: bool, drafts: &mut Vec<Draft>) {
    let slice = &group.slices[at];
    let Some(sources) = members(planner, slice) else { return };
    let everywhere: Vec<Member<'_>> = group.slices.iter().filter_map(|s| members(planner, s)).flatten().collect();
    let names: BTreeSet<&str> =
        everywhere.iter().flat_map(Member::outside).filter(|name| layers::is_before_layers(name) == before).collect();
    for name in names {
        if is_too_much(planner, drafts) {
            return;
        }
        let place = Place { slice: group.first + at, t: 0.0, depth: None };
        if sources.iter().any(|s| find(s.source, name).is_some()) {
            let wanted: Vec<String> = vec![name.to_owned(); sources.len()];
            add(planner, slice, &sources, &wanted, name.to_owned(), place, drafts);
        } else {
            of_another_slice(planner, slice, &everywhere, name, place, drafts);
        }
    }
}

/// A tensor outside the layers that none of the models has which such tensors come from.
fn of_another_slice(
    planner: &mut Planner<'_>,
    slice: &Slice<'_>,
    everywhere: &[Member<'_>],
    name: &str,
    place: Place,
    drafts: &mut Vec<Draft>,
) {
    let Some(found) = everywhere.iter().find_map(|member| input(member, name)) else { return };
    let why = "outside the layers, and not in the models of this slice, which such tensors come from";
    if is_derived_buffer(name, &found.place.info) || !planner.is_copied(slice, name, why) {
        return;
    }
    let Place { slice, t, depth } = place;
    drafts.push(Draft { name: name.to_owned(), slice, t, depth, inputs: vec![found], present: vec![0], copied: true });
}

/// Layers past what a config counts (heads that predict further tokens) are in no slice: they are unknown tensors, which
/// follow the last layer where the recipe says that these are copied.
fn past_the_depth(planner: &mut Planner<'_>, group: &Group<'_>, end: (&str, u32), drafts: &mut Vec<Draft>) {
    let at = group.slices.len() - 1;
    let slice = &group.slices[at];
    let Some(sources) = members(planner, slice) else { return };
    let Some(first) = sources.first() else { return };
    past_in_other_models(planner, group, first);
    let past = first.names().filter_map(|name| {
        let (layer, count) = first.source.architecture.layer(name)?;
        (layer.index >= count).then(|| (name, layers::join(end.0, end.1 + layer.index - count, layer.rest)))
    });
    for (name, output) in past {
        let Some(input) = input(first, name) else { continue };
        if planner.is_copied(slice, name, "past the layers that config.json counts, so that no layer range reaches it")
        {
            let (inputs, present) = (vec![input], vec![0]);
            drafts.push(Draft {
                name: output,
                slice: group.first + at,
                t: 0.0,
                depth: None,
                inputs,
                present,
                copied: true,
            });
        }
    }
}

/// Such layers of models that the last slice is not of have no place in the output.
fn past_in_other_models(planner: &mut Planner<'_>, group: &Group<'_>, last: &Member<'_>) {
    let mut seen = BTreeSet::from([last.index]);
    for slice in group.slices {
        let Some(sources) = members(planner, slice) else { continue };
        for member in sources.iter().filter(|member| seen.insert(member.index)) {
            let is_past =
                |name: &&str| member.source.architecture.layer(name).is_some_and(|(layer, count)| layer.index >= count);
            for name in member.names().filter(is_past) {
                planner.has_no_place(slice, name);
            }
        }
    }
}

/// Modules that a recipe of modules says nothing about come from the base or first model as they are.
fn unmentioned(planner: &mut Planner<'_>, drafts: &mut Vec<Draft>) {
    if planner.slices.iter().all(|s| s.module.is_none()) {
        return;
    }
    let index = planner.donor();
    let donor = &planner.sources.list[index];
    let mentioned: BTreeSet<usize> = planner.slices.iter().filter_map(|s| donor.architecture.find(s.module?)).collect();
    for (module, of_donor) in donor.architecture.modules.iter().enumerate().filter(|(i, _)| !mentioned.contains(i)) {
        let member = Member { index, source: donor, module: Some(module) };
        let detail = format!(
            "module `{}` is not mentioned, so it is taken as it is from {:?}",
            of_donor.name,
            donor.model.to_string()
        );
        planner.warn("/modules", "module_copied", detail);
        for name in member.names() {
            let Some(input) = input(&member, name) else { continue };
            planner.inputs += 1;
            if is_too_much(planner, drafts) {
                return;
            }
            drafts.push(Draft {
                name: name.to_owned(),
                slice: 0,
                t: 0.0,
                depth: None,
                inputs: vec![input],
                present: vec![0],
                copied: true,
            });
        }
    }
}

fn names_under<'a>(source: &'a Source, prefix: &str) -> Vec<&'a str> {
    let from = source.checkpoint.tensors.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.map_while(|(name, _)| name.strip_prefix(prefix)).collect()
}

/// The layers that each source's range speaks of, once the ranges are known to lie within.
fn stacks<'a>(planner: &mut Planner<'_>, slice: &Slice<'_>, sources: &[Member<'a>]) -> Option<Vec<&'a Stack>> {
    let found: Vec<Option<&Stack>> =
        slice.sources.iter().zip(sources).map(|(wanted, member)| stack(planner, wanted, member)).collect();
    found.into_iter().collect()
}

fn stack<'a>(planner: &mut Planner<'_>, wanted: &SliceSource<'_>, member: &Member<'a>) -> Option<&'a Stack> {
    let model = member.source.model.to_string();
    let at_model = format!("{}/model", wanted.pointer);
    let stack = match member.stack() {
        Ok(stack) => stack,
        Err(reason) => {
            planner.error(&at_model, "invalid_checkpoint", format!("model {model:?}: {reason}"));
            return None;
        }
    };
    if let Some(layer) = member.source.architecture.gap(&member.source.checkpoint, stack) {
        planner.error(&at_model, "invalid_checkpoint", format!("model {model:?}: layer {layer} has no tensors"));
        return None;
    }
    if let Some(range) = wanted.range.filter(|r| r.end > stack.count) {
        let detail = format!(
            "layers {} to {} are asked of model {model:?}, which has {count}: write a range within [0, {count}]",
            range.start,
            range.end,
            count = stack.count
        );
        planner.error(&format!("{}/layer_range", wanted.pointer), "layer_out_of_range", detail);
        return None;
    }
    Some(stack)
}

/// A tensor by its name, or the one that it is tied to.
pub(super) fn find<'a>(source: &'a Source, name: &str) -> Option<(&'a String, &'a checkpoint::TensorPlace)> {
    let tensors = &source.checkpoint.tensors;
    tensors.get_key_value(name).or_else(|| {
        let untied = layers::is_untied(&source.checkpoint.config);
        let shared = FAMILIES.tied_to(name).filter(|_| !untied)?;
        shared.iter().find_map(|embedding| tensors.get_key_value(embedding))
    })
}

/// Where a layer stands in its slice, from 0 to 1; a single layer stands at the end.
fn position(index: u32, count: u32) -> f64 {
    if count <= 1 { 1.0 } else { f64::from(index) / f64::from(count - 1) }
}
