//! What is answered past each limit of a recipe: a problem document that names the limit, and no job.

use std::collections::BTreeMap;

use recipe::limits::{
    ALIASES_MAX, CHANGES_MAX, CONDITIONS_MAX, CONDITIONS_TOTAL_MAX, DEPTH_MAX, KEY_BYTES_MAX, LAYERS_MAX, MODELS_MAX,
    MODULES_MAX, NODES_MAX, OPTIONS_MAX, POINTER_BYTES_MAX, PROBLEMS_MAX, RECIPE_BYTES_MAX, SLICES_MAX, STAGES_MAX,
    TEXT_BYTES_MAX, VARIANT_NAME_CHARS_MAX, VARIANTS_MAX,
};
use serde_json::{Value, json};

use crate::limits::{KEY_CHARS_MAX, PAIRS_MAX, VALUE_CHARS_MAX};
use crate::testing::{Fixture, RECIPE, VARIANTS};

fn repeated(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect()
}

/// One recipe past each limit, as little as can be.
fn too_much() -> BTreeMap<&'static str, String> {
    let slice = "  - sources: [{model: a, layer_range: [0, 1]}]\n";
    let condition = |i: usize| format!("{{filter: f{i}, value: 1}}, ");
    let conditions = |models: usize, each: usize| {
        let model = |i| format!("  - model: m{i}\n    parameters: {{weight: [{}]}}\n", repeated(each, condition));
        format!("merge_method: linear\nmodels:\n{}", repeated(models, model))
    };
    let long_key = "k".repeat(KEY_BYTES_MAX);
    let key = |i: usize| format!("{long_key}: {{").chars().skip(i % 2).collect::<String>();
    let deep = DEPTH_MAX - 4;
    let leaves = POINTER_BYTES_MAX / (deep * 2 * KEY_BYTES_MAX) + 100;
    BTreeMap::from([
        ("bytes", format!("{RECIPE}#{}", "x".repeat(RECIPE_BYTES_MAX))),
        ("values", format!("{RECIPE}x: [{}]\n", "1,".repeat(NODES_MAX))),
        ("depth", format!("{RECIPE}x: {}{}\n", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1))),
        ("aliases", format!("{RECIPE}x: &x 1\ny: [{}]\n", "*x,".repeat(ALIASES_MAX + 1))),
        ("texts", format!("{RECIPE}x: &x {}\ny: [{}]\n", "t".repeat(TEXT_BYTES_MAX / 16), "*x,".repeat(17))),
        ("key", format!("{RECIPE}{long_key}k: 1\n")),
        (
            "pointers",
            format!("{RECIPE}x: {{{}x: [{}]{}}}\n", repeated(deep, key), "1,".repeat(leaves), "}".repeat(deep)),
        ),
        (
            "models",
            format!("merge_method: linear\nmodels:\n{}", repeated(MODELS_MAX + 1, |i| format!("  - model: m{i}\n"))),
        ),
        (
            "modules",
            format!(
                "merge_method: linear\nmodules:\n{}",
                repeated(MODULES_MAX + 1, |i| format!("  m{i}: {{slices: []}}\n"))
            ),
        ),
        ("slices", format!("merge_method: passthrough\nslices:\n{}", slice.repeat(SLICES_MAX + 1))),
        (
            "layers",
            format!("merge_method: passthrough\nslices:\n{}", slice.replace("0, 1", &format!("0, {}", LAYERS_MAX + 1))),
        ),
        (
            "models of slices",
            format!(
                "merge_method: linear\nslices:\n{}",
                repeated(MODELS_MAX + 1, |i| slice.replace("model: a", &format!("model: m{i}")))
            ),
        ),
        ("anchors", format!("{RECIPE}x: [{}]\n", repeated(ALIASES_MAX + 1, |i| format!("&a{i} 1,")))),
        ("merge keys", format!("{RECIPE}x: &x {{a: 1}}\ny: [{}]\n", "{<<: {a: 1}},".repeat(ALIASES_MAX + 1))),
        ("options", format!("{RECIPE}options: {{{}}}\n", repeated(OPTIONS_MAX + 1, |i| format!("o{i}: 1, ")))),
        ("conditions of one setting", conditions(2, CONDITIONS_MAX + 1)),
        ("conditions", conditions(CONDITIONS_TOTAL_MAX / 100 + 1, 100)),
        ("variants", format!("{RECIPE}grid:\n  parameters: {{normalize: [{}]}}\n", "true,".repeat(VARIANTS_MAX + 1))),
        (
            "changes",
            format!("{RECIPE}variants:\n  - parameters: {{{}}}\n", repeated(CHANGES_MAX + 1, |i| format!("p{i}: 1, "))),
        ),
        ("variant name", VARIANTS.replace("plain", &"n".repeat(VARIANT_NAME_CHARS_MAX + 1))),
        ("documents", format!("{RECIPE}---\n").repeat(STAGES_MAX + 1)),
    ])
}

#[tokio::test]
async fn a_recipe_past_each_limit_is_refused_with_the_limit() {
    let fixture = Fixture::new().await;
    let mut told = BTreeMap::new();
    for (limit, recipe) in too_much() {
        let answer = fixture.post("/v1/jobs", &recipe).await;
        let mut body = answer.json();
        assert_eq!((answer.status, body["code"].as_str()), (422, Some("invalid_recipe")), "{limit}: {body}");
        let code = body["errors"][0]["code"].as_str().unwrap();
        assert!(["too_large", "too_many", "invalid_value"].contains(&code), "{limit}: {body}");
        body["request_id"] = Value::Null;
        told.insert(limit, body);
    }
    assert_eq!(fixture.count().await, 0);
    insta::assert_json_snapshot!(told);
}

#[tokio::test]
async fn as_many_problems_are_told_as_a_reader_can_use() {
    let fixture = Fixture::new().await;
    let recipe = format!("{RECIPE}{}", repeated(PROBLEMS_MAX + 10, |i| format!("unknown{i}: 1\n")));
    let body = fixture.post("/v1/jobs", &recipe).await.json();
    assert_eq!(body["errors"].as_array().unwrap().len(), PROBLEMS_MAX);
}

#[tokio::test]
async fn what_stands_beside_a_recipe_is_limited_too() {
    let fixture = Fixture::new().await;
    let pairs = |count: usize| (0..count).map(|i| (format!("k{i}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    let cases = [
        ("pairs", json!({"labels": pairs(PAIRS_MAX + 1), "metadata": pairs(PAIRS_MAX)})),
        ("key", json!({"labels": {"k".repeat(KEY_CHARS_MAX + 1): "v"}})),
        ("value", json!({"metadata": {"k": "v".repeat(VALUE_CHARS_MAX + 1)}})),
        ("priority", json!({"priority": 1001})),
        ("attempts", json!({"max_attempts": 11})),
    ];
    let mut told = BTreeMap::new();
    for (limit, beside) in cases {
        let mut body = beside;
        body["recipe_yaml"] = json!(RECIPE);
        let answer = fixture.post_json("/v1/jobs", &body).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("invalid_request")), "{limit}");
        told.insert(limit, answer.json()["errors"].clone());
    }
    assert_eq!(fixture.count().await, 0);
    insta::assert_json_snapshot!(told);
}
