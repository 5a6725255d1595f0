//! From the tree of nodes to a [`Recipe`], collecting every problem on the way.

mod model;
mod moe;
mod options;
mod parameters;
mod tokenizer;
mod unknown;

use crate::node::{Key, Kind, Node};
use crate::problem::{Positions, Problem, Refusal, escape, nearest};
use crate::types::*;
use crate::{Scalar, limits};
pub use unknown::place_of;

pub(crate) const TOP_KEYS: &[&str] = &[
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
    "name",
    // of the stage, not of the recipe: `stages` reads it
    "keep",
    "options",
    "lenient",
    "variants",
    "grid",
];

/// Whole numbers up to here are exact in f64.
const COUNT_MAX: f64 = 9.0e15;

pub(crate) fn decode(node: &Node, lenient: bool) -> Result<Recipe, Refusal> {
    node.within_limits()?;
    let mut decoder = Decoder { lenient, ..Decoder::default() };
    decoder.remember(node, "");
    let recipe = decoder.recipe(node);
    if let Some(many) = recipe.as_ref().map(|recipe| recipe.models().len()).filter(|n| *n > limits::MODELS_MAX) {
        let detail = format!("the recipe names {many} models; at most {} are accepted", limits::MODELS_MAX);
        decoder.error("", "too_many", detail);
    }
    match recipe {
        Some(recipe) if decoder.problems.is_empty() => {
            decoder.warnings.truncate(limits::PROBLEMS_MAX);
            Ok(Recipe { positions: decoder.positions, warnings: decoder.warnings, ..recipe })
        }
        _ => {
            decoder.problems.truncate(limits::PROBLEMS_MAX);
            Err(Refusal { problems: decoder.problems, warnings: decoder.warnings })
        }
    }
}

#[derive(Default)]
struct Decoder {
    lenient: bool,
    positions: Positions,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    conditions: usize,
}

/// A map whose keys were checked; `null` values count as absent.
struct Object<'a> {
    pointer: String,
    entries: &'a [(Key, Node)],
}

impl<'a> Object<'a> {
    fn get(&self, key: &str) -> Option<(&'a Node, String)> {
        let (_, node) = self.entries.iter().find(|(k, node)| k.name == key && node.kind != Kind::Null)?;
        Some((node, format!("{}/{}", self.pointer, escape(key))))
    }
}

impl Decoder {
    fn remember(&mut self, node: &Node, pointer: &str) {
        self.positions.insert(pointer.to_owned(), node.at);
        match &node.kind {
            Kind::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.remember(item, &format!("{pointer}/{i}"));
                }
            }
            Kind::Map(entries) => {
                for (key, value) in entries {
                    self.remember(value, &format!("{pointer}/{}", escape(&key.name)));
                }
            }
            _ => {}
        }
    }

    fn error(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        let problem = self.positions.problem(pointer, code, detail);
        self.problems.push(problem);
    }

    fn warn(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        let problem = self.positions.problem(pointer, code, detail);
        self.warnings.push(problem);
    }

    fn wrong_type(&mut self, pointer: &str, node: &Node, expected: &str) {
        self.error(pointer, "invalid_type", format!("expected {expected}, found {}", node.describe()));
    }

    fn object<'a>(&mut self, node: &'a Node, pointer: &str, known: &[&str], what: &str) -> Option<Object<'a>> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong_type(pointer, node, what);
            return None;
        };
        for (key, value) in entries.iter().filter(|(k, _)| !known.contains(&k.name.as_str())) {
            self.unknown_key(key, value, pointer, known);
        }
        Some(Object { pointer: pointer.to_owned(), entries })
    }

    fn list<'a>(&mut self, node: &'a Node, pointer: &str, max: usize, what: &str) -> Option<&'a [Node]> {
        let Kind::List(items) = &node.kind else {
            self.wrong_type(pointer, node, what);
            return None;
        };
        if items.len() > max {
            self.error(pointer, "too_many", format!("has {} entries; at most {max} are accepted", items.len()));
            return None;
        }
        Some(items)
    }

    fn recipe(&mut self, node: &Node) -> Option<Recipe> {
        if node.kind == Kind::Null {
            self.error("", "missing", "the recipe is empty; write at least `merge_method` and `models`");
            return None;
        }
        self.refuse_variants(node)?;
        self.read_lenient(node);
        if let Some(pointer) = moe::is_moe(node) {
            self.refuse_moe(node, pointer);
            return None;
        }
        let top =
            self.object(node, "", TOP_KEYS, "a recipe: a map with `merge_method` and `models`, `slices` or `modules`")?;
        let merge_method = self.method_name(&top);
        let content = self.content(&top);
        let base_model = self.optional(&top, "base_model", Decoder::model_ref);
        let parameters = self.optional(&top, "parameters", Decoder::parameters).unwrap_or_default();
        let dtype = self.working_dtype(&top);
        let out_dtype = self.optional(&top, "out_dtype", Decoder::dtype);
        let tokenizer = self.tokenizer(&top);
        let chat_template = self.optional(&top, "chat_template", Decoder::text);
        let name = self.optional(&top, "name", Decoder::text);
        let options = self.optional(&top, "options", Decoder::options).unwrap_or_default();
        Some(Recipe {
            merge_method: merge_method?,
            content: content?,
            base_model,
            parameters,
            dtype,
            out_dtype,
            tokenizer,
            chat_template,
            name,
            options,
            lenient: self.lenient,
            positions: Positions::default(),
            warnings: Vec::new(),
        })
    }

    fn optional<T>(
        &mut self,
        object: &Object<'_>,
        key: &str,
        read: fn(&mut Decoder, &Node, &str) -> Option<T>,
    ) -> Option<T> {
        let (node, pointer) = object.get(key)?;
        read(self, node, &pointer)
    }

    /// Whoever takes recipes with variants expands them first.
    fn refuse_variants(&mut self, node: &Node) -> Option<()> {
        let Some(key) = ["variants", "grid"].into_iter().find(|key| node.get(key).is_some()) else { return Some(()) };
        let detail = format!("`{key}` makes several merges of this recipe, and here there is room for one");
        self.error(&format!("/{key}"), "variants", detail);
        None
    }

    fn read_lenient(&mut self, node: &Node) {
        let Kind::Map(entries) = &node.kind else { return };
        let Some((_, value)) = entries.iter().find(|(key, _)| key.name == "lenient") else { return };
        if value.kind == Kind::Null {
            return;
        }
        self.lenient |= self.boolean(value, "/lenient").unwrap_or(false);
    }

    fn method_name(&mut self, top: &Object<'_>) -> Option<String> {
        let Some((node, pointer)) = top.get("merge_method") else {
            self.error("", "missing", "`merge_method` is missing; write for example `merge_method: linear`");
            return None;
        };
        self.text(node, &pointer)
    }

    fn content(&mut self, top: &Object<'_>) -> Option<Content> {
        let filled: Vec<(&str, &Node, String)> = ["models", "slices", "modules"]
            .into_iter()
            .filter_map(|key| top.get(key).filter(|(node, _)| !is_empty(node)).map(|(node, at)| (key, node, at)))
            .collect();
        match filled.as_slice() {
            [] => {
                self.error(
                    &top.pointer,
                    "missing",
                    "write `models` (whole models), `slices` (layers of models) or `modules` (either, for each part of models that have several), with at least one entry",
                );
                None
            }
            [("models", node, pointer)] => self.models(node, pointer).map(Content::Models),
            [("slices", node, pointer)] => self.slices(node, pointer).map(Content::Slices),
            [(_, node, pointer)] => self.modules(node, pointer).map(Content::Modules),
            [(first, ..), (second, _, pointer), ..] => {
                self.error(pointer, "conflict", format!("`{first}` and `{second}` exclude each other; keep one"));
                None
            }
        }
    }

    fn modules(&mut self, node: &Node, pointer: &str) -> Option<Vec<(String, ModuleRecipe)>> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong_type(pointer, node, "a map from the names of modules to their `models` or `slices`");
            return None;
        };
        if entries.len() > limits::MODULES_MAX {
            let detail = format!("has {} modules; at most {} are accepted", entries.len(), limits::MODULES_MAX);
            self.error(pointer, "too_many", detail);
            return None;
        }
        let modules: Vec<_> = entries
            .iter()
            .map(|(key, value)| {
                let at = format!("{pointer}/{}", escape(&key.name));
                Some((key.name.clone(), self.module(value, &at)?))
            })
            .collect();
        modules.into_iter().collect()
    }

    fn module(&mut self, node: &Node, pointer: &str) -> Option<ModuleRecipe> {
        let object =
            self.object(node, pointer, &["models", "slices", "parameters"], "a map with `models` or `slices`")?;
        let parameters = self.optional(&object, "parameters", Decoder::parameters).unwrap_or_default();
        let content = match self.content(&object)? {
            Content::Models(models) => ModuleContent::Models(models),
            Content::Slices(slices) => ModuleContent::Slices(slices),
            Content::Modules(_) => {
                self.error(pointer, "invalid_type", "a module has `models` or `slices`, no modules of its own");
                return None;
            }
        };
        Some(ModuleRecipe { content, parameters })
    }

    fn models(&mut self, node: &Node, pointer: &str) -> Option<Vec<InputModel>> {
        let items = self.list(node, pointer, limits::MODELS_MAX, "a list of models (`- model: PATH`)")?;
        let models: Vec<_> =
            items.iter().enumerate().map(|(i, item)| self.input_model(item, &format!("{pointer}/{i}"))).collect();
        models.into_iter().collect()
    }

    fn input_model(&mut self, node: &Node, pointer: &str) -> Option<InputModel> {
        let object = self.object(node, pointer, &["model", "parameters"], "a map with `model` (`- model: PATH`)")?;
        let model = self.required_model(&object);
        let parameters = self.optional(&object, "parameters", Decoder::parameters).unwrap_or_default();
        Some(InputModel { model: model?, parameters })
    }

    fn slices(&mut self, node: &Node, pointer: &str) -> Option<Vec<OutputSlice>> {
        let items = self.list(node, pointer, limits::SLICES_MAX, "a list of slices (`- sources: [...]`)")?;
        let slices: Vec<_> =
            items.iter().enumerate().map(|(i, item)| self.output_slice(item, &format!("{pointer}/{i}"))).collect();
        slices.into_iter().collect()
    }

    fn output_slice(&mut self, node: &Node, pointer: &str) -> Option<OutputSlice> {
        let known = &["sources", "base_model", "parameters", "residual_weight"];
        let object = self.object(node, pointer, known, "a map with `sources`")?;
        if let Some((_, at)) = object.get("residual_weight") {
            self.warn(&at, "no_effect", "`residual_weight` has no effect, here as in mergekit");
        }
        let base_model = self.optional(&object, "base_model", Decoder::model_ref);
        let parameters = self.optional(&object, "parameters", Decoder::parameters).unwrap_or_default();
        let Some((sources, at)) = object.get("sources") else {
            self.error(
                pointer,
                "missing",
                "`sources` is missing; write `sources: [{model: PATH, layer_range: [0, 4]}]`",
            );
            return None;
        };
        let items = self.list(sources, &at, limits::MODELS_MAX, "a list of sources")?;
        if items.is_empty() {
            self.error(&at, "missing", "a slice needs at least one source");
            return None;
        }
        let sources: Vec<_> =
            items.iter().enumerate().map(|(i, item)| self.input_slice(item, &format!("{at}/{i}"))).collect();
        Some(OutputSlice { sources: sources.into_iter().collect::<Option<_>>()?, base_model, parameters })
    }

    fn input_slice(&mut self, node: &Node, pointer: &str) -> Option<InputSlice> {
        let object = self.object(
            node,
            pointer,
            &["model", "layer_range", "parameters"],
            "a map with `model` and `layer_range`",
        )?;
        let model = self.required_model(&object);
        let parameters = self.optional(&object, "parameters", Decoder::parameters).unwrap_or_default();
        let layer_range = match object.get("layer_range") {
            Some((node, at)) => self.layer_range(node, &at),
            None => {
                self.error(
                    pointer,
                    "missing",
                    "`layer_range` is missing; write `layer_range: [first, end]`, the end not included",
                );
                None
            }
        };
        Some(InputSlice { model: model?, layer_range: layer_range?, parameters })
    }

    fn layer_range(&mut self, node: &Node, pointer: &str) -> Option<LayerRange> {
        let expected = "two whole numbers `[first, end]`, the end not included";
        let Kind::List(items) = &node.kind else {
            self.wrong_type(pointer, node, expected);
            return None;
        };
        let numbers: Option<Vec<f64>> = items.iter().map(whole_number).collect();
        match numbers.as_deref() {
            Some([start, end]) if 0.0 <= *start && start <= end && *end <= f64::from(limits::LAYERS_MAX) => {
                Some(LayerRange { start: *start as u32, end: *end as u32 })
            }
            Some([start, end]) => {
                let detail = format!(
                    "layer_range [{start}, {end}] is no range of layers; write 0 <= first <= end <= {}, the end not included",
                    limits::LAYERS_MAX
                );
                self.error(pointer, "invalid_value", detail);
                None
            }
            _ => {
                self.wrong_type(pointer, node, expected);
                None
            }
        }
    }

    /// The dtype of the output where `out_dtype` says none; where it does, arithmetic in float64 is no more than is done.
    fn working_dtype(&mut self, top: &Object<'_>) -> Option<FloatDtype> {
        let is_double = |node: &Node| matches!(&node.kind, Kind::Text(name) if ["float64", "torch.float64"].contains(&name.as_str()));
        match (top.get("dtype"), top.get("out_dtype")) {
            (Some((node, at)), Some(_)) if is_double(node) => {
                self.warn(
                    &at,
                    "no_effect",
                    "the output is the exact result rounded once to `out_dtype`; `dtype: float64` adds nothing",
                );
                None
            }
            (Some((node, at)), None) if is_double(node) => {
                self.error(
                    &at,
                    "invalid_value",
                    "models are not written in float64; write float32, which holds the exact result rounded once",
                );
                None
            }
            _ => self.optional(top, "dtype", Decoder::dtype),
        }
    }

    fn dtype(&mut self, node: &Node, pointer: &str) -> Option<FloatDtype> {
        let name = self.text(node, pointer)?;
        match name.strip_prefix("torch.").unwrap_or(&name).to_ascii_lowercase().as_str() {
            "float32" | "fp32" | "f32" | "float" => Some(FloatDtype::Float32),
            "float16" | "fp16" | "f16" | "half" => Some(FloatDtype::Float16),
            "bfloat16" | "bf16" => Some(FloatDtype::Bfloat16),
            other => {
                let near = nearest(other, ["float32", "float16", "bfloat16"]);
                let advice =
                    near.map_or("write float32, float16 or bfloat16".to_owned(), |n| format!("did you mean `{n}`?"));
                self.error(pointer, "invalid_value", format!("dtype {name:?} is not supported; {advice}"));
                None
            }
        }
    }

    fn text(&mut self, node: &Node, pointer: &str) -> Option<String> {
        match &node.kind {
            Kind::Text(s) => Some(s.clone()),
            Kind::Number(n) => Some(n.to_string()),
            _ => {
                self.wrong_type(pointer, node, "a text");
                None
            }
        }
    }

    fn boolean(&mut self, node: &Node, pointer: &str) -> Option<bool> {
        let scalar = match &node.kind {
            Kind::Bool(b) => Some(Scalar::Bool(*b)),
            Kind::Text(s) => Some(Scalar::Text(s.clone())),
            _ => None,
        };
        let boolean = scalar.and_then(|s| s.boolean());
        if boolean.is_none() {
            self.wrong_type(pointer, node, "true or false");
        }
        boolean
    }

    /// A whole number from 1 on that counts rows or tokens.
    fn positive(&mut self, node: &Node, pointer: &str) -> Option<u32> {
        let number = self.whole(node, pointer, 1.0..=f64::from(u32::MAX), "a whole number from 1 on")?;
        Some(number as u32)
    }

    fn token_id(&mut self, node: &Node, pointer: &str) -> Option<u32> {
        let number = self.whole(node, pointer, 0.0..=f64::from(u32::MAX), "the id of a token")?;
        Some(number as u32)
    }

    fn count(&mut self, node: &Node, pointer: &str) -> Option<u64> {
        let number = self.whole(node, pointer, 0.0..=COUNT_MAX, "a whole number, not negative")?;
        Some(number as u64)
    }

    fn whole(
        &mut self,
        node: &Node,
        pointer: &str,
        range: std::ops::RangeInclusive<f64>,
        expected: &str,
    ) -> Option<f64> {
        let number = whole_number(node).filter(|n| range.contains(n));
        if number.is_none() {
            self.wrong_type(pointer, node, expected);
        }
        number
    }
}

/// An empty list counts as absent, as it does for mergekit.
fn is_empty(node: &Node) -> bool {
    match &node.kind {
        Kind::List(items) => items.is_empty(),
        Kind::Map(entries) => entries.is_empty(),
        _ => false,
    }
}

fn whole_number(node: &Node) -> Option<f64> {
    match node.kind {
        Kind::Number(n) if n.fract() == 0.0 => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::{ModelRef, Recipe};

    fn recipe_of(model: &str) -> String {
        format!("merge_method: passthrough\nlenient:\nmodels:\n- model: {model}\n")
    }

    fn model_of(model: &str) -> ModelRef {
        Recipe::parse(&recipe_of(model), false).unwrap().models()[0].1.clone()
    }

    #[test]
    fn a_model_may_be_an_object() {
        let pinned = ModelRef { revision: Some("v2".into()), ..ModelRef::local("org/x") };
        assert_eq!(model_of("{path: org/x, revision: v2}"), pinned);
        assert_eq!(model_of("{model: {path: org/x, revision: v2}}"), pinned);
        let adapted = model_of("{model: {path: org/x}, lora: {path: org/y}, override_architecture: Z}");
        assert_eq!(
            (&adapted.lora, adapted.override_architecture.as_deref()),
            (&Some(ModelRef::local("org/y").into()), Some("Z"))
        );
        assert_eq!(model_of("{path: org/x, lora: {path: org/y}, override_architecture: Z}"), adapted);
    }

    #[test]
    fn a_path_that_cannot_be_meant_is_told() {
        let refused = |model: &str| Recipe::parse(&recipe_of(model), false).unwrap_err().to_string();
        assert!(refused("\"C:\\new\"").contains("begins an escape"));
        assert!(refused("{path: \"\"}").contains("is empty"));
        let recipe = Recipe::parse(&recipe_of("C:\\models\\x"), false).unwrap();
        assert_eq!(recipe.models()[0].1.path, "C:\\models\\x");
        assert_eq!(recipe.warnings[0].code, "windows_path");
    }

    #[test]
    fn nothing_written_of_a_model_is_dropped_in_silence() {
        for model in ["{model: org/x, revision: v2}", "{path: org/x, architecture: Z}", "{path: org/x, pth: y}"] {
            let refusal = Recipe::parse(&recipe_of(model), false).unwrap_err();
            let codes: Vec<&str> = refusal.problems.iter().map(|p| p.code.as_str()).collect();
            assert_eq!(codes, ["unknown_key"], "{model}");
        }
    }

    #[test]
    fn a_range_past_the_limit_is_told_the_limit() {
        let text = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 200000]}]\n";
        let refusal = Recipe::parse(text, false).unwrap_err();
        assert!(refusal.problems[0].detail.contains(&crate::limits::LAYERS_MAX.to_string()), "{refusal}");
    }

    #[test]
    fn every_model_is_named_once_and_where() {
        let text = "merge_method: ties\nmodels: [{model: a}, {model: b}]\nbase_model: a\ntokenizer_source: c\n";
        let recipe = Recipe::parse(text, false).unwrap();
        let named: Vec<(String, String)> = recipe.models().into_iter().map(|(at, m)| (at, m.to_string())).collect();
        let expected = [("/models/0/model", "a"), ("/models/1/model", "b"), ("/tokenizer_source", "c")];
        assert_eq!(named, expected.map(|(at, m)| (at.to_owned(), m.to_owned())));
    }
}
