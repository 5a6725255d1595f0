//! What a model's class in transformers makes of its tensors, which is what PEFT sees of them.

use serde_json::Value;

use crate::architecture::FAMILIES;
use crate::layers;
use crate::lora::peft;

/// Ends of class names whose models end in a head over tokens.
const WITH_HEAD: &[&str] =
    &["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining", "MTModel"];

/// Experts are one tensor in classes; PEFT takes layers of these names for parts of it in any model that has experts.
const LIKE_EXPERTS: &[&str] = &["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];

/// Routers of experts are no linear modules to PEFT, and small.
const ROUTERS: &[&str] = &["gate", "router", "wg"];

/// Modules inside layers that look up rows, beside those that say so.
const LOOKUPS: &[&str] = &["relative_attention_bias", "wpe", "wte"];

pub(super) struct ModelClass {
    model_type: String,
    architecture: String,
    has_experts: bool,
    has_head_tensor: bool,
    is_untied: bool,
}

/// What becomes of a module with a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    /// Rows that are looked up, or the head over tokens.
    Outside,
    /// PEFT can only put another in its place.
    Whole,
    /// One of a layer's experts.
    Expert,
    /// The class has no such module.
    Absent,
}

impl ModelClass {
    pub fn of<'a>(config: &Value, mut names: impl Iterator<Item = &'a String> + Clone) -> ModelClass {
        let text = |pointer| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        ModelClass {
            model_type: text("/model_type"),
            architecture: text("/architectures/0"),
            has_experts: names.clone().any(|name| is_expert(name)),
            has_head_tensor: names.any(|name| layers::is_head(name)),
            is_untied: layers::is_untied(config),
        }
    }

    /// The class's name of a module or tensor that a file has as `name`.
    pub fn name(&self, name: &str) -> String {
        let name = FAMILIES.in_class(&self.model_type, name);
        let is_bare = self.architecture.ends_with("Model") && !self.architecture.ends_with("LMHeadModel");
        let spelling = FAMILIES.spellings.iter().find(|s| s.types.contains(&self.model_type));
        let first = name.split('.').next().unwrap_or_default();
        match spelling.filter(|spelling| !is_bare && spelling.bare.iter().any(|bare| bare == first)) {
            Some(spelling) => format!("{}{name}", spelling.prefix),
            None => name,
        }
    }

    pub fn kind(&self, module: &str, experts: bool) -> Kind {
        let last = module.rsplit('.').next().unwrap_or_default();
        let is_like_expert = self.has_experts && !experts && LIKE_EXPERTS.contains(&last);
        if FAMILIES.is_no_module(&self.model_type, module) {
            Kind::Absent
        } else if is_expert(module) {
            Kind::Expert
        } else if ROUTERS.contains(&last)
            || is_like_expert
            || FAMILIES.has_no_factors(&self.model_type, module)
            || self.task_head(module).is_some()
        {
            Kind::Whole
        } else if is_outside(module) {
            Kind::Outside
        } else {
            Kind::Linear
        }
    }

    /// The part of a module's name that PEFT trains as the head of a task, and so saves whole.
    pub fn task_head<'a>(&self, module: &'a str) -> Option<&'a str> {
        let heads = peft::heads_of_task(&self.architecture);
        let ends = module.match_indices('.').map(|(at, _)| at).chain([module.len()]);
        ends.map(|end| &module[..end]).find(|part| heads.iter().any(|head| part.ends_with(head)))
    }

    /// What the class has beside a tensor and with its values: PEFT puts a trained copy in the place of the one alone.
    pub fn ties_of(&self, name: &str) -> Vec<String> {
        let name = self.name(name);
        let has_head = WITH_HEAD.iter().any(|ending| self.architecture.ends_with(ending));
        let is_tied = has_head && !self.has_head_tensor && !self.is_untied;
        let head = FAMILIES.head_of(&self.model_type, &name).filter(|_| is_tied);
        let others = FAMILIES.ties_of(&name).filter(|tie| layers::is_before_layers(tie) || tie.ends_with(".bias"));
        others.chain(head).map(|tie| self.name(tie)).collect()
    }

    pub fn is_turned(&self) -> bool {
        FAMILIES.has_turned_layers(&self.model_type)
    }
}

fn is_expert(name: &str) -> bool {
    name.split('.').any(|part| part == "experts")
}

/// Embeddings and head, which belong to tokens or positions.
fn is_outside(module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or_default();
    if layers::split(module).is_some() {
        return LOOKUPS.contains(&last) || last.contains("embed");
    }
    let weight = format!("{module}.weight");
    layers::is_before_layers(&weight) || layers::is_vocabulary(&weight)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(model_type: &str, architecture: &str, names: &[&str]) -> ModelClass {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        ModelClass::of(&json!({"model_type": model_type, "architectures": [architecture]}), names.iter())
    }

    #[test]
    fn modules_are_what_their_class_makes_of_them() {
        let dense = class("llama", "LlamaForCausalLM", &["model.layers.0.mlp.up_proj.weight"]);
        let moe = class("olmoe", "OlmoeForCausalLM", &["model.layers.0.mlp.experts.0.up_proj.weight"]);
        let mamba = class("mamba", "MambaForCausalLM", &[]);
        let sequences = class("distilbert", "DistilBertForSequenceClassification", &[]);
        let joined = class("olmo_hybrid", "OlmoHybridForCausalLM", &[]);
        for (class, module, kind) in [
            (&dense, "model.layers.0.mlp.up_proj", Kind::Linear),
            (&moe, "model.layers.0.mlp.up_proj", Kind::Whole),
            (&moe, "model.layers.0.mlp.experts.1.up_proj", Kind::Expert),
            (&moe, "model.layers.0.mlp.gate", Kind::Whole),
            (&moe, "model.layers.0.self_attn.q_proj", Kind::Linear),
            (&dense, "model.embed_tokens", Kind::Outside),
            (&dense, "lm_head", Kind::Outside),
            (&dense, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", Kind::Outside),
            (&mamba, "backbone.layers.0.mixer.out_proj", Kind::Whole),
            (&mamba, "backbone.layers.0.mixer.in_proj", Kind::Linear),
            (&sequences, "pre_classifier", Kind::Whole),
            (&joined, "model.layers.0.linear_attn.q_conv1d", Kind::Absent),
        ] {
            assert_eq!(class.kind(module, false), kind, "{module}");
        }
        assert_eq!(moe.kind("model.layers.0.mlp.up_proj", true), Kind::Linear);
    }

    #[test]
    fn a_task_head_is_the_shortest_name_that_ends_as_peft_looks_for_it() {
        let class = class("roberta", "RobertaForSequenceClassification", &[]);
        assert_eq!(class.task_head("classifier.out_proj"), Some("classifier"));
        assert_eq!(class.task_head("roberta.encoder.layer.0.output.dense"), None);
    }

    #[test]
    fn ties_are_those_that_the_class_has() {
        let ties = |class: &ModelClass, name| class.ties_of(name);
        let shared = class("t5", "T5ForConditionalGeneration", &["shared.weight"]);
        assert_eq!(
            ties(&shared, "shared.weight"),
            ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
        );
        let own_head = class("t5", "T5ForConditionalGeneration", &["shared.weight", "lm_head.weight"]);
        assert_eq!(ties(&own_head, "shared.weight").len(), 2);
        let no_head = class("llama", "LlamaModel", &["embed_tokens.weight"]);
        assert!(ties(&no_head, "model.embed_tokens.weight").is_empty());
        let bert = class("bert", "BertForMaskedLM", &[]);
        assert_eq!(ties(&bert, "bert.embeddings.word_embeddings.weight"), ["cls.predictions.decoder.weight"]);
    }
}
