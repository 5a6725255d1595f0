//! One recipe with variants: from the text to a model for each.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use testkit::read_checkpoint;

use crate::{Served, amalgam, example};

const GRID: &str = "\ngrid:\n  models:\n    examples/models/upper: {weight: [1, 3]}\n";

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn written(dir: &Path, text: &str) -> String {
    let path = dir.join("recipe.yml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    read_checkpoint(dir).into_iter().map(|(name, tensor)| (name, tensor.bytes)).collect()
}

#[tokio::test]
async fn a_submitted_grid_ends_as_a_table_of_models_that_can_be_made_again_alone() {
    let served = Served::start(&[]);
    let url = served.server.url.as_str();
    let recipe = written(served.dir.path(), &(example("linear.yml") + GRID));
    let submit = amalgam(&["submit", &recipe, "--url", url, "--output", "sweep", "--watch"]);
    let (stdout, stderr) = told(&submit);
    assert!(submit.status.success(), "{stdout}{stderr}");
    let group = stdout.lines().next().unwrap();
    let head = "variant         examples/models/upper.weight  status     result\n";
    assert!(stdout.contains(head) && stdout.contains("sweep/upper.weight-3\n"), "{stdout}");

    let said = served.client().group(group).await.unwrap();
    assert_eq!((&said["status"], &said["counts"]["succeeded"]), (&"succeeded".into(), &2.into()));
    let dir = |i: usize| {
        let uri = said["jobs"][i]["uri"].as_str().unwrap();
        std::path::PathBuf::from(uri.trim_start_matches("file://"))
    };
    assert!(dir(1).ends_with("artifacts/sweep/upper.weight-3"), "{said}");
    assert_ne!(bytes(&dir(0)), bytes(&dir(1)));

    let again = served.dir.path().join("again");
    let its_recipe = dir(1).join("recipe.yml");
    let merged = amalgam(&["merge", its_recipe.to_str().unwrap(), again.to_str().unwrap()]);
    assert!(merged.status.success(), "{}", told(&merged).1);
    assert_eq!(bytes(&again), bytes(&dir(1)));

    let jobs = told(&amalgam(&["jobs", "--url", url, "--group", group])).0;
    assert_eq!((jobs.lines().count(), jobs.contains("upper.weight-3")), (2, true), "{jobs}");
    let cancelled = told(&amalgam(&["cancel", group, "--url", url])).0;
    assert_eq!(cancelled.trim(), "succeeded");
    assert!(amalgam(&["watch", group, "--url", url]).status.success());
}

#[test]
fn merge_makes_one_variant_and_check_and_plan_see_all() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = written(dir.path(), &(example("linear.yml") + GRID));
    let out = dir.path().join("out");
    let merge = |more: &[&str]| amalgam(&[&["merge", &recipe, out.to_str().unwrap()], more].concat());
    for (more, word) in [(&[][..], "--variant NAME"), (&["--variant", "strong"], "upper.weight-1, upper.weight-3")] {
        let refused = merge(more);
        assert_eq!(refused.status.code(), Some(2));
        assert!(told(&refused).1.contains(word), "{}", told(&refused).1);
    }
    let one = merge(&["--variant", "upper.weight-3"]);
    assert!(one.status.success(), "{}", told(&one).1);
    assert!(std::fs::read_to_string(out.join("recipe.yml")).unwrap().starts_with("# variant upper.weight-3\n"));

    let check = told(&amalgam(&["check", &recipe])).0;
    assert_eq!(check, "variants: upper.weight-1, upper.weight-3\nok\n");
    let plan = told(&amalgam(&["plan", &recipe, "--json"])).0;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((&plan["data"][1]["variant"], plan["data"].as_array().unwrap().len()), (&"upper.weight-3".into(), 2));
}

#[test]
fn a_mistake_in_one_variant_is_told_at_its_line_by_check_plan_and_submit() {
    let served = Served::start(&["--workers", "0"]);
    let text = "merge_method: linear\nmodels: [{model: examples/models/upper, parameters: {weight: 1}}]\nvariants:\n- name: good\n- name: bad\n  dtype: flaot16\n";
    let recipe = written(served.dir.path(), text);
    let url = served.server.url.as_str();
    let commands: [&[&str]; 3] = [&["check", &recipe], &["plan", &recipe], &["submit", &recipe, "--url", url]];
    for args in commands {
        let refused = amalgam(args);
        let (_, stderr) = told(&refused);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {stderr}");
        let is_placed = stderr.contains("recipe.yml:6:10: ") || stderr.contains("line 6, column 10: ");
        assert!(is_placed && stderr.contains("/variants/1/dtype: variant \"bad\": "), "{args:?}: {stderr}");
    }
    assert_eq!(told(&amalgam(&["jobs", "--url", url])).0, "");
}
