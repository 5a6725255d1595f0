//! Jobs whose recipe has several documents.

use serde_json::{Value, json};
use testkit::read_checkpoint;

use crate::{Served, amalgam, end_of, published_dir};

/// `both` is made of two models, `all` of it and a third, and the result again of these; `both` is kept.
const RECIPE: &str = "\
name: both
keep: true
merge_method: linear
models:
  - {model: examples/models/upper, parameters: {weight: 1}}
  - {model: examples/models/reverse, parameters: {weight: 1}}
---
name: all
merge_method: slerp
base_model: both
models: [{model: both}, {model: examples/models/sort}]
parameters: {t: 0.5}
---
merge_method: task_arithmetic
base_model: examples/models/base
models: [{model: all, parameters: {weight: 0.8}}]
";

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn one_job_makes_all_stages_and_publishes_what_is_kept() {
    let mut served = Served::start(&[]);
    let client = served.client();
    let job = client.submit(RECIPE.to_owned(), &[]).await.unwrap();
    assert_eq!(job["method"], "task_arithmetic");
    let id = job["id"].as_str().unwrap();
    let mut watch = client.watch(id);
    let mut told = Vec::new();
    while let Some(event) = watch.next().await.unwrap() {
        if !["progress", "snapshot", "warning"].contains(&event.kind.as_str()) {
            told.push((event.kind, event.data["data"]["stage"].as_str().unwrap_or("").to_owned()));
        }
    }
    let told: Vec<(&str, &str)> = told.iter().map(|(kind, stage)| (kind.as_str(), stage.as_str())).collect();
    let planned = [("planned", "both"), ("planned", "all"), ("planned", "")];
    let expected = [
        &[("queued", ""), ("started", ""), ("fetched", "")][..],
        &planned,
        &[("merged", ""), ("published", ""), ("succeeded", ""), ("end", "")],
    ];
    assert_eq!(told, expected.concat());

    let job = end_of(&client, id).await;
    let dir = published_dir(&job);
    assert_eq!(files(&dir.join("stages")), ["both"]);
    for file in job["publication"]["files"].as_array().unwrap() {
        let path = dir.join(file["path"].as_str().unwrap());
        assert_eq!(checkpoint::digest_file(&path).unwrap(), file["sha256"], "{}", path.display());
    }
    assert_eq!(job["progress"]["bytes_done"], job["progress"]["bytes_total"]);
    let manifest: Value = serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["plan_digest"], &manifest["stages"][1]["name"]), (&job["plan_digest"], &json!("all")));
    assert!(served.server.terminate());
    assert_eq!(std::fs::read_dir(served.dir.path().join("data/work")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_command_line_writes_the_same_and_finds_it_again() {
    let served = Served::start(&[]);
    let client = served.client();
    let job = client.submit(RECIPE.to_owned(), &[]).await.unwrap();
    let dir = published_dir(&end_of(&client, job["id"].as_str().unwrap()).await);
    let recipe = served.dir.path().join("recipe.yml");
    std::fs::write(&recipe, RECIPE).unwrap();
    let (recipe, out) = (recipe.to_str().unwrap(), served.dir.path().join("out/merged"));
    for _ in 0..2 {
        let merged = amalgam(&["merge", recipe, out.to_str().unwrap(), "--threads", "1"]);
        assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    }
    for below in ["", "stages/both"] {
        assert_eq!(read_checkpoint(&out.join(below)), read_checkpoint(&dir.join(below)));
        assert_eq!(files(&out.join(below)), files(&dir.join(below)));
    }
    assert_eq!(files(out.parent().unwrap()), ["merged"]);

    let plan = amalgam(&["plan", recipe, "--json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["stages"].as_array().unwrap().len(), 3);
    let printed = String::from_utf8(amalgam(&["plan", recipe]).stdout).unwrap();
    assert!(printed.contains("stage       all: slerp of both, examples/models/sort"), "{printed}");
    assert!(amalgam(&["check", recipe]).status.success());
    std::fs::write(recipe, RECIPE.replace("models/sort", "models/srot")).unwrap();
    for command in ["check", "plan"] {
        let refused = amalgam(&[command, recipe]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("recipe.yml:11:33: /1/models/1/model: model \"examples/models/srot\""), "{said}");
    }
}

#[tokio::test]
async fn a_server_killed_between_stages_takes_the_job_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    for name in ["a", "b"] {
        testkit::sparse_checkpoint(&models.join(name), 200 << 20);
    }
    let mut server = crate::start_server(&dir.path().join("data"), &models, &["--threads", "1"]);
    let linear = |name: &str, first: &str| {
        format!(
            "{name}merge_method: linear\nmodels: [{{model: {first}, parameters: {{weight: 1}}}}, {{model: b, parameters: {{weight: 1}}}}]\n"
        )
    };
    let recipe = [linear("name: first\n", "a"), linear("name: second\n", "first"), linear("", "second")].join("---\n");
    let job = client::Client::new(&server.url).unwrap().submit(recipe, &[]).await.unwrap();
    let id = job["id"].as_str().unwrap().to_owned();
    let work = dir.path().join("data/work").join(&id);
    let has_begun = || {
        let plan = std::fs::read_dir(&work).ok().and_then(|mut plans| plans.next());
        plan.is_some_and(|plan| plan.unwrap().path().join("stages/second").exists())
    };
    let waiting = std::time::Instant::now();
    while !has_begun() && waiting.elapsed().as_secs() < 60 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    server.kill();
    assert!(has_begun(), "the second stage has begun");
    server.restart();
    let client = client::Client::new(&server.url).unwrap();
    let job = tokio::time::timeout(std::time::Duration::from_secs(90), end_of(&client, &id)).await.unwrap();
    assert_eq!((&job["status"], &job["attempt"]), (&json!("succeeded"), &json!(2)), "{job}");
    assert!(!published_dir(&job).join("stages").exists());
}
