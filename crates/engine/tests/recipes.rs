//! The corpus of recipes: what is accepted is accepted as it stands and planned, what is refused is refused with the mend.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use checkpoint::{Access, Dtype};
use engine::methods::METHODS;
use engine::{Settings, Sources};
use recipe::{Content, Draft, ModuleContent, OutputSlice, Recipe, Refusal};
use serde_json::json;
use testkit::TinyCheckpoint;

/// Name and text of every recipe in a folder of the repository, by name.
fn recipes(folder: &str) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(testkit::workspace().join(folder)).unwrap();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "yml"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn checked(text: &str) -> Result<Recipe, Refusal> {
    let recipe = Recipe::parse(text, false)?;
    engine::check(&recipe)?;
    Ok(recipe)
}

#[test]
fn every_recipe_says_what_it_shows_and_is_accepted() {
    let corpus = recipes("tests/recipes");
    assert!(corpus.len() >= 50, "{}", corpus.len());
    for (name, text) in &corpus {
        assert!(text.starts_with("# "), "{name} does not say what it shows");
        checked(text).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    }
}

/// Recipes that the pages of the documentation show, in all their variants and stages.
#[test]
fn what_the_documentation_shows_is_accepted() {
    let mut shown = 0;
    for page in ["README.md", "docs/recipes.md", "docs/adapters.md"] {
        let text = std::fs::read_to_string(testkit::workspace().join(page)).unwrap();
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks.filter(|block| block.contains("merge_method")) {
            for variant in Draft::from_yaml(block).unwrap().variants().unwrap() {
                let stages = variant.stages(false).unwrap_or_else(|refusal| panic!("{page}: {block}{refusal}"));
                shown += 1;
                // without the models nothing tells adapters from models
                if page != "docs/adapters.md" {
                    let checked = engine::check_stages(&stages, &Access::Under(Vec::new()));
                    checked.unwrap_or_else(|refusal| panic!("{page}: {block}{refusal}"));
                }
            }
        }
    }
    assert!(shown >= 8, "{shown}");
}

/// What is stored of a recipe is the recipe.
#[test]
fn every_recipe_is_read_back_as_it_was_written() {
    for (name, text) in recipes("tests/recipes").into_iter().chain(recipes("examples/recipes")) {
        let written = serde_json::to_value(checked(&text).unwrap()).unwrap();
        let again = checked(&written.to_string()).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert_eq!(serde_json::to_value(again).unwrap(), written, "{name}");
    }
}

#[test]
fn every_method_has_a_recipe() {
    let used: BTreeSet<String> =
        recipes("tests/recipes").values().map(|text| checked(text).unwrap().merge_method).collect();
    for method in METHODS.iter().map(|m| m.about().name) {
        assert!(used.contains(method), "no recipe uses {method}");
    }
}

/// Unknown names are warnings in one recipe of the corpus; in the others nothing is unknown or without effect, but for what
/// old recipes carry along.
#[test]
fn what_is_said_of_the_corpus_is_advice() {
    let mut told = String::new();
    for (name, text) in recipes("tests/recipes") {
        let warnings = engine::check(&checked(&text).unwrap()).unwrap();
        for warning in warnings.iter().filter(|w| w.code != "evaluate") {
            writeln!(told, "{name}: {}: {warning}", warning.code).unwrap();
        }
    }
    insta::assert_snapshot!(told);
}

#[test]
fn what_is_refused_is_told_where_and_what_to_write() {
    let mut told = String::new();
    for (name, text) in recipes("tests/refused") {
        assert!(text.starts_with("# "), "{name} does not say what it shows");
        let refusal = checked(&text).err().unwrap_or_else(|| panic!("{name} is accepted"));
        for problem in refusal.problems {
            writeln!(told, "{name}: {}: {problem}", problem.code).unwrap();
        }
        for warning in refusal.warnings {
            writeln!(told, "{name}: warning {}: {warning}", warning.code).unwrap();
        }
    }
    insta::assert_snapshot!(told);
}

/// Models of the corpus are stood in for by tiny ones under the same names. Those that an engine alone cannot open, pinned or
/// adapted, are left to the layers that fetch them.
#[test]
fn recipes_plan_on_models_of_their_shape() {
    let root = tempfile::tempdir().unwrap();
    let mut planned = 0;
    for (name, text) in recipes("tests/recipes") {
        let recipe = checked(&text).unwrap();
        let models = recipe.models();
        let plain = models.iter().all(|(_, m)| m.revision.is_none() && m.lora.is_none());
        if !plain || matches!(recipe.content, Content::Modules(_)) {
            continue;
        }
        let root = root.path().join(&name);
        for (_, model) in &models {
            stand_in(&root.join(&model.path), layers(&recipe));
        }
        let access = Access::Under(vec![root]);
        let (plan, _) = engine::open_and_plan(&recipe, &access, &Settings::default())
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        assert!(plan.summary(true).tensor_tasks.unwrap().len() > 4, "{name}");
        planned += 1;
    }
    assert!(planned >= 45, "{planned}");
}

#[test]
fn examples_plan_on_the_models_they_name() {
    let access = Access::Under(vec![testkit::workspace()]);
    for (name, text) in recipes("examples/recipes") {
        let recipe = checked(&text).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let sources = Sources::open(&recipe, &access).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        engine::plan(&recipe, &sources, &Settings::default()).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    }
}

/// A llama whose values do not depend on its name: it is the shape that matters.
fn stand_in(dir: &Path, layers: u32) {
    TinyCheckpoint::llama(layers as usize, Dtype::BF16, 1).write(dir);
    let vocab: BTreeMap<String, u32> = (0..16).map(|id| (format!("t{id}"), id)).chain([("</s>".into(), 15)]).collect();
    let vocab: BTreeMap<_, _> = vocab.into_iter().filter(|(token, _)| token != "t15").collect();
    let tokenizer = json!({"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}, "added_tokens": []});
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// As many layers as any slice asks for.
fn layers(recipe: &Recipe) -> u32 {
    let of_slices =
        |slices: &[OutputSlice]| slices.iter().flat_map(|s| &s.sources).map(|s| s.layer_range.end).max().unwrap_or(1);
    match &recipe.content {
        Content::Models(_) => 2,
        Content::Slices(slices) => of_slices(slices),
        Content::Modules(modules) => modules
            .iter()
            .map(|(_, module)| match &module.content {
                ModuleContent::Models(_) => 2,
                ModuleContent::Slices(slices) => of_slices(slices),
            })
            .max()
            .unwrap_or(2),
    }
}
