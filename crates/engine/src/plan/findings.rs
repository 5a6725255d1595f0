//! What stands in a merge's way, collected; and what is found of the whole recipe, not of one tensor.

use std::collections::BTreeMap;

use checkpoint::{ShardLayout, layout_shards};
use recipe::{Parameters, Problem, Refusal};

use crate::lora::Applied;

use super::{Planner, Settings, TensorTask};
use crate::slices::Slice;

/// Findings of one kind at one place that are told one by one; of the rest their number is told.
const ALIKE_TOLD_MAX: usize = 3;

impl Planner<'_> {
    pub(super) fn error(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        let problem = self.recipe.positions.problem(pointer, code, detail);
        self.found(problem);
    }

    pub(super) fn warn(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        let warning = self.recipe.positions.problem(pointer, code, detail);
        let alike = self.alike_warnings.entry((warning.pointer.clone(), warning.code.clone())).or_default();
        *alike += 1;
        if *alike <= ALIKE_TOLD_MAX {
            self.warnings.push(warning);
        }
    }

    /// Of warnings of one kind at one place the first are told, and of the rest their number.
    pub(super) fn tell_alike_warnings(&mut self) {
        for ((pointer, code), count) in std::mem::take(&mut self.alike_warnings) {
            if count > ALIKE_TOLD_MAX {
                let detail = format!("and {} more like it", count - ALIKE_TOLD_MAX);
                self.warnings.push(self.recipe.positions.problem(&pointer, &code, detail));
            }
        }
    }

    pub(super) fn found(&mut self, problem: Problem) {
        let alike = self.alike.entry((problem.pointer.clone(), problem.code.clone())).or_default();
        *alike += 1;
        if *alike <= ALIKE_TOLD_MAX {
            self.problems.push(problem);
        }
    }

    pub(super) fn refuse_if_any(&mut self) -> Result<(), Refusal> {
        if self.problems.is_empty() {
            return Ok(());
        }
        for ((pointer, code), count) in std::mem::take(&mut self.alike) {
            if count > ALIKE_TOLD_MAX {
                let detail = format!("and {} more like it", count - ALIKE_TOLD_MAX);
                self.problems.push(self.recipe.positions.problem(&pointer, &code, detail));
            }
        }
        self.problems.truncate(recipe::limits::PROBLEMS_MAX);
        Err(Refusal { problems: std::mem::take(&mut self.problems), warnings: std::mem::take(&mut self.warnings) })
    }

    pub(super) fn architectures(&mut self) {
        if self.recipe.options.allow_crimes {
            return;
        }
        let first = &self.sources.list[0];
        let expected = &first.architecture.class;
        for source in &self.sources.list[1..] {
            let found = &source.architecture.class;
            if found != expected {
                let unnamed = [first, source].into_iter().find(|s| s.checkpoint.config.get("architectures").is_none());
                if let Some(unnamed) = unnamed.filter(|s| s.model.override_architecture.is_none()) {
                    let detail = format!(
                        "config.json of model {:?} has no `architectures`, so nothing says that it is a {}; add it there, or give the model as `{{model: {{path: ...}}, override_architecture: CLASS}}`",
                        unnamed.model.to_string(),
                        if std::ptr::eq(unnamed, source) { expected } else { found }
                    );
                    self.error("", "architecture_mismatch", detail);
                    continue;
                }
                let detail = format!(
                    "{:?} is a {found} and {:?} a {expected}; merge models of one architecture, or set `options: {{allow_crimes: true}}` if their tensors really mean the same",
                    source.model.to_string(),
                    first.model.to_string()
                );
                self.error("", "architecture_mismatch", detail);
            }
        }
    }

    /// An adapter fits any model of the same shapes; whether it is the one it was trained on is for the user to say.
    pub(super) fn adapters(&mut self) {
        for source in &self.sources.list {
            if let Some(other) = source.other_base() {
                let model = source.model.to_string();
                let detail = format!(
                    "the adapter of {model:?} says that it was trained on {other:?}; make sure that this is the same model"
                );
                let pointer = self.pointer_of(&source.model);
                self.warnings.push(self.recipe.positions.problem(&pointer, "other_base", detail));
            }
        }
    }

    pub(super) fn pointer_of(&self, model: &recipe::ModelRef) -> String {
        let found = self.recipe.models().into_iter().find(|(_, other)| *other == model);
        found.map_or(String::new(), |(pointer, _)| pointer)
    }

    /// Bytes of adapters' factors that are held at once; they are not divided as buffers are, so they must fit.
    pub(super) fn factor_bytes(&self, settings: &Settings) -> u64 {
        let applied = self.sources.iter().filter_map(|source| source.applied.as_ref());
        applied.map(|applied| Applied::factor_bytes(applied, settings.thread_count())).sum()
    }

    pub(super) fn factors_fit(&mut self, settings: &Settings) {
        let bytes = self.factor_bytes(settings);
        if bytes > settings.held_memory {
            let detail = format!(
                "the factors of the adapters take {bytes} bytes at once and the merge may use {}; raise --memory or lower --threads",
                settings.held_memory
            );
            self.error("", "too_large", detail);
        }
    }

    /// Where the tensors will stand. Shards are open while they are written, and a model in thousands of files helps nobody.
    pub(super) fn shards(&mut self, tasks: &[TensorTask], settings: &Settings) -> Vec<ShardLayout> {
        const SHARDS_MAX: usize = 4_000;
        let of_recipe = self.recipe.options.out_shard_size.filter(|n| *n > 0);
        let shard_bytes = of_recipe.unwrap_or(settings.shard_bytes);
        let outputs = tasks.iter().map(|t| (t.name.clone(), t.dtype, t.parameters.shape.clone())).collect();
        let shards = layout_shards(outputs, shard_bytes);
        if shards.len() > SHARDS_MAX {
            let detail = format!(
                "shards of {shard_bytes} bytes would be {}, more than {SHARDS_MAX}; choose larger ones",
                shards.len()
            );
            let pointer = if of_recipe.is_some() { "/options/out_shard_size" } else { "" };
            self.error(pointer, "invalid_value", detail);
        }
        shards
    }

    /// A filter that no tensor matches is most likely a typo.
    pub(super) fn filters(&mut self, tasks: &[TensorTask]) {
        let slices = self.slices;
        let of_slices = slices.iter().flat_map(Slice::all_levels);
        let levels: BTreeMap<&str, &Parameters> = of_slices.chain([("", &self.recipe.parameters)]).collect();
        for (pointer, parameters) in levels {
            for (name, setting) in parameters {
                for filter in setting.filters().filter(|f| *f != "*") {
                    let matches =
                        |t: &TensorTask| t.name.contains(filter) || t.inputs.iter().any(|i| i.name.contains(filter));
                    if !tasks.iter().any(matches) {
                        let detail = format!("filter {filter:?} matches no tensor; a filter is a part of tensor names");
                        let problem =
                            self.recipe.positions.problem(&format!("{pointer}/parameters/{name}"), "no_effect", detail);
                        self.warnings.push(problem);
                    }
                }
            }
        }
    }

    /// What of each source can be told before any tensor is looked for.
    pub(super) fn layers_and_files(&mut self) {
        for source in &self.sources.list {
            let model = source.model.to_string();
            if let Some(reason) = source.architecture.contradiction(&source.checkpoint) {
                self.error("", "invalid_checkpoint", format!("model {model:?}: {reason}"));
            }
            if let Some([first, _, ..]) =
                source.checkpoint.config.get("architectures").and_then(|list| list.as_array()).map(Vec::as_slice)
            {
                let detail = format!("config.json of model {model:?} names several `architectures`; {first} counts");
                self.warn("", "no_effect", detail);
            }
            if source.checkpoint.dir.join("additional_chat_templates").is_dir() {
                let detail = format!("model {model:?} has a folder of more chat templates, which is not carried");
                self.warn("", "left_out", detail);
            }
            if let Some(reason) = source.architecture.uncounted(&source.checkpoint) {
                self.warn("", "uncounted_layers", format!("model {model:?}: {reason}"));
            }
            for reason in crate::artifact::unreadable(source, &self.sources.access) {
                self.error("", "invalid_checkpoint", format!("model {model:?}: {reason}"));
            }
        }
    }
}
