//! `adapter_config.json`: what of it has a meaning when an adapter is merged, and what stands in the way.

use serde_json::{Map, Value};

use crate::AdapterError;
use crate::pattern::Pattern;

/// What the config says of the adapter's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub rank: u64,
    pub alpha: f64,
    pub scaling: Scaling,
    /// Weights of some modules lie as [in, out], as in GPT-2.
    pub fan_in_fan_out: bool,
    /// Rows are brought to lengths of their own.
    pub dora: bool,
    /// The model that the adapter was trained on, as its author named it.
    pub base_model: Option<String>,
    pub task_type: Option<String>,
    pub(crate) rank_pattern: Pattern,
    pub(crate) alpha_pattern: Pattern,
}

/// What the product of the factors is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// alpha / r
    Rank,
    /// alpha / sqrt(r), "rslora"
    RankRoot,
}

/// Keys that say how the adapter was trained or made, not what it is.
const OF_TRAINING: &[&str] = &[
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
];

/// What is computed another way than W + s B A.
const OTHER_FORMS: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "an adapter that switches on at a token cannot be merged into weights"),
    ("arrow_config", "adapters that are routed at run time cannot be merged into weights"),
    ("layer_replication", "the model has its layers repeated; repeat them with `slices` first"),
    ("megatron_config", "adapters of Megatron's parallel layers are not supported"),
    ("target_parameters", "adapters of parameters instead of modules are not supported"),
    ("trainable_token_indices", "adapters with single trained tokens are not supported"),
    ("use_bdlora", "block-diagonal adapters are not supported"),
    ("use_qalora", "adapters of quantised groups are not supported"),
];

impl Config {
    pub fn parse(value: &Value) -> Result<Config, AdapterError> {
        let map = value.as_object().ok_or_else(|| AdapterError::Config("is no JSON object".to_owned()))?;
        peft_type(map)?;
        other_forms(map)?;
        initialisation(map)?;
        unknown(map)?;
        let pattern = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(Pattern::default()),
            Some(Value::Object(pairs)) => Pattern::parse(key, pairs),
            Some(other) => Err(AdapterError::Config(format!("`{key}` is {other}, and should be an object"))),
        };
        Ok(Config {
            rank: rank(map)?,
            alpha: alpha(map)?,
            scaling: if flag(map, "use_rslora")? { Scaling::RankRoot } else { Scaling::Rank },
            fan_in_fan_out: flag(map, "fan_in_fan_out")?,
            dora: flag(map, "use_dora")?,
            base_model: text(map, "base_model_name_or_path"),
            task_type: text(map, "task_type"),
            rank_pattern: pattern("rank_pattern")?,
            alpha_pattern: pattern("alpha_pattern")?,
        })
    }

    /// The rank that the config gives a module.
    pub fn rank_of(&self, module: &str) -> f64 {
        self.rank_pattern.of(module).unwrap_or(self.rank as f64)
    }

    /// What the product of a module's factors is multiplied with.
    pub fn scale_of(&self, module: &str, rank: u64) -> f64 {
        let alpha = self.alpha_pattern.of(module).unwrap_or(self.alpha);
        match self.scaling {
            Scaling::Rank => alpha / rank as f64,
            Scaling::RankRoot => alpha / (rank as f64).sqrt(),
        }
    }
}

fn peft_type(map: &Map<String, Value>) -> Result<(), AdapterError> {
    match map.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => Ok(()),
        Some(other) => {
            Err(AdapterError::Unsupported(format!("is an adapter of the kind {other:?}; only \"LORA\" is supported")))
        }
        None => Err(AdapterError::Config("has no `peft_type`".to_owned())),
    }
}

fn other_forms(map: &Map<String, Value>) -> Result<(), AdapterError> {
    let found = OTHER_FORMS.iter().find(|(key, _)| map.get(*key).is_some_and(is_set));
    found.map_or(Ok(()), |(key, why)| Err(AdapterError::Unsupported(format!("sets `{key}`: {why}"))))
}

/// Some ways of initialising change the model's own weights, so that the adapter fits no model that one has.
fn initialisation(map: &Map<String, Value>) -> Result<(), AdapterError> {
    const HARMLESS: &[&str] = &["gaussian", "eva", "orthogonal"];
    match map.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(way)) if HARMLESS.contains(&way.as_str()) => Ok(()),
        Some(way) => Err(AdapterError::Unsupported(format!(
            "says `init_lora_weights: {way}`, which changes the weights of the model beneath; save the adapter with `path_initial_model_for_weight_conversion`, which makes it an ordinary one"
        ))),
    }
}

fn unknown(map: &Map<String, Value>) -> Result<(), AdapterError> {
    const READ: &[&str] = &[
        "alpha_pattern",
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "task_type",
        "use_dora",
        "use_rslora",
    ];
    let known = |key: &str| {
        READ.contains(&key) || OF_TRAINING.contains(&key) || OTHER_FORMS.iter().any(|(other, _)| *other == key)
    };
    match map.iter().find(|(key, value)| !known(key) && is_set(value)) {
        Some((key, value)) => Err(AdapterError::Unsupported(format!(
            "sets `{key}` to {value}, which is not understood; remove it if it means nothing for merging"
        ))),
        None => Ok(()),
    }
}

/// Whether a value asks for something.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

fn rank(map: &Map<String, Value>) -> Result<u64, AdapterError> {
    let rank = map.get("r").and_then(Value::as_u64).filter(|r| (1..=crate::limits::RANK_MAX).contains(r));
    rank.ok_or_else(|| {
        let found = map.get("r").map_or("nothing".to_owned(), Value::to_string);
        AdapterError::Config(format!("`r` is a rank from 1 to {}, found {found}", crate::limits::RANK_MAX))
    })
}

fn alpha(map: &Map<String, Value>) -> Result<f64, AdapterError> {
    let alpha = map.get("lora_alpha").and_then(Value::as_f64).filter(|a| a.is_finite());
    alpha.ok_or_else(|| AdapterError::Config("`lora_alpha` is no number".to_owned()))
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, AdapterError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(AdapterError::Config(format!("`{key}` is true or false, found {other}"))),
    }
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(more: Value) -> Result<Config, String> {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "bias": "none"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Config::parse(&config).map_err(|e| e.to_string())
    }

    #[test]
    fn scales_follow_rank_alpha_and_their_patterns() {
        let plain = parse(json!({})).unwrap();
        assert_eq!(plain.scale_of("m.q", 4), 2.0);
        let patterns = parse(json!({"rank_pattern": {"q": 2}, "alpha_pattern": {"m.q": 3}})).unwrap();
        assert_eq!((patterns.rank_of("m.q"), patterns.scale_of("m.q", 2)), (2.0, 1.5));
        assert_eq!((patterns.rank_of("m.v"), patterns.scale_of("m.v", 4)), (4.0, 2.0));
        assert_eq!(parse(json!({"use_rslora": true})).unwrap().scale_of("q", 4), 4.0);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (more, expected) in [
            (json!({"peft_type": "LOHA"}), "LOHA"),
            (json!({"layer_replication": [[0, 4]]}), "layer_replication"),
            (json!({"target_parameters": ["experts.w"]}), "target_parameters"),
            (json!({"trainable_token_indices": [1]}), "trainable_token_indices"),
            (json!({"init_lora_weights": "pissa"}), "pissa"),
            (json!({"frobnicate": 1}), "frobnicate"),
            (json!({"r": 0}), "`r`"),
            (json!({"r": 1e9}), "`r`"),
            (json!({"lora_alpha": "8"}), "lora_alpha"),
            (json!({"use_rslora": 1}), "use_rslora"),
            (json!({"rank_pattern": [1]}), "rank_pattern"),
        ] {
            let error = parse(more.clone()).unwrap_err();
            assert!(error.contains(expected), "{more}: {error}");
        }
        let defaults =
            json!({"layer_replication": null, "frobnicate": null, "eva_config": {}, "init_lora_weights": true});
        assert!(parse(defaults).is_ok());
    }
}
