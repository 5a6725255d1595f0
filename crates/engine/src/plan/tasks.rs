//! What becomes of each tensor of a model: its inputs, its parameters, and how it is made of them.

use std::sync::Arc;

use checkpoint::{Dtype, is_floating, is_mergeable};

use super::drafts::Draft;
use super::tokens::Tokens;
use super::{Planner, TaskInput, TensorTask, Work, dtype_of, promote};
use crate::check::base_of;
use crate::layers;
use crate::methods::{self, Merge, Method, TaskParameters, TooFew};
use crate::parameters::{self, Place};
use crate::slices::Slice;

impl Planner<'_> {
    pub(super) fn task(&mut self, method: &dyn Method, draft: &Draft, tokens: Option<&Tokens>) -> Option<TensorTask> {
        let slice = &self.slices[draft.slice].of_sources(&draft.present);
        let of_tokens = tokens.filter(|tokens| tokens.concern(draft));
        if draft.copied {
            let (inputs, shape) = match of_tokens {
                Some(tokens) => self.gather(tokens, draft)?,
                None => (draft.inputs.clone(), draft.inputs[0].place.info.shape.clone()),
            };
            return self.copied(draft, inputs, shape);
        }
        if draft.present.len() < self.slices[draft.slice].sources.len() && self.too_few(slice) {
            if of_tokens.is_some() {
                let detail =
                    format!("tensor {:?} follows the merged vocabulary, so every model must have it", draft.name);
                self.error(&slice.pointer, "missing_tensor", detail);
                return None;
            }
            return self.few(method, draft, slice);
        }
        let (inputs, shape) = match of_tokens {
            Some(tokens) => self.gather(tokens, draft)?,
            None => self.of_one_shape(draft)?,
        };
        let parameters = self.parameters_of_draft(draft, slice, &shape)?;
        let merge = match method.prepare(&parameters) {
            Ok(merge) => merge,
            Err(detail) => {
                let pointer = slice.pointer.clone();
                self.error(&pointer, "invalid_value", format!("tensor {:?}: {detail}", draft.name));
                return None;
            }
        };
        let (dtype, work) = self.work(draft, &inputs, merge)?;
        Some(TensorTask { name: draft.name.clone(), dtype, inputs, parameters, work, shard: 0, start: 0 })
    }

    /// What the recipe says of a tensor of this shape.
    pub(super) fn parameters_of_draft(
        &mut self,
        draft: &Draft,
        slice: &Slice<'_>,
        shape: &[u64],
    ) -> Option<TaskParameters> {
        let names: Vec<&str> = draft.inputs.iter().map(|i| i.name.as_str()).collect();
        let place =
            Place { name: &draft.name, input_names: &names, t: draft.t, depth: draft.depth, shape, seed: self.seed };
        let base = base_of(&self.about, slice);
        let resolved = parameters::resolve(self.recipe, &self.about, &self.names_set, slice, base, &place);
        let mut parameters = resolved.map_err(|problem| self.found(problem)).ok()?;
        self.share_values(&mut parameters);
        Some(parameters)
    }

    /// The values of the tensor before, where they are the same.
    fn share_values(&mut self, parameters: &mut TaskParameters) {
        let all = std::iter::once(&mut parameters.shared).chain(&mut parameters.each);
        for (i, values) in all.enumerate() {
            match self.last_values.get_mut(i) {
                Some(last) if *last == *values => *values = last.clone(),
                Some(last) => *last = values.clone(),
                None => self.last_values.push(values.clone()),
            }
        }
    }

    /// Whether the method cannot merge what is left of a slice.
    fn too_few(&self, slice: &Slice<'_>) -> bool {
        let base = base_of(&self.about, slice);
        let optional = usize::from(self.about.inputs.base == methods::Base::Optional && base.is_some());
        let needs_base = matches!(self.about.inputs.base, methods::Base::Required | methods::Base::FirstByDefault);
        slice.sources.len() - optional < self.about.inputs.min || (needs_base && base.is_none())
    }

    /// A tensor that too few models have: copied, left out or refused, as the method says.
    fn few(&mut self, method: &dyn Method, draft: &Draft, slice: &Slice<'_>) -> Option<TensorTask> {
        let base = slice.base;
        let copied = match (method.when_too_few(), base, slice.sources.len()) {
            (TooFew::CopyTheOne, _, 1) => Some(0),
            (TooFew::CopyTheBase, Some(base), 1) => Some(base),
            (TooFew::CopyTheBaseOrLeaveOut, Some(base), _) => Some(base),
            _ => None,
        };
        if let Some(input) = copied {
            let input = draft.inputs[input].clone();
            let shape = input.place.info.shape.clone();
            return self.copied(draft, vec![input], shape);
        }
        let models = slice.sources.iter().map(|s| format!("{:?}", s.model.to_string())).collect::<Vec<_>>().join(", ");
        let detail = format!("tensor {:?} is only in {models}, which is too few for {}", draft.name, self.about.name);
        if method.when_too_few() == TooFew::CopyTheBaseOrLeaveOut {
            self.warn(&slice.pointer, "left_out", format!("{detail}; it is left out"));
        } else {
            self.error(&slice.pointer, "missing_tensor", detail);
        }
        None
    }

    /// A task that takes one input as it is, in the dtype of the output.
    fn copied(&mut self, draft: &Draft, inputs: Vec<TaskInput>, shape: Vec<u64>) -> Option<TensorTask> {
        let parameters = TaskParameters {
            draws: methods::DrawSource::Philox { seed: self.seed, tensor: draft.name.clone() },
            shape,
            depth: draft.depth,
            inputs: 1,
            base: None,
            shared: Arc::default(),
            each: vec![Arc::default()],
        };
        let (dtype, work) = self.work(draft, &inputs, methods::copy())?;
        Some(TensorTask { name: draft.name.clone(), dtype, inputs, parameters, work, shard: 0, start: 0 })
    }

    /// The inputs with one shape: their own where all have it, or the rows that all have, where the recipe says so.
    fn of_one_shape(&mut self, draft: &Draft) -> Option<(Vec<TaskInput>, Vec<u64>)> {
        let first = &draft.inputs[0].place.info.shape;
        if draft.inputs.iter().all(|i| i.place.info.shape == *first) {
            return Some((draft.inputs.clone(), first.clone()));
        }
        let rows_only = layers::is_vocabulary(&draft.name)
            && !first.is_empty()
            && draft.inputs.iter().all(|i| i.place.info.shape.get(1..) == Some(&first[1..]));
        if rows_only && self.recipe.options.unsafe_truncate_embeddings && self.recipe.tokenizer.is_none() {
            return Some(self.truncated(draft));
        }
        let shapes: Vec<String> = draft
            .inputs
            .iter()
            .map(|i| format!("{:?} in {:?}", i.place.info.shape, self.sources.list[i.source].model.to_string()))
            .collect();
        let advice = if rows_only {
            "; the vocabularies differ: add `tokenizer: {source: base}` (or `union`) to align their rows"
        } else {
            "; only tensors of one shape can be merged"
        };
        let pointer = self.slices[draft.slice].pointer.clone();
        self.error(
            &pointer,
            "shape_mismatch",
            format!("tensor {:?} has the shapes {}{advice}", draft.name, shapes.join(", ")),
        );
        None
    }

    /// A vocabulary tensor cut to the fewest rows that a model has.
    fn truncated(&mut self, draft: &Draft) -> (Vec<TaskInput>, Vec<u64>) {
        let rows = draft.inputs.iter().map(|i| i.place.info.shape[0]).min().unwrap_or(0);
        let mut inputs = draft.inputs.clone();
        for input in &mut inputs {
            let info = &mut input.place.info;
            info.bytes = info.bytes / info.shape[0].max(1) * rows;
            info.shape[0] = rows;
        }
        let pointer = self.slices[draft.slice].pointer.clone();
        let detail = format!(
            "tensor {:?} is cut to its first {rows} rows, whatever tokens they belong to; a `tokenizer` section would align them",
            draft.name
        );
        self.warn(&pointer, "truncated", detail);
        let shape = inputs[0].place.info.shape.clone();
        (inputs, shape)
    }

    fn work(&mut self, draft: &Draft, inputs: &[TaskInput], merge: Box<dyn Merge>) -> Option<(Dtype, Work)> {
        let dtypes: Vec<Dtype> = inputs.iter().map(|i| i.place.info.dtype).collect();
        if dtypes.iter().all(|d| !is_floating(*d)) {
            if dtypes.iter().any(|d| *d != dtypes[0]) {
                self.dtype_error(draft, format!("has the dtypes {dtypes:?}; buffers must be the same in every model"));
                return None;
            }
            return Some((dtypes[0], Work::CopyEqual));
        }
        let wanted = self.recipe.out_dtype.or(self.recipe.dtype).map(dtype_of);
        if let Some(input) = merge.copies()
            && wanted.is_none_or(|dtype| dtype == dtypes[input])
            && inputs[input].rows.is_none()
            && !self.sources.list[inputs[input].source].adapts(&inputs[input].place)
        {
            return Some((dtypes[input], Work::Copy(input)));
        }
        if let Some(unsupported) = dtypes.iter().find(|d| !is_mergeable(**d)) {
            self.dtype_error(draft, format!("has unsupported dtype {unsupported:?}; merging reads BF16, F16 and F32"));
            return None;
        }
        Some((wanted.unwrap_or_else(|| promote(&dtypes)), Work::Merge(merge)))
    }

    fn dtype_error(&mut self, draft: &Draft, what: String) {
        let pointer = self.slices[draft.slice].pointer.clone();
        self.error(&pointer, "unsupported_dtype", format!("tensor {:?} {what}", draft.name));
    }
}
