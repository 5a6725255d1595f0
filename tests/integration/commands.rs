//! The command line as scripts use it: exit codes, words, JSON.

use std::process::Output;

use serde_json::Value;
use testkit::{Case, golden_dirs};

use crate::{Served, amalgam};

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_example_recipe_is_accepted_and_planned() {
    let recipes = std::fs::read_dir(testkit::workspace().join("examples/recipes")).unwrap();
    let mut count = 0;
    for recipe in recipes.map(|entry| entry.unwrap().path()) {
        let path = recipe.to_str().unwrap();
        assert!(amalgam(&["check", path]).status.success(), "{path}");
        let plan = amalgam(&["plan", path, "--json", "--tensors"]);
        assert!(plan.status.success(), "{path}: {}", told(&plan));
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        assert_eq!(plan["tensor_tasks"].as_array().unwrap().len(), plan["tensors"], "{path}");
        count += 1;
    }
    assert!(count >= 8);
}

#[test]
fn what_must_be_refused_is_refused_by_check_plan_and_merge_with_exit_2() {
    let root = &golden_dirs()[0];
    let out = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for case in Case::all(root) {
        if case.kind() != "error" && (!case.name.starts_with("quirk-") || case.name == "quirk-empty-slices") {
            continue;
        }
        let recipe = case.dir.join("config.yml");
        let recipe = recipe.to_str().unwrap();
        let target = out.path().join(&case.name);
        let commands: [&[&str]; 3] =
            [&["check", recipe], &["plan", recipe], &["merge", recipe, target.to_str().unwrap()]];
        for args in commands {
            let output = std::process::Command::new(crate::BINARY).args(args).current_dir(root).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{args:?}: {}", told(&output));
            assert!(told(&output).contains("config.yml:"), "{}", told(&output));
        }
        assert!(!target.exists());
        refused += 1;
    }
    assert!(refused >= 14);
}

/// Recipes of the guide that many follow, and the shapes of its examples: accepted as they are written.
#[test]
fn guide_recipes_are_known_though_their_models_are_elsewhere() {
    let guide = testkit::workspace().join("tests/recipes");
    let mut count = 0;
    for recipe in std::fs::read_dir(guide).unwrap().map(|entry| entry.unwrap().path()) {
        let path = recipe.to_str().unwrap();
        let check = amalgam(&["check", path, "--json"]);
        assert!(check.status.success(), "{path}: {}", told(&check));
        let said: Value = serde_json::from_slice(&check.stdout).unwrap();
        assert!(!said["models_not_here"].as_array().unwrap().is_empty(), "{path}");
        let plan = amalgam(&["plan", path]);
        assert_eq!(plan.status.code(), Some(2));
        assert!(told(&plan).contains("fetching from the Hub is not supported yet"), "{}", told(&plan));
        count += 1;
    }
    assert!(count >= 11);
    let slerp = amalgam(&["check", "tests/recipes/slerp-slices.yml"]);
    assert!(told(&slerp).contains("takes the first source"), "{}", told(&slerp));
}

#[test]
fn check_needs_no_model_that_could_be_on_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("recipe.yml");
    let text = "merge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: 1}\n  - model: org/b\n    parameters: {weight: 1}\n";
    std::fs::write(&recipe, text).unwrap();
    let check = amalgam(&["check", recipe.to_str().unwrap()]);
    assert!(check.status.success(), "{}", told(&check));
    assert!(String::from_utf8_lossy(&check.stdout).contains("not here: a, org/b"));
    std::fs::write(&recipe, text.replace("org/b", "./some/b")).unwrap();
    assert_eq!(amalgam(&["check", recipe.to_str().unwrap()]).status.code(), Some(2));
    std::fs::write(&recipe, text.replace("weight: 1", "wieght: 1")).unwrap();
    assert_eq!(amalgam(&["check", recipe.to_str().unwrap()]).status.code(), Some(2));
}

#[test]
fn merging_into_something_that_is_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let merge = |recipe: &str| amalgam(&["merge", recipe, out.to_str().unwrap(), "--json"]);
    let first = merge("examples/recipes/linear.yml");
    let said: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert!(said["publication"]["bytes"].as_u64().unwrap() > 1_000_000);
    // the same merge again finds it whole; another one would have to replace it
    assert!(merge("examples/recipes/linear.yml").status.success());
    assert_eq!(merge("examples/recipes/ties.yml").status.code(), Some(2));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_recipe_that_is_not_there_and_a_server_that_is_not_there_are_told_apart() {
    assert_eq!(amalgam(&["check", "nosuch.yml"]).status.code(), Some(2));
    let unreachable = amalgam(&["jobs", "--url", "http://127.0.0.1:1", "--patience", "0"]);
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(told(&unreachable).contains("cannot reach"));
}

#[test]
fn submit_watch_and_jobs_speak_to_a_server() {
    let served = Served::start(&[]);
    let url = served.server.url.as_str();
    let submit = amalgam(&["submit", "examples/recipes/linear.yml", "--url", url, "--watch"]);
    assert!(submit.status.success(), "{}", told(&submit));
    let stdout = String::from_utf8(submit.stdout).unwrap();
    let id = stdout.lines().next().unwrap();
    let watch = amalgam(&["watch", id, "--url", url, "--json"]);
    assert!(watch.status.success());
    let last: Value = serde_json::from_str(String::from_utf8(watch.stdout).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "end");
    let jobs = amalgam(&["jobs", "--url", url, "--status", "succeeded", "--json"]);
    assert!(String::from_utf8(jobs.stdout).unwrap().contains(id));
    let refused = amalgam(&["submit", "tests/golden/golden/error-no-base/config.yml", "--url", url]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(told(&refused).contains("line 3, column 3"), "{}", told(&refused));
    assert_eq!(amalgam(&["watch", "job_0", "--url", url]).status.code(), Some(2));
}

#[test]
fn the_demo_runs_once_and_says_where_the_model_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let demo = amalgam(&["demo", "--once", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&demo.stdout).into_owned();
    assert!(demo.status.success(), "{said}{}", told(&demo));
    let place = said.lines().find_map(|l| l.strip_prefix("merged model  ")).unwrap();
    assert!(std::path::Path::new(place).join("model.safetensors").exists());
    assert!(said.contains("sha256") && said.contains("curl"));
}
