//! The `config.json` of the output.

use std::collections::BTreeMap;
use std::ops::Bound;

use checkpoint::Dtype;
use serde_json::{Value, json};

use super::{Planner, TensorTask};
use crate::architecture::depth::{Kind, Taken, Unfit, set_depth};
use crate::architecture::{Module, is_derived_buffer};
use crate::layers;
use crate::slices::Slice;

impl Planner<'_> {
    /// Who gives config and generation files: the base, else the first model.
    pub(super) fn donor(&self) -> usize {
        self.recipe.base_model.as_ref().map_or(0, |base| self.sources.index_of(base))
    }

    /// The donor's config with the depth, dtype, vocabulary size and tied flag of what will be written.
    pub(super) fn config(&mut self, donor: usize, tasks: &[TensorTask]) -> Value {
        let mut config = self.sources.list[donor].checkpoint.config.clone();
        self.set_depths(&mut config, donor);
        let mut elements: BTreeMap<&str, u64> = BTreeMap::new();
        for task in tasks {
            if let Some(name) = torch_name(task.dtype) {
                *elements.entry(name).or_default() += task.parameters.elements();
            }
        }
        if let Some((name, _)) = elements.into_iter().max_by_key(|(_, n)| *n) {
            let keys: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|k| config.get(k).is_some()).collect();
            for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
                config[key] = json!(name);
            }
        }
        self.set_vocabulary_size(&mut config, tasks);
        self.set_tied(&mut config, tasks);
        config
    }

    fn set_depths(&mut self, config: &mut Value, donor: usize) {
        let (sources, slices) = (self.sources, self.slices);
        for of_module in slices.chunk_by(|a, b| a.module == b.module).filter(|s| !s[0].is_whole()) {
            let Some(module) = sources.list[donor].architecture.module_of_slice(of_module[0].module) else { continue };
            let taken: Option<Vec<Taken<'_>>> = layers_taken(of_module, sources).into_iter().collect();
            let of_donor = |layer| kind_of(&sources.list[donor], module, layer);
            for unfit in taken.map_or(Vec::new(), |taken| set_depth(config, module, &taken, &of_donor)) {
                let pointer = of_module[0].pointer.rsplit_once('/').map_or("", |(list, _)| list);
                match unfit {
                    Unfit::Broken(detail) => self.error(pointer, "layers_do_not_fit", detail),
                    Unfit::Doubtful(detail) => self.warn(pointer, "layers_do_not_fit", detail),
                }
            }
        }
    }

    /// Where vocabularies were cut, the config says to how many rows; where none is merged, what does not fit is told.
    fn set_vocabulary_size(&mut self, config: &mut Value, tasks: &[TensorTask]) {
        if self.recipe.tokenizer.is_some() {
            return;
        }
        let is_embedding = |t: &&TensorTask| {
            layers::is_vocabulary(&t.name) && layers::is_before_layers(&t.name) && t.parameters.shape.len() == 2
        };
        let Some(embedding) = tasks.iter().find(is_embedding) else { return };
        let rows = embedding.parameters.shape[0];
        if self.recipe.options.unsafe_truncate_embeddings {
            for key in super::tokens::SIZE_KEYS {
                if let Some(size) = config.pointer_mut(key) {
                    *size = json!(rows);
                }
            }
        }
        // some families keep a few rows more than they count
        let sizes: Vec<u64> = super::tokens::SIZE_KEYS.iter().filter_map(|key| config.pointer(key)?.as_u64()).collect();
        if !sizes.is_empty() && sizes.iter().all(|size| *size > rows) {
            let detail = format!(
                "config.json says that the vocabulary has {} tokens, and tensor {:?} has {rows} rows",
                sizes[0], embedding.name
            );
            self.warn("", "vocabulary_size", detail);
        }
    }

    /// Loaders ignore a head that is written where the config says it is tied, and miss one that is not.
    fn set_tied(&self, config: &mut Value, tasks: &[TensorTask]) {
        let has_head = tasks.iter().any(|t| layers::is_head(&t.name));
        let says = |config: &Value, wanted: bool| {
            layers::TIE_FLAGS.iter().any(|flag| config.pointer(flag) == Some(&Value::Bool(wanted)))
        };
        let lacks_head = |s: &crate::Source| !s.checkpoint.tensors.keys().any(|name| layers::is_head(name));
        let was_tied = self.sources.iter().any(|s| says(&s.checkpoint.config, true));
        for flag in layers::TIE_FLAGS {
            if let Some(value) = config.pointer_mut(flag).filter(|_| has_head || was_tied) {
                *value = json!(!has_head);
            }
        }
        // without a flag most loaders tie; a head that not every model had is its own now
        if has_head && !says(config, false) && self.sources.iter().any(lacks_head) {
            config["tie_word_embeddings"] = json!(false);
        }
    }
}

/// For each output layer, where it comes from; the first source of a slice speaks for it.
fn layers_taken<'a>(slices: &[Slice<'_>], sources: &'a crate::Sources) -> Vec<Option<Taken<'a>>> {
    let first = slices.iter().filter_map(|slice| Some((slice, &slice.sources[0], slice.sources[0].range?)));
    first
        .flat_map(|(slice, source, range)| {
            let source = &sources.list[sources.index_of(source.model)];
            let module = source.architecture.module_of_slice(slice.module);
            (range.start..range.end).map(move |index| {
                let module = module?;
                let config = source.checkpoint.config.pointer(module.config.as_deref()?)?;
                Some(Taken { config, index, kind: kind_of(source, module, index)? })
            })
        })
        .collect()
}

fn kind_of<'a>(source: &'a crate::Source, module: &Module, index: u32) -> Option<Kind<'a>> {
    let prefix = layers::join(&module.stack.as_ref()?.prefix, index, "");
    let of_layer = source.checkpoint.tensors.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
    let in_layer = of_layer.map_while(|(name, place)| Some((name.strip_prefix(&prefix)?, &place.info)));
    let kept = in_layer.filter(|(name, info)| !is_derived_buffer(name, info));
    Some(Kind::new(kept.map(|(name, info)| (name, info.shape.as_slice())).collect()))
}

fn torch_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F32 => Some("float32"),
        Dtype::F16 => Some("float16"),
        Dtype::BF16 => Some("bfloat16"),
        _ => None,
    }
}
