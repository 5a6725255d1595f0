use proptest::prelude::*;
use serde_json::json;

use super::told::told_once;
use super::*;
use crate::Recipe;

const RECIPE: &str = "\
merge_method: slerp
base_model: org/a
models:
  - model: org/a
    parameters: {weight: 1}
  - model: {path: org/b}
parameters: {t: 0.5, normalize: true}
options: {allow-crimes: true}
";

fn variants(more: &str) -> Vec<Variant> {
    Draft::from_yaml(&format!("{RECIPE}{more}")).unwrap().variants().unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn refused(more: &str) -> Vec<Problem> {
    Draft::from_yaml(&format!("{RECIPE}{more}")).unwrap().variants().unwrap_err().problems
}

fn names(variants: &[Variant]) -> Vec<&str> {
    variants.iter().map(|v| v.name().unwrap()).collect()
}

fn recipe_of(variant: &Variant) -> Recipe {
    variant.stages(false).unwrap().result().recipe.clone()
}

fn parsed(text: &str) -> Value {
    serde_json::to_value(Recipe::parse(text, false).unwrap()).unwrap()
}

#[test]
fn a_variant_is_the_recipe_with_what_it_changes() {
    let list = "\
variants:
  - {name: mild, parameters: {t: 0.3}}
  - name: strong
    merge_method: linear
    dtype: float16
    parameters: {t: [0, 1]}
    models: {org/a: {weight: 0.2}, org/b: {weight: 0.8}}
    options: {allow_crimes: false, random_seed: 5}
";
    let variants = variants(list);
    assert_eq!(names(&variants), ["mild", "strong"]);
    let by_hand = "\
merge_method: linear
base_model: org/a
models:
  - model: org/a
    parameters: {weight: 0.2}
  - model: {path: org/b}
    parameters: {weight: 0.8}
parameters: {t: [0, 1], normalize: true}
options: {allow_crimes: false, random_seed: 5}
dtype: float16
";
    assert_eq!(serde_json::to_value(recipe_of(&variants[1])).unwrap(), parsed(by_hand));
    assert_eq!(parsed(&variants[1].text().unwrap()), parsed(by_hand));
    assert_eq!(parsed(&variants[0].text().unwrap()), parsed(&RECIPE.replace("t: 0.5", "t: 0.3")));
    let settings = json!({"merge_method": "linear", "dtype": "float16", "t": [0, 1], "org/a.weight": 0.2,
        "org/b.weight": 0.8, "options.allow_crimes": false, "options.random_seed": 5});
    assert_eq!(Value::Object(variants[1].settings()), settings);
}

#[test]
fn a_grid_is_every_combination_in_order_with_telling_names() {
    let variants = variants("grid:\n  parameters: {t: [0.3, 0.7]}\n  models: {org/a: {weight: [1, 2]}}\n");
    assert_eq!(names(&variants), ["t-0.3_a.weight-1", "t-0.3_a.weight-2", "t-0.7_a.weight-1", "t-0.7_a.weight-2"]);
    let settings: Vec<Value> = variants.iter().map(|v| v.settings().into()).collect();
    assert_eq!(settings[1], json!({"t": 0.3, "org/a.weight": 2}));
    assert_eq!(settings[2], json!({"t": 0.7, "org/a.weight": 1}));
}

#[test]
fn a_grid_of_methods_seeds_and_gradients_is_named_by_number_where_it_must() {
    let of = |grid: &str| variants(&format!("grid: {{{grid}}}\n"));
    assert_eq!(
        names(&of("merge_method: [ties, dare_ties], options: {random_seed: [1, 2]}"))[3],
        "merge_method-dare_ties_random_seed-2"
    );
    assert_eq!(names(&of("parameters: {t: [0.1, 0.2], s: [7]}")), ["t-0.1", "t-0.2"]);
    assert_eq!(names(&of("parameters: {t: [[0, 1], [0.5, 1], 0.5]}")), ["variant-1", "variant-2", "t-0.5"]);
}

#[test]
fn a_model_is_meant_by_its_name_or_number_in_models_and_slices() {
    let slices = "\
merge_method: linear
slices:
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]
  - sources: [{model: a, layer_range: [1, 2]}, {model: a, layer_range: [0, 1]}]
variants:
  - models: {a: {weight: 0.2}, 1: {weight: 0.9}}
";
    let variants = Draft::from_yaml(slices).unwrap().variants().unwrap();
    let recipe = serde_json::to_value(recipe_of(&variants[0])).unwrap();
    let weight =
        |slice: usize, source: usize| recipe["slices"][slice]["sources"][source]["parameters"]["weight"].clone();
    assert_eq!(
        [weight(0, 0), weight(0, 1), weight(1, 0), weight(1, 1)].map(|w| w.as_f64()),
        [0.2, 0.9, 0.2, 0.2].map(Some)
    );
    let problems = refused("variants: [{models: {org/c: {weight: 1}, 2: {weight: 1}}}]\n");
    assert_eq!(problems.iter().map(|p| p.code.as_str()).collect::<Vec<_>>(), ["unknown_model", "unknown_model"]);
    assert!(problems[0].detail.contains("org/c"), "{}", problems[0]);
}

#[test]
fn what_is_set_of_a_model_is_set_in_slices_of_the_same_variant() {
    let slices = "[{sources: [{model: org/a, layer_range: [0, 1]}]}]";
    let text = format!("merge_method: linear\nvariants: [{{models: {{org/a: {{weight: 2}}}}, slices: {slices}}}]\n");
    let variants = Draft::from_yaml(&text).unwrap().variants().unwrap();
    let recipe = serde_json::to_value(recipe_of(&variants[0])).unwrap();
    assert_eq!(recipe["slices"][0]["sources"][0]["parameters"]["weight"], 2.0);
}

#[test]
fn a_bad_value_is_reported_where_the_variant_has_it() {
    let list = "variants:\n  - {name: one, dtype: float16}\n  - name: two\n    dtype: flaot16\n";
    let refusal = variants(list)[1].stages(false).unwrap_err();
    assert_eq!((refusal.problems[0].pointer.as_str(), refusal.problems[0].line), ("/variants/1/dtype", Some(12)));
    let grid = variants("grid:\n  parameters:\n    t:\n      - 0.5\n      - {value: [[]]}\n");
    let refusal = grid[1].stages(false).unwrap_err();
    let problem = &refusal.problems[0];
    assert_eq!((problem.pointer.as_str(), problem.line), ("/grid/parameters/t/1/value/0", Some(13)));
    // what a variant leaves as it is keeps its place
    let recipe = recipe_of(&variants(list)[0]);
    let problem = recipe.positions.problem("/parameters/t", "x", "");
    assert_eq!(variants(list)[0].all_placed(vec![problem.clone()]), [problem]);
}

#[test]
fn a_document_of_several_may_have_variants() {
    let first = format!("name: first\n{RECIPE}---\n");
    let last = "merge_method: linear\nmodels: [{model: first}, {model: org/c}]\n";
    let grid = "grid: {models: {org/c: {weight: [0.2, x]}}}\n";
    let variants = Draft::from_yaml(&format!("{first}{last}{grid}")).unwrap().variants().unwrap();
    assert_eq!(variants.len(), 2);
    let alone = Stages::parse(&variants[0].text().unwrap(), false).unwrap();
    assert_eq!(alone.iter().count(), 2);
    assert_eq!(recipe_of(&variants[0]).merge_method, "linear");
    let weight = Problem { pointer: "/1/models/1/parameters/weight".into(), ..Problem::of_whole("x", "") };
    assert_eq!(variants[1].all_placed(vec![weight])[0].pointer, "/1/grid/models/org~1c/weight/1");
    let twice = Draft::from_yaml(&format!("{first}{last}{grid}---\nname: x\n{last}{grid}")).unwrap().variants();
    assert_eq!(twice.unwrap_err().problems[0].pointer, "/2/grid");
}

#[test]
fn what_no_variant_can_be_is_refused_with_the_form_to_write() {
    for (more, pointer, code) in [
        ("variants: []\n", "/variants", "missing"),
        ("variants: {t: 1}\n", "/variants", "invalid_type"),
        ("variants: [3]\n", "/variants/0", "invalid_type"),
        ("variants: [{t: 0.3}]\n", "/variants/0/t", "unknown_key"),
        ("variants: [{lenient: true}]\n", "/variants/0/lenient", "unknown_key"),
        ("variants: [{parameters: 3}]\n", "/variants/0/parameters", "invalid_type"),
        ("variants: [{name: ../x}]\n", "/variants/0/name", "invalid_value"),
        ("variants: [{name: a}, {name: A}]\n", "/variants/1/name", "conflict"),
        ("grid: {}\n", "/grid", "missing"),
        ("grid: {parameters: {t: 0.3}}\n", "/grid/parameters/t", "invalid_type"),
        ("grid: {parameters: {t: []}}\n", "/grid/parameters/t", "invalid_type"),
        ("grid: {name: [a, b]}\n", "/grid/name", "unknown_key"),
        ("grid: {parameters: {t: [1]}}\nvariants: [{}]\n", "/grid", "conflict"),
    ] {
        let problems = refused(more);
        assert_eq!((problems[0].pointer.as_str(), problems[0].code.as_str()), (pointer, code), "{more}");
        assert!(problems[0].line.is_some(), "{more}");
    }
    assert!(refused("variants: [{t: 0.3}]\n")[0].detail.contains("`parameters: {t: ...}`"));
    let wide = format!("grid: {{parameters: {{t: {0:?}, s: {0:?}}}}}\n", (0..9).collect::<Vec<_>>());
    assert_eq!(refused(&wide)[0].code, "too_many");
    let huge: String = (0..70).map(|i| format!("p{i}: [1, 2], ")).collect();
    assert_eq!(refused(&format!("grid: {{parameters: {{{huge}}}}}\n"))[0].code, "too_many");
}

#[test]
fn a_model_in_very_many_places_is_not_changed_without_end() {
    let sources = vec![json!({"model": "a", "layer_range": [0, 1]}); 3_000];
    let parameters: Map<String, Value> = (0..4).map(|i| (format!("p{i}"), json!(1))).collect();
    let recipe = json!({"merge_method": "linear", "slices": [{"sources": sources}], "variants": [{"models": {"a": parameters}}]});
    let refusal = Draft::from_json(&recipe).unwrap().variants().unwrap_err();
    assert_eq!(refusal.problems[0].code, "too_many");
}

#[test]
fn a_recipe_alone_is_refused_its_variants() {
    let refusal = Recipe::parse(&format!("{RECIPE}variants: [{{}}]\n"), false).unwrap_err();
    assert_eq!(refusal.problems[0].code, "variants");
}

#[test]
fn what_all_variants_share_is_told_once_and_the_rest_by_name() {
    let problem = |detail: &str| problem_at(&Node { at: None, kind: Kind::Null }, "/x", "c", detail.to_owned());
    let told = told_once(
        ["a", "b", "c", "d", "e"]
            .map(|name| {
                let mine = if name == "a" { vec![] } else { vec![problem("some")] };
                (Some(name.to_owned()), [vec![problem("all")], mine].concat())
            })
            .to_vec(),
    );
    let details: Vec<&str> = told.iter().map(|p| p.detail.as_str()).collect();
    assert_eq!(details, ["all", "variants \"b\", \"c\", \"d\" and 1 more: some"]);
    assert_eq!(told_once(vec![(None, vec![problem("one")])])[0].detail, "one");
}

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1e6..1e6_f64).prop_map(Value::from),
        "[ -~é\n\t]{0,12}".prop_map(Value::from),
    ];
    scalar.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[ -~]{0,6}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever a variant sets, its text alone says the same.
    #[test]
    fn the_text_of_a_variant_says_what_the_variant_says(value in values()) {
        let mut draft = Draft::from_yaml(RECIPE).unwrap();
        draft.set_variants("variants", &json!([{"tokenizer": value}])).unwrap();
        let variant = draft.variants().unwrap().remove(0);
        let read = Node::from_yaml(&variant.text().unwrap()).unwrap();
        prop_assert_eq!(read.to_json(), variant.documents()[0].to_json());
    }
}
