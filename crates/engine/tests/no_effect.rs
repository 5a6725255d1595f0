//! What is known and changes nothing is accepted with a warning at its place.

use recipe::{Problem, Recipe, Refusal};

const MODELS: &str = "models:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 2}}\n";

fn checked(text: &str) -> Result<Vec<Problem>, Refusal> {
    engine::check(&Recipe::parse(text, false)?)
}

fn place(problem: &Problem) -> (&str, Option<u32>, &str) {
    (problem.pointer.as_str(), problem.line, problem.code.as_str())
}

fn no_effect(text: &str) -> Vec<(String, Option<u32>)> {
    let warnings = checked(text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
    warnings.into_iter().filter(|w| w.code == "no_effect").map(|w| (w.pointer, w.line)).collect()
}

#[test]
fn a_setting_for_all_that_every_model_sets_for_itself() {
    let of_all = "merge_method: linear\nparameters: {weight: 3, normalize: true}\n";
    assert_eq!(no_effect(&format!("{of_all}{MODELS}")), [("/parameters/weight".to_owned(), Some(2))]);
    assert!(no_effect(&format!("{of_all}{}", MODELS.replace("weight: 2", ""))).is_empty());
    // a filter lets the common setting through for the rest
    let filtered = MODELS.replace("weight: 2", "weight: [{filter: mlp, value: 2}]");
    assert!(no_effect(&format!("{of_all}{filtered}")).is_empty());
}

#[test]
fn a_seed_where_nothing_is_drawn() {
    let seeded = |method: &str| format!("merge_method: {method}\noptions: {{random_seed: 1}}\nbase_model: c\n{MODELS}");
    assert_eq!(no_effect(&seeded("ties")), [("/options/random_seed".to_owned(), Some(2))]);
    assert!(no_effect(&seeded("dare_ties").replace("weight: 1", "weight: 1, density: 0.5")).is_empty());
}

#[test]
fn float64_beside_an_output_dtype() {
    let of = |dtypes: &str| format!("merge_method: linear\n{dtypes}\n{MODELS}");
    assert_eq!(no_effect(&of("dtype: float64\nout_dtype: bfloat16")), [("/dtype".to_owned(), Some(2))]);
    let refusal = checked(&of("dtype: float64")).unwrap_err().to_string();
    assert!(refusal.contains("write float32"), "{refusal}");
}

#[test]
fn a_misspelt_parameter_is_placed_at_its_name() {
    let refusal =
        checked(&format!("merge_method: linear\nparameters:\n  normalise:\n\n    true\n{MODELS}")).unwrap_err();
    let found: Vec<_> = refusal.problems.iter().map(place).collect();
    assert_eq!(found, [("/parameters/normalise", Some(3), "unknown_parameter")]);
}

#[test]
fn numbers_that_begin_with_zero_are_octal_as_the_recipes_other_readers_have_them() {
    let recipe =
        Recipe::parse("merge_method: linear\nmodels: [{model: a, parameters: {weight: 010}}]\n", false).unwrap();
    let recipe::Content::Models(models) = &recipe.content else { panic!("models") };
    assert_eq!(models[0].parameters["weight"].scalars().next().and_then(recipe::Scalar::number), Some(8.0));
}
