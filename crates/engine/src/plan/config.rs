//! The `config.json` of the output.

use std::collections::BTreeMap;

use checkpoint::Dtype;
use serde_json::{Value, json};

use super::{Planner, TensorTask, drafts};
use crate::layers;

impl Planner<'_> {
    /// Who gives config and generation files: the base, else the first model.
    pub(super) fn donor(&self) -> usize {
        self.recipe.base_model.as_ref().map_or(0, |base| self.sources.index_of(base))
    }

    /// The donor's config with the depth, dtype and tied flag of what will be written.
    pub(super) fn config(&self, donor: usize, tasks: &[TensorTask]) -> Value {
        let mut config = self.sources.list[donor].checkpoint.config.clone();
        if self.slices.iter().any(|s| s.sources[0].range.is_some()) {
            layers::set_layers(&mut config, &self.layers_taken());
        }
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
        self.set_tied(&mut config, tasks);
        config
    }

    /// For each output layer, the config it comes from and its index there; the first source of a slice speaks for it.
    fn layers_taken(&self) -> Vec<(&Value, u32)> {
        let first = self.slices.iter().filter_map(|slice| Some((&slice.sources[0], slice.sources[0].range?)));
        first
            .flat_map(|(source, range)| {
                let config = &self.sources.list[self.sources.index_of(source.model)].checkpoint.config;
                (range.start..range.end).map(move |layer| (config, layer))
            })
            .collect()
    }

    /// Loaders ignore a head that is written where the config says it is tied, and miss one that is not.
    fn set_tied(&self, config: &mut Value, tasks: &[TensorTask]) {
        let has_head = tasks.iter().any(|t| drafts::HEADS.contains(&t.name.as_str()));
        let tied = |config: &Value| config.get("tie_word_embeddings") == Some(&Value::Bool(true));
        if has_head && tied(config) {
            config["tie_word_embeddings"] = json!(false);
        } else if !has_head
            && config.get("tie_word_embeddings").is_some()
            && self.sources.iter().any(|s| tied(&s.checkpoint.config))
        {
            config["tie_word_embeddings"] = json!(true);
        }
    }
}

fn torch_name(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F32 => Some("float32"),
        Dtype::F16 => Some("float16"),
        Dtype::BF16 => Some("bfloat16"),
        _ => None,
    }
}
