//! The recipe as types that cannot be wrong in form.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::problem::{Positions, Problem, Refusal, escape};
use crate::{ModelRef, Parameters};

/// What to merge, as the user wrote it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    pub merge_method: String,
    #[serde(flatten)]
    pub content: Content,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<ModelRef>,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
    /// Dtype of the output, unless `out_dtype` says otherwise; arithmetic is f32 whatever it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<FloatDtype>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_dtype: Option<FloatDtype>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerRecipe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub options: Options,
    /// Unknown names are warnings, not errors.
    pub lenient: bool,
    /// Where each value stood in the text.
    #[serde(skip)]
    pub positions: Positions,
    /// What parsing had to say that is no error.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
}

impl Recipe {
    /// Parses YAML (or JSON text). `lenient` adds to what the recipe itself says.
    pub fn parse(text: &str, lenient: bool) -> Result<Recipe, Refusal> {
        let node = crate::node::Node::from_yaml(text)?;
        crate::decode::decode(&node, lenient)
    }

    /// The same from a JSON object; findings then have pointers but no lines.
    pub fn from_json(value: &serde_json::Value, lenient: bool) -> Result<Recipe, Refusal> {
        crate::decode::decode(&crate::node::Node::from_json(value), lenient)
    }

    /// Every model the recipe names, each once, with the pointer of its first mention: sources in the order of the text,
    /// then the base, then those of the tokenizer.
    pub fn models(&self) -> Vec<(String, &ModelRef)> {
        let mut models: Vec<(String, &ModelRef)> = Vec::new();
        match &self.content {
            Content::Models(list) => models.extend(models_of(list, "")),
            Content::Slices(slices) => models.extend(models_of_slices(slices, "")),
            Content::Modules(modules) => {
                for (name, module) in modules {
                    let pointer = format!("/modules/{}", escape(name));
                    match &module.content {
                        ModuleContent::Models(list) => models.extend(models_of(list, &pointer)),
                        ModuleContent::Slices(slices) => models.extend(models_of_slices(slices, &pointer)),
                    }
                }
            }
        }
        models.extend(self.base_model.iter().map(|m| ("/base_model".to_owned(), m)));
        models.extend(self.tokenizer_models());
        let mut seen = HashSet::new();
        models.retain(|(_, model)| seen.insert(*model));
        models
    }

    /// Where the recipe says which vocabulary the output has.
    pub fn tokenizer_pointer(&self) -> &'static str {
        let short = "/tokenizer_source";
        if self.positions.contains(short) { short } else { "/tokenizer" }
    }

    fn tokenizer_models(&self) -> Vec<(String, &ModelRef)> {
        let Some(tokenizer) = &self.tokenizer else { return Vec::new() };
        let mut models = Vec::new();
        if let TokenizerSource::Model(model) = &tokenizer.source {
            let pointer = match self.tokenizer_pointer() {
                "/tokenizer" => "/tokenizer/source",
                short => short,
            };
            models.push((pointer.to_owned(), model));
        }
        for (name, token) in &tokenizer.tokens {
            if let Some(TokenSource::Model(model) | TokenSource::ModelToken { model, .. }) = &token.source {
                models.push((format!("/tokenizer/tokens/{}/source", escape(name)), model));
            }
        }
        models
    }
}

fn models_of<'a>(list: &'a [InputModel], above: &str) -> Vec<(String, &'a ModelRef)> {
    list.iter().enumerate().map(|(i, m)| (format!("{above}/models/{i}/model"), &m.model)).collect()
}

fn models_of_slices<'a>(slices: &'a [OutputSlice], above: &str) -> Vec<(String, &'a ModelRef)> {
    let mut models = Vec::new();
    for (i, slice) in slices.iter().enumerate() {
        let pointer = |j: usize| format!("{above}/slices/{i}/sources/{j}/model");
        models.extend(slice.sources.iter().enumerate().map(|(j, s)| (pointer(j), &s.model)));
        models.extend(slice.base_model.iter().map(|m| (format!("{above}/slices/{i}/base_model"), m)));
    }
    models
}

/// Whole models, slices of their layers, or either for each module of models that have several.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Models(Vec<InputModel>),
    Slices(Vec<OutputSlice>),
    /// By name, in the order of the text.
    #[serde(serialize_with = "crate::write::as_map")]
    Modules(Vec<(String, ModuleRecipe)>),
}

/// What becomes of one module, such as the text decoder of a vision-language model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleRecipe {
    #[serde(flatten)]
    pub content: ModuleContent,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleContent {
    Models(Vec<InputModel>),
    Slices(Vec<OutputSlice>),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputModel {
    pub model: ModelRef,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputSlice {
    pub sources: Vec<InputSlice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<ModelRef>,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputSlice {
    pub model: ModelRef,
    pub layer_range: LayerRange,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    pub parameters: Parameters,
}

/// Layers `start..end`; empty ranges are legal and useful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerRange {
    pub start: u32,
    pub end: u32,
}

impl LayerRange {
    pub fn len(self) -> u32 {
        self.end - self.start
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatDtype {
    Float32,
    Float16,
    Bfloat16,
}

/// What mergekit's command line would say, where it still means something. What is as by default is not recorded, so that
/// an option added here changes no digest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Options {
    /// Merge models of different `architectures` if their tensors agree.
    pub allow_crimes: bool,
    /// Write values that are not finite though their inputs are, instead of failing.
    pub allow_non_finite: bool,
    /// Merge a tensor that only some models have from those, as the method does it, instead of refusing it.
    pub allow_missing_tensors: bool,
    /// Bytes of one output shard; the operator's default without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_shard_size: Option<u64>,
    /// Recorded in the manifest; methods without randomness do not use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_seed: Option<u64>,
    /// Carry the tokenizer of the base or first model along; a merged one is written in any case.
    #[serde(skip_serializing_if = "bool::clone")]
    pub copy_tokenizer: bool,
    #[serde(skip_serializing_if = "bool::clone")]
    pub write_model_card: bool,
    /// Cut vocabularies of different sizes to the smallest, where no tokenizer is merged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unsafe_truncate_embeddings: bool,
    #[serde(skip_serializing_if = "UnknownTensors::is_error")]
    pub unknown_tensors: UnknownTensors,
    /// `false` keeps back warnings that only teach; all are told without it.
    #[serde(skip_serializing_if = "bool::clone")]
    pub advice: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            allow_crimes: false,
            allow_non_finite: false,
            allow_missing_tensors: false,
            out_shard_size: None,
            random_seed: None,
            copy_tokenizer: true,
            write_model_card: true,
            unsafe_truncate_embeddings: false,
            unknown_tensors: UnknownTensors::Error,
            advice: true,
        }
    }
}

/// What becomes of tensors that some of the models lack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownTensors {
    #[default]
    Error,
    /// They are copied from the base, or the first model that has them.
    Copy,
}

impl UnknownTensors {
    fn is_error(&self) -> bool {
        *self == UnknownTensors::Error
    }
}

/// Which vocabulary the output has, and whose rows its tokens take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenizerRecipe {
    pub source: TokenizerSource,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "crate::write::as_map")]
    pub tokens: Vec<(String, TokenRecipe)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_to_multiple_of: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerSource {
    Union,
    Base,
    Model(ModelRef),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenRecipe {
    pub source: Option<TokenSource>,
    /// The source's row replaces the token's row in every model.
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TokenSource {
    Model(ModelRef),
    ModelToken { model: ModelRef, token: Option<String>, token_id: Option<u32> },
    Zero,
}
