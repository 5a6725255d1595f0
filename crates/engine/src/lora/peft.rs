//! An adapter's config as PEFT reads it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value, json};

/// What PEFT's wrapper puts before the names of a model's modules.
pub(crate) const WRAPPER: &str = "base_model.model.";

/// An adapter that was made; every scale is 1, because alpha is the rank everywhere.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub base_model: Option<String>,
    pub task_type: Option<String>,
    pub fan_in_fan_out: bool,
    pub has_bias: bool,
    /// Modules with factors, and their ranks.
    pub ranks: BTreeMap<String, u64>,
    /// Modules whose tensors are saved whole.
    pub saved: BTreeSet<String>,
    /// Modules of the model that are neither: a short name must not mean them.
    pub others: BTreeSet<String>,
}

impl Made {
    pub fn config(&self) -> Value {
        let rank = self.ranks.values().copied().max().unwrap_or(1);
        let pattern: Map<String, Value> =
            self.ranks.iter().filter(|(_, r)| **r != rank).map(|(module, r)| (module.clone(), json!(r))).collect();
        let not_targets: BTreeSet<&String> = self.others.iter().chain(&self.saved).collect();
        let not_saved: BTreeSet<&String> = self.others.iter().chain(self.ranks.keys()).collect();
        let saved = short_names(self.saved.iter(), &not_saved);
        json!({
            "alpha_pattern": pattern,
            "base_model_name_or_path": self.base_model,
            // biases beneath factors are the model's own, which PEFT then counts to the adapter
            "bias": if self.has_bias { "lora_only" } else { "none" },
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": rank,
            "lora_bias": false,
            "lora_dropout": 0.0,
            "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
            "peft_type": "LORA",
            "r": rank,
            "rank_pattern": pattern,
            "target_modules": short_names(self.ranks.keys(), &not_targets),
            "task_type": self.task_type,
            "use_dora": false,
            "use_rslora": false,
        })
    }
}

/// The last parts of the modules' names, as users write them; whole names where others, or what holds modules, end alike.
/// PEFT looks for modules to save by any end of a name, not only by whole parts.
fn short_names<'a>(
    modules: impl Iterator<Item = &'a String> + Clone,
    others: &BTreeSet<&'a String>,
) -> BTreeSet<String> {
    let all = || modules.clone().chain(others.iter().copied());
    let holders = all().flat_map(|name| name.match_indices('.').map(|(at, _)| &name[..at]));
    let taken: HashSet<&str> = others.iter().map(|name| name.as_str()).chain(holders).flat_map(ends).collect();
    modules
        .map(|name| last(name))
        .map(|(name, last)| if taken.contains(last) { name } else { last })
        .map(str::to_owned)
        .collect()
}

fn last(name: &str) -> (&str, &str) {
    (name, name.rsplit('.').next().unwrap_or(name))
}

/// Every end of a name's last part.
fn ends(name: &str) -> impl Iterator<Item = &str> {
    let (_, last) = last(name);
    last.char_indices().map(move |(at, _)| &last[at..])
}

/// The kind of task that PEFT knows a model class by.
pub(crate) fn task_type(config: &Value) -> Option<String> {
    let class = config.pointer("/architectures/0")?.as_str()?;
    let tasks = [
        ("ForCausalLM", "CAUSAL_LM"),
        ("LMHeadModel", "CAUSAL_LM"),
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForQuestionAnswering", "QUESTION_ANS"),
        ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    ];
    tasks.iter().find(|(ending, _)| class.ends_with(ending)).map(|(_, task)| (*task).to_owned())
}

/// Modules that PEFT saves whole of itself in models of a task, by how their names end.
pub(crate) fn heads_of_task(class: &str) -> &'static [&'static str] {
    if class.ends_with("ForSequenceClassification") || class.ends_with("ForTokenClassification") {
        &["classifier", "score"]
    } else if class.ends_with("ForQuestionAnswering") {
        &["qa_outputs"]
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_no_other_module() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let modules = names(&["layers.0.q_proj", "layers.1.q_proj", "layers.0.up"]);
        let others = names(&["layers.1.up"]);
        let short = short_names(modules.iter(), &others.iter().collect());
        assert_eq!(short, names(&["layers.0.up", "q_proj"]));
        // `blocks.0` holds a module, and `pre_classifier` ends as `classifier` does
        let modules = names(&["merger.0", "blocks.0.qkv", "classifier"]);
        let others = names(&["pre_classifier"]);
        let short = short_names(modules.iter(), &others.iter().collect());
        assert_eq!(short, names(&["classifier", "merger.0", "qkv"]));
    }

    #[test]
    fn ranks_that_differ_become_patterns() {
        let ranks = BTreeMap::from([("a.q".to_owned(), 4), ("b.q".to_owned(), 2)]);
        let config = Made { ranks, ..Made::default() }.config();
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(4), &json!(4)));
        assert_eq!(config["rank_pattern"], json!({"b.q": 2}));
        assert_eq!(config["alpha_pattern"], json!({"b.q": 2}));
    }
}
