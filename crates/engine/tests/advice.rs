//! Lessons of practice: each is told where it applies, and nowhere else.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use checkpoint::{Access, Dtype};
use engine::Settings;
use recipe::{Problem, Recipe};
use serde_json::{Value, json};
use testkit::TinyCheckpoint;

fn of_recipe(text: &str) -> Vec<Problem> {
    let recipe = Recipe::parse(text, false).unwrap_or_else(|r| panic!("{text}{r}"));
    engine::check(&recipe).unwrap_or_else(|r| panic!("{text}{r}"))
}

/// What is said under one code, as `pointer detail`.
fn said(warnings: &[Problem], code: &str) -> Vec<String> {
    warnings.iter().filter(|w| w.code == code).map(|w| format!("{} {}", w.pointer, w.detail)).collect()
}

fn weighted(method: &str, weights: &[&str], more: &str) -> Vec<Problem> {
    let models: String =
        weights.iter().enumerate().map(|(i, w)| format!("- {{model: m{i}, parameters: {{weight: {w}}}}}\n")).collect();
    of_recipe(&format!("merge_method: {method}\nmodels:\n{models}{more}\n"))
}

/// Weights, the rest of the recipe, and what is said of it; nothing where there is nothing to say.
fn assert_said(code: &str, method: &str, cases: &[(&[&str], &str, Option<&str>)]) {
    for (weights, more, expected) in cases {
        let found = said(&weighted(method, weights, more), code);
        match expected {
            None => assert!(found.is_empty(), "{weights:?} {more}: {found:?}"),
            Some(words) => assert!(found.len() == 1 && found[0].contains(words), "{weights:?} {more}: {found:?}"),
        }
    }
}

#[test]
fn weights_of_an_average_are_shares() {
    let off = "parameters: {normalize: false}";
    assert_said(
        "weights_do_not_sum",
        "linear",
        &[
            (&["0.5", "0.5"], "", None),
            (&["0.33", "0.33", "0.33"], off, None),
            (&["1", "1"], "", None),
            (
                &["3", "1"],
                "",
                Some(
                    "/models the weights sum to 4; `normalize` divides by that, so they mean the shares 0.75 and 0.25",
                ),
            ),
            (
                &["1", "1"],
                off,
                Some("/models the weights sum to 2 and `normalize` is off, so every value comes out 2 times"),
            ),
            (&["[0.5, 0.2]", "[0.5, 0.8]"], off, None),
            (&["[0.5, 0.2]", "0.5"], off, Some("sum to 1 at the first layer and to 0.7 at the last")),
            (&["[{filter: mlp, value: 3}, {value: 1}]", "0.5"], off, None),
        ],
    );
    assert_said("weights_do_not_sum", "task_arithmetic", &[(&["0.8", "0.8"], "base_model: base", None)]);
}

#[test]
fn weights_that_leave_the_others_out_are_told() {
    let cases: &[(&[&str], &str, Option<&str>)] = &[
        (&["0.95", "0.05"], "", Some("/models weights of 0.95 and 0.05")),
        (&["0.9", "0.1"], "", None),
        (&["0.3", "0.7"], "", None),
        (&["[1, 0.01]", "[0.01, 1]"], "", None),
        (&["[0.97, 0.99]", "[0.03, 0.01]"], "", Some("almost without effect")),
        (&["[0.99, 0.5]", "[0.01, 0.5]"], "", None),
    ];
    assert_said("one_sided_weights", "linear", cases);
    assert_said(
        "one_sided_weights",
        "ties",
        &[(&["0.95", "0.05"], "base_model: base", Some("begin between 0.3 and 0.7"))],
    );
    assert_said("one_sided_weights", "ties", &[(&["1"], "base_model: base", None)]);
    let zero = said(&weighted("linear", &["1", "0"], ""), "weight_is_zero");
    assert!(zero.len() == 1 && zero[0].starts_with("/models/1/parameters/weight "), "{zero:?}");
}

#[test]
fn task_vectors_are_not_added_whole_one_upon_the_other() {
    assert_said(
        "over_weighted",
        "task_arithmetic",
        &[
            (&["1", "1", "1"], "base_model: base", Some("total weight of 3")),
            (&["0.8", "0.8"], "base_model: base", None),
            (&["0.8", "0.8"], "base_model: base\nparameters: {lambda: 1.5}", Some("total weight of 2.4")),
            (&["1", "1", "1"], "base_model: base\nparameters: {normalize: true}", None),
            (&["[0, 2]", "[0, 1]"], "base_model: base", Some("total weight of 3")),
        ],
    );
    assert_said("over_weighted", "ties", &[(&["1", "1", "1"], "base_model: base", None)]);
    assert_said("over_weighted", "linear", &[(&["3", "3"], "", None)]);
}

#[test]
fn densities_that_drop_nothing_or_nearly_all_are_told() {
    let density = |method: &str, parameters: &str| {
        let text = format!(
            "merge_method: {method}\nbase_model: base\nmodels: [{{model: a, parameters: {{weight: 1{parameters}}}}}]\n"
        );
        said(&of_recipe(&text), "density_at_edge").join("\n")
    };
    for (method, parameters, expected) in [
        ("ties", ", density: 0.05", "/models/0/parameters/density a density of 0.05 keeps so little"),
        ("ties", ", density: 1", "/models/0/parameters/density a density of 1 drops nothing"),
        ("ties", "", "/models/0 no `density` is set, and without one ties drops nothing"),
        (
            "dare_linear",
            ", drop_rate: 0.995",
            "/models/0/parameters/drop_rate a drop_rate of 0.995 leaves almost nothing",
        ),
    ] {
        assert!(density(method, parameters).starts_with(expected), "{}", density(method, parameters));
    }
    for (method, parameters) in [
        ("ties", ", density: 0.5"),
        ("ties", ", density: [1, 0.5]"),
        ("ties", ", density: [{filter: mlp, value: 1}]"),
        ("dare_ties", ", drop_rate: 0.9"),
        ("dare_ties", ", density: 1, drop_rate: 0.9"),
        ("breadcrumbs", ""),
        ("task_arithmetic", ""),
        ("consensus_ties", ""),
    ] {
        assert_eq!(density(method, parameters), "", "{method}{parameters}");
    }
    let shared = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5, density: 0.01}\n";
    assert_eq!(said(&of_recipe(shared), "density_at_edge").len(), 1, "one place, one word");
}

#[test]
fn t_begins_between_the_models() {
    let t = |t: &str, code: &str| {
        let text = format!(
            "merge_method: slerp\nbase_model: a\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{t: {t}}}\n"
        );
        said(&of_recipe(&text), code).join("\n")
    };
    assert!(t("0.02", "t_at_edge").starts_with("/parameters/t at t = 0.02 the result is almost the base"));
    assert!(t("1", "t_at_edge").contains("almost the other model"));
    assert!(t("1.2", "t_at_edge").contains("outside 0 to 1"));
    for fine in ["0.5", "[0, 1]", "[{filter: mlp, value: 1}, {value: 0}]"] {
        assert_eq!(t(fine, "t_at_edge"), "", "{fine}");
    }
    assert!(t("0.4", "one_t_for_all").contains("{filter: self_attn, value: 0.3}"));
    for fine in ["[0.3, 0.5]", "[{filter: mlp, value: 0.3}, {value: 0.5}]", "0"] {
        assert_eq!(t(fine, "one_t_for_all"), "", "{fine}");
    }
}

#[test]
fn what_is_said_of_every_merge_is_said_once_and_can_be_kept_back() {
    let text =
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 3}}, {model: b, parameters: {weight: 1}}]\n";
    let warnings = of_recipe(text);
    assert_eq!(said(&warnings, "evaluate").len(), 1);
    assert_eq!(of_recipe(&format!("{text}options: {{advice: false}}\n")), []);
    assert!(said(&of_recipe("merge_method: passthrough\nmodels: [{model: a}]\n"), "evaluate").is_empty());
}

#[test]
fn three_models_are_compared_with_a_method_that_settles_conflicts() {
    assert_said("many_models", "linear", &[(&["1", "1", "1"], "", Some("3 models at once")), (&["1", "1"], "", None)]);
    let base = "base_model: base";
    assert_said(
        "many_models",
        "task_arithmetic",
        &[(&["0.3", "0.3", "0.3"], base, Some("3")), (&["1", "1"], base, None)],
    );
    assert_said("many_models", "ties", &[(&["1", "1", "1"], base, None)]);
}

/// Advice does not grow with the recipe.
#[test]
fn a_recipe_of_many_slices_is_answered_in_few_lines() {
    let slice = "- sources: [{model: a, layer_range: [0, 1], parameters: {weight: 3}}, {model: b, layer_range: [0, 1], parameters: {weight: 1}}]\n";
    let warnings = of_recipe(&format!("merge_method: linear\nslices:\n{}", slice.repeat(500)));
    assert!((2..20).contains(&warnings.len()), "{}", warnings.len());
}

struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    /// `base`, a little changed under other names, and one trained apart.
    fn new() -> Models {
        let models = Models { dir: tempfile::tempdir().unwrap() };
        models.write("base", &base());
        models.write("a", &tuned(0.02));
        models.write("b", &tuned(-0.03));
        models.write("copy", &base());
        models.write("apart", &TinyCheckpoint::llama(4, Dtype::F32, 99));
        models
    }

    fn write(&self, name: &str, model: &TinyCheckpoint) {
        model.write(&self.dir.path().join(name));
    }

    fn write_tokenizer(&self, name: &str, tokenizer: &Value) {
        std::fs::write(self.dir.path().join(name).join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }

    fn said(&self, text: &str, code: &str) -> Vec<String> {
        let recipe = Recipe::parse(text, false).unwrap();
        let access = Access::Under(vec![self.dir.path().to_owned()]);
        let (plan, _) = engine::open_and_plan(&recipe, &access, &Settings::default()).unwrap_or_else(|r| panic!("{r}"));
        said(&plan.warnings, code)
    }
}

fn base() -> TinyCheckpoint {
    TinyCheckpoint::llama(4, Dtype::F32, 1)
}

/// The base, each value moved by a share of itself, alternately up and down.
fn tuned(share: f32) -> TinyCheckpoint {
    let mut model = base();
    for (_, (_, _, bytes)) in model.tensors.iter_mut() {
        for (i, four) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let factor = if i % 2 == 0 { 1.0 + share } else { 1.0 - share };
            *four = (f32::from_le_bytes(*four) * factor).to_le_bytes();
        }
    }
    model
}

fn task_arithmetic(models: &[&str]) -> String {
    let models: String = models.iter().map(|m| format!("- {{model: {m}, parameters: {{weight: 0.5}}}}\n")).collect();
    format!("merge_method: task_arithmetic\nbase_model: base\nmodels:\n{models}")
}

const LINEAR: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n";

#[test]
fn a_model_trained_apart_is_no_fine_tune_of_the_base() {
    let models = Models::new();
    assert_eq!(models.said(&task_arithmetic(&["a", "b"]), "not_a_finetune"), [""; 0]);
    let apart = models.said(&task_arithmetic(&["a", "apart"]), "not_a_finetune");
    assert!(apart.len() == 1 && apart[0].starts_with("/models/1 this model was not tuned from the base"), "{apart:?}");
    let percent: u32 = apart[0].split("differ by ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((120..170).contains(&percent), "{percent}");
    assert_eq!(models.said(LINEAR, "not_a_finetune"), [""; 0]);
    let linear = models.said(&LINEAR.replace("model: b", "model: apart"), "not_a_finetune");
    assert!(linear.len() == 1 && linear[0].contains("does not come from the same base as \"a\""), "{linear:?}");
}

/// The dtype of a model is not its kinship.
#[test]
fn models_are_compared_across_dtypes() {
    let models = Models::new();
    models.write("apart", &TinyCheckpoint::llama(4, Dtype::BF16, 1));
    assert_eq!(models.said(&task_arithmetic(&["a", "apart"]), "not_a_finetune"), [""; 0]);
    assert_eq!(models.said(&task_arithmetic(&["a", "apart"]), "same_model_twice"), [""; 0]);
}

#[test]
fn one_model_under_two_names_is_told() {
    let models = Models::new();
    let same = models.said(&task_arithmetic(&["a", "copy"]), "same_model_twice");
    assert!(same.len() == 1 && same[0].starts_with("/models/1 ") && same[0].contains("\"base\""), "{same:?}");
    assert_eq!(models.said(LINEAR, "same_model_twice"), [""; 0]);
}

#[test]
fn configs_that_say_other_things_are_told() {
    let models = Models::new();
    let mut other = tuned(0.01);
    other.config["rope_theta"] = json!(1_000_000.0);
    models.write("b", &other);
    let differ = models.said(LINEAR, "configs_differ");
    assert!(differ.len() == 1 && differ[0].contains("rope_theta is 1000000.0 here and not set there"), "{differ:?}");
    other.config["architectures"] = json!(["MistralForCausalLM"]);
    models.write("b", &other);
    let crimes = format!("{LINEAR}options: {{allow_crimes: true}}\n");
    let mixed = models.said(&crimes, "architecture_mismatch");
    assert!(mixed.len() == 1 && mixed[0].starts_with("/models/1 this is a MistralForCausalLM"), "{mixed:?}");
}

#[test]
fn vocabularies_of_one_size_with_other_tokens_are_told() {
    let models = Models::new();
    let tokenizer = |words: &[&str]| {
        let vocab: Value = words.iter().enumerate().map(|(id, w)| ((*w).to_owned(), json!(id))).collect();
        json!({"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "x"}, "added_tokens": []})
    };
    models.write_tokenizer("a", &tokenizer(&["x", "y", "z"]));
    models.write_tokenizer("b", &tokenizer(&["x", "z", "y"]));
    let differ = models.said(LINEAR, "tokenizers_differ");
    assert!(
        differ.len() == 1
            && differ[0].contains("2 token ids")
            && differ[0].contains("(id 1 is \"z\" here, \"y\" there)"),
        "{differ:?}"
    );
    assert_eq!(models.said(&format!("{LINEAR}tokenizer_source: union\n"), "tokenizers_differ"), [""; 0]);
    models.write_tokenizer("b", &tokenizer(&["x", "y", "z", "more"]));
    assert_eq!(models.said(LINEAR, "tokenizers_differ"), [""; 0], "ids that only one has are no contradiction");
}

#[test]
fn a_stack_begins_and_ends_as_its_models_do() {
    let models = Models::new();
    let stack = |slices: &[(&str, u32, u32)]| {
        let slices: String =
            slices.iter().map(|(m, a, b)| format!("- sources: [{{model: {m}, layer_range: [{a}, {b}]}}]\n")).collect();
        models.said(&format!("merge_method: passthrough\nslices:\n{slices}"), "first_last_layers").join("\n")
    };
    assert_eq!(stack(&[("a", 0, 3), ("a", 1, 4)]), "");
    assert!(stack(&[("a", 1, 4)]).starts_with("/slices/0 the output begins with layer 1 of \"a\""));
    assert!(stack(&[("a", 0, 3)]).starts_with("/slices/0 the output ends with layer 2 of \"a\", which has 4"));
    assert!(stack(&[("a", 0, 3), ("b", 2, 4)]).contains("as `layer_range: [4, 4]`"));
    assert_eq!(stack(&[("a", 0, 3), ("b", 2, 4), ("a", 4, 4)]), "");
}

#[test]
fn a_plan_says_what_it_leaves_of_each_model() {
    let models = Models::new();
    let text = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 4]}]\n- sources: [{model: b, layer_range: [3, 4]}]\n";
    let recipe = Recipe::parse(text, false).unwrap();
    let access = Access::Under(vec![models.dir.path().to_owned()]);
    let summary = engine::open_and_plan(&recipe, &access, &Settings::default()).unwrap().0.summary(false);
    let [a, b] = summary.inputs.as_slice() else { panic!("two models") };
    // embeddings, layers of `a`; the last layer, norm and head of `b`
    assert_eq!((a.model.as_str(), a.tensors, a.unused_tensors), ("a", 11, 2));
    assert_eq!(a.unused, ["lm_head.weight", "model.norm.weight"]);
    assert_eq!((b.unused_tensors, b.unused[0].as_str()), (7, "model.embed_tokens.weight"));
    let layer = (8 * 8 + 12 * 8) * 4;
    assert_eq!((a.bytes, a.read_bytes), (4 * layer + (2 * 128 + 8) * 4, 4 * layer + 128 * 4));
    assert_eq!(a.read_bytes + b.read_bytes, summary.input_bytes);
}
