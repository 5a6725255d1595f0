//! Tensors that some models have and others lack: nothing is left out in silence.

use std::collections::BTreeMap;

use recipe::UnknownTensors;

use super::{Planner, TaskInput};
use crate::architecture::is_derived_buffer;
use crate::slices::Slice;

/// Tensors named in one finding; of the rest their number is told.
const NAMED_MAX: usize = 20;

/// What there is to make an output tensor of.
pub(super) enum Found {
    Inputs {
        inputs: Vec<TaskInput>,
        /// Which of the slice's sources they are of.
        present: Vec<usize>,
    },
    /// To be taken as it is, with the place of its source in the slice.
    One(TaskInput, usize),
    Nothing,
}

/// What was missing, by the place to tell it at and what there is to say.
#[derive(Debug, Default)]
pub(super) struct Missing {
    refused: BTreeMap<(String, String), Vec<String>>,
    copied: BTreeMap<(String, String), Vec<String>>,
    left_out: BTreeMap<(String, String), Vec<String>>,
    without_place: BTreeMap<(String, String), Vec<String>>,
}

impl Planner<'_> {
    /// The inputs of a tensor, one of each source of the slice, as far as they are there.
    pub(super) fn inputs_of(&mut self, slice: &Slice<'_>, name: &str, inputs: Vec<Option<TaskInput>>) -> Found {
        let present: Vec<usize> = (0..inputs.len()).filter(|i| inputs[*i].is_some()).collect();
        self.inputs += present.len();
        let lacking: Vec<String> = (0..inputs.len())
            .filter(|i| inputs[*i].is_none())
            .map(|i| format!("{:?}", slice.sources[i].model.to_string()))
            .collect();
        let there: Vec<TaskInput> = inputs.into_iter().flatten().collect();
        let Some(first) = there.first() else { return Found::Nothing };
        if lacking.is_empty() || self.recipe.options.allow_missing_tensors {
            return Found::Inputs { inputs: there, present };
        }
        let lacking = lacking.join(", ");
        if is_derived_buffer(name, &first.place.info) {
            self.missing.left_out.entry((slice.pointer.clone(), lacking)).or_default().push(name.to_owned());
            return Found::Nothing;
        }
        if self.is_copied(slice, name, &format!("not in {lacking}, though other inputs have it")) {
            let of_base = present.iter().position(|i| Some(*i) == slice.base).unwrap_or(0);
            return Found::One(there[of_base].clone(), present[of_base]);
        }
        Found::Nothing
    }

    /// Whether the recipe has tensors copied that cannot be merged; else they will be refused.
    pub(super) fn is_copied(&mut self, slice: &Slice<'_>, name: &str, why: &str) -> bool {
        let copied = self.recipe.options.unknown_tensors == UnknownTensors::Copy;
        let list = if copied { &mut self.missing.copied } else { &mut self.missing.refused };
        list.entry((slice.pointer.clone(), why.to_owned())).or_default().push(name.to_owned());
        copied
    }

    /// A tensor that can be neither merged nor copied: told, and refused unless the recipe is content with copies.
    pub(super) fn has_no_place(&mut self, slice: &Slice<'_>, name: &str) {
        let copied = self.recipe.options.unknown_tensors == UnknownTensors::Copy;
        let list = if copied { &mut self.missing.without_place } else { &mut self.missing.refused };
        let why = "past the layers that config.json counts, so that no layer range reaches it";
        list.entry((slice.pointer.clone(), why.to_owned())).or_default().push(name.to_owned());
    }

    pub(super) fn tell_missing(&mut self) {
        let missing = std::mem::take(&mut self.missing);
        for ((pointer, why), names) in missing.refused {
            let layouts = if names.iter().any(|n| n.contains("experts")) {
                "; experts may be packed in one model and stored one by one in another: save both with the same library"
            } else {
                ""
            };
            let detail = format!(
                "{}: {why}; nothing is left out in silence: merge models with the same tensors, or set `options: {{unknown_tensors: copy}}` to copy them from the base or first model that has them, or `options: {{allow_missing_tensors: true}}` to merge them from those that have them{layouts}",
                listed(&names)
            );
            self.error(&pointer, "missing_tensor", detail);
        }
        for ((pointer, why), names) in missing.copied {
            self.warn(&pointer, "copied", format!("{}: {why}; copied as it is", listed(&names)));
        }
        for ((pointer, why), names) in missing.without_place {
            let detail = format!("{}: {why}, and of another model than the last slice's; left out", listed(&names));
            self.warn(&pointer, "left_out", detail);
        }
        for ((pointer, lacking), names) in missing.left_out {
            let detail =
                format!("{}: not in {lacking}; left out, since loaders make such buffers anew", listed(&names));
            self.warn(&pointer, "left_out", detail);
        }
    }
}

pub(super) fn listed(names: &[String]) -> String {
    let named: Vec<String> = names.iter().take(NAMED_MAX).map(|n| format!("{n:?}")).collect();
    let rest = if names.len() > NAMED_MAX { ", ..." } else { "" };
    match names {
        [_] => format!("tensor {}", named[0]),
        _ => format!("{} tensors ({}{rest})", names.len(), named.join(", ")),
    }
}
