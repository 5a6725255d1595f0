//! Keys that mean nothing where they stand: what was meant, or where they belong.

use super::{Decoder, TOP_KEYS};
use crate::node::{Key, Kind, Node};
use crate::problem::{Problem, escape, nearest};

/// Keys, and the place where each of them means something.
const PLACES: &[(&[&str], &str)] = &[
    (&["base_model"], "at the top level of the recipe, or beside the `sources` of a slice"),
    (TOP_KEYS, "at the top level of the recipe"),
    (super::options::ACTING, "under `options`"),
    (&["source", "tokens", "pad_to_multiple_of"], "under `tokenizer`"),
    (&["force"], "in an entry of `tokens` under `tokenizer`"),
    (&["sources"], "in an entry of `slices`"),
    (&["layer_range"], "beside `model` in the `sources` of a slice"),
    (&["filter", "value"], "in a condition, `parameters: {NAME: [{filter: mlp, value: 0.5}]}`"),
    (&["experts", "gate_mode", "experts_per_token"], "in a recipe for a mixture of experts"),
];

/// Gradients up to this length are repeated in advice.
const POINTS_TOLD_MAX: usize = 8;

/// Where a known key belongs, for one that stands elsewhere.
pub fn place_of(key: &str) -> Option<&'static str> {
    PLACES.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, place)| *place)
}

impl Decoder {
    pub(super) fn unknown_key(&mut self, key: &Key, value: &Node, pointer: &str, known: &[&str]) {
        let problem = Problem {
            pointer: format!("{pointer}/{}", escape(&key.name)),
            line: key.at.map(|p| p.0),
            column: key.at.map(|p| p.1),
            code: "unknown_key".into(),
            detail: format!("unknown key `{}`; {}", key.name, advice(&key.name, value, known)),
        };
        if self.lenient { self.warnings.push(problem) } else { self.problems.push(problem) }
    }
}

fn advice(key: &str, value: &Node, known: &[&str]) -> String {
    if let Some(name) = nearest(key, known.iter().copied()) {
        return format!("did you mean `{name}`?");
    }
    if known.contains(&"model") && matches!(key, "revision" | "lora") {
        return "write `model: PATH@revision+LORA`, or `model: {path: PATH, revision: R, lora: {path: LORA}}`".into();
    }
    if let Some(place) = place_of(key) {
        return format!("it belongs {place}");
    }
    match setting(value) {
        Some(value) if known.contains(&"parameters") => format!(
            "if it is a parameter of the method, write `parameters: {{{key}: {value}}}`; known here: {}",
            known.join(", ")
        ),
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// The value as one would write it, if it could be that of a parameter.
fn setting(value: &Node) -> Option<String> {
    match &value.kind {
        Kind::Bool(b) => Some(b.to_string()),
        Kind::Number(n) => Some(n.to_string()),
        Kind::List(points) if points.len() > POINTS_TOLD_MAX => {
            points.iter().all(|p| matches!(p.kind, Kind::Number(_))).then(|| "[...]".to_owned())
        }
        Kind::List(points) => {
            let points: Option<Vec<String>> = points.iter().map(number).collect();
            points.map(|points| format!("[{}]", points.join(", ")))
        }
        Kind::Null | Kind::Text(_) | Kind::Map(_) => None,
    }
}

fn number(node: &Node) -> Option<String> {
    if let Kind::Number(n) = node.kind { Some(n.to_string()) } else { None }
}

#[cfg(test)]
mod tests {
    use crate::Recipe;

    fn told(text: &str) -> String {
        let refusal = Recipe::parse(text, false).unwrap_err();
        assert_eq!(refusal.problems.iter().map(|p| p.code.as_str()).collect::<Vec<_>>(), ["unknown_key"], "{refusal}");
        refusal.to_string()
    }

    fn beside_the_method(line: &str) -> String {
        told(&format!("merge_method: ties\nmodels: [{{model: a}}]\n{line}\n"))
    }

    fn beside_the_model(entry: &str) -> String {
        told(&format!("merge_method: ties\nmodels: [{{model: a, {entry}}}]\n"))
    }

    #[test]
    fn a_parameter_in_the_wrong_place_is_told_the_right_one() {
        let said = beside_the_method("density: 0.5");
        assert!(said.contains("line 3, column 1: /density") && said.contains("`parameters: {density: 0.5}`"), "{said}");
        assert!(beside_the_method("select_topk: [0.1, 0.2]").contains("`parameters: {select_topk: [0.1, 0.2]}`"));
        assert!(beside_the_model("weight: 0.3").contains("`parameters: {weight: 0.3}`"));
    }

    #[test]
    fn a_key_of_another_place_is_told_that_place() {
        assert!(beside_the_method("random_seed: 1").contains("it belongs under `options`"));
        assert!(beside_the_method("layer_range: [0, 1]").contains("beside `model` in the `sources` of a slice"));
        assert!(beside_the_model("dtype: bfloat16").contains("at the top level of the recipe"));
        assert!(beside_the_model("revision: v2").contains("`model: PATH@revision+LORA`"));
    }

    #[test]
    fn a_typo_is_told_the_key_and_anything_else_what_is_known() {
        assert!(beside_the_method("dype: bfloat16").contains("did you mean `dtype`?"));
        assert!(beside_the_method("prompt: hello").contains("known here: merge_method, models"));
    }
}
