//! Recipes of several documents through the public functions of the engine.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::{Access, Dtype};
use engine::{Artifact, ExecuteError, Observer, Progress, Settings, StagedPlan};
use recipe::{Recipe, Refusal, Stages};
use serde_json::{Value, json};
use testkit::TinyCheckpoint;

struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    /// Llamas a, b, c and d: of two dtypes, one of them with a head that is tied, two with vocabularies that differ.
    fn new() -> Models {
        let dir = tempfile::tempdir().unwrap();
        for (name, seed, dtype) in
            [("a", 1, Dtype::BF16), ("b", 2, Dtype::BF16), ("c", 3, Dtype::F32), ("d", 4, Dtype::F32)]
        {
            let mut model = TinyCheckpoint::llama(3, dtype, seed);
            model.config["rms_norm_eps"] = json!(1e-5);
            if name == "c" {
                model.tensors.remove("lm_head.weight");
                model.config["tie_word_embeddings"] = true.into();
            }
            let at = dir.path().join(name);
            model.write(&at);
            std::fs::write(at.join("tokenizer.json"), tokenizer(if name == "b" { "x" } else { "y" })).unwrap();
            std::fs::write(at.join("generation_config.json"), format!("{{\"of\": {name:?}}}")).unwrap();
        }
        Models { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn access(&self) -> Access {
        Access::Under(vec![self.dir.path().to_owned()])
    }

    fn plan(&self, text: &str) -> Result<StagedPlan, Refusal> {
        engine::open_and_plan_stages(Stages::parse(text, false)?, &self.access(), &settings())
    }

    fn planned(&self, text: &str) -> StagedPlan {
        self.plan(text).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    fn merge(&self, text: &str, out: &Path) -> Artifact {
        let observer = Observer { on_progress: &|_| {}, cancel: &AtomicBool::new(false) };
        engine::execute_stages(self.planned(text), text, out, &observer).unwrap()
    }

    /// One document merged as it was before there were stages.
    fn merge_alone(&self, text: &str, out: &Path) {
        let recipe = Recipe::parse(text, false).unwrap();
        let (plan, sources) = engine::open_and_plan(&recipe, &self.access(), &settings()).unwrap();
        let observer = Observer { on_progress: &|_| {}, cancel: &AtomicBool::new(false) };
        engine::execute(&plan, &sources, text, out, &observer).unwrap();
    }
}

fn settings() -> Settings {
    Settings { threads: 2, ..Settings::default() }
}

/// Sixteen tokens, the last of which is `special`.
fn tokenizer(special: &str) -> String {
    let vocab: serde_json::Map<String, Value> = (0..15).map(|id| (format!("t{id}"), json!(id))).collect();
    let added = json!([{"id": 15, "content": special, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true}]);
    json!({"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}).to_string()
}

/// Content of each file by its path below `dir`.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                left.push(entry);
            } else {
                let name = entry.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&entry).unwrap());
            }
        }
    }
    found
}

/// All that a model is loaded from.
fn model_files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let about = ["README.md", "recipe.yml", "manifest.json"];
    content(dir).into_iter().filter(|(name, _)| !about.contains(&name.as_str())).collect()
}

fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap()
}

fn codes(refusal: &Refusal) -> Vec<(&str, &str)> {
    refusal.problems.iter().map(|p| (p.pointer.as_str(), p.code.as_str())).collect()
}

const LINEAR: &str =
    "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 0.3}}\n- {model: b, parameters: {weight: 1}}\n";

/// Pairs of documents: what the first leaves is what the second needs to know.
const PAIRS: [(&str, &str); 6] = [
    ("", "merge_method: slerp\nbase_model: first\nmodels: [{model: first}, {model: d}]\nparameters: {t: [0.2, 0.9]}\n"),
    // random numbers, and the stage as base
    (
        "dtype: float32\n",
        "merge_method: dare_ties\nbase_model: first\nmodels: [{model: a, parameters: {weight: 1, density: 0.5}}, {model: d, parameters: {weight: 0.5, density: 0.4}}]\n",
    ),
    // a vocabulary merged, then carried on
    ("tokenizer: {source: union}\n", "merge_method: passthrough\nmodels: [{model: first}]\n"),
    // a vocabulary merged with one that was merged
    (
        "tokenizer: {source: union, pad_to_multiple_of: 8}\n",
        "merge_method: linear\nmodels: [{model: d}, {model: first}]\ntokenizer: {source: first}\n",
    ),
    // shards, read by slices
    (
        "options: {out_shard_size: 600}\n",
        "merge_method: passthrough\nslices:\n- sources: [{model: first, layer_range: [0, 2]}]\n- sources: [{model: d, layer_range: [1, 3]}]\n- sources: [{model: first, layer_range: [1, 3]}]\n",
    ),
    // a head that the second finds tied or not
    (
        "",
        "merge_method: task_arithmetic\nbase_model: c\nmodels: [{model: first, parameters: {weight: 0.5}}]\ntokenizer_source: base\n",
    ),
];

#[test]
fn two_stages_make_what_two_merges_by_hand_make() {
    for (more, second) in PAIRS {
        let models = Models::new();
        let first = format!("{LINEAR}{more}");
        let text = format!("name: first\n{first}---\n{second}");
        let staged = models.path("staged");
        models.merge(&text, &staged);
        models.merge_alone(&first, &models.path("first"));
        models.merge_alone(second, &models.path("by-hand"));
        let (staged, by_hand) = (model_files(&staged), model_files(&models.path("by-hand")));
        assert_eq!(staged.keys().collect::<Vec<_>>(), by_hand.keys().collect::<Vec<_>>(), "{text}");
        for (name, bytes) in &by_hand {
            assert!(staged[name] == *bytes, "{name} of {text}");
        }
    }
}

#[test]
fn one_document_makes_the_same_artifact_as_without_stages() {
    let models = Models::new();
    let text = format!("name: x\n{LINEAR}");
    models.merge(&text, &models.path("staged"));
    models.merge_alone(&text, &models.path("alone"));
    assert_eq!(content(&models.path("staged")), content(&models.path("alone")));
}

#[test]
fn what_is_wrong_with_a_later_stage_is_found_from_plans_alone() {
    let models = Models::new();
    let before = content(models.dir.path());
    let (second, third) = (
        "name: second\nmerge_method: passthrough\nslices: [{sources: [{model: first, layer_range: [0, 2]}]}]\n",
        "merge_method: passthrough\nslices: [{sources: [{model: second, layer_range: [0, 3]}]}]\n",
    );
    let refusal = models.plan(&format!("name: first\n{LINEAR}---\n{second}---\n{third}")).unwrap_err();
    assert_eq!(codes(&refusal), [("/2/slices/0/sources/0/layer_range", "layer_out_of_range")]);
    assert_eq!(refusal.problems[0].line, Some(12), "{refusal}");
    assert!(refusal.problems[0].detail.contains("\"second\", which has 2"), "{refusal}");
    // a vocabulary that grew
    let third = "merge_method: linear\nmodels: [{model: first}, {model: d}]\n";
    let refusal = models.plan(&format!("name: first\n{LINEAR}tokenizer: {{source: union}}\n---\n{third}")).unwrap_err();
    assert!(codes(&refusal).iter().all(|found| *found == ("/1/models", "shape_mismatch")), "{refusal}");
    assert_eq!(content(models.dir.path()), before);
}

#[test]
fn mistakes_of_all_documents_are_told_at_once() {
    let models = Models::new();
    let second = "name: second\nmerge_method: linear\nmodels: [{model: first}, {model: nowhere}]\n";
    let third = "merge_method: linear\nmodels: [{model: second}, {model: gone}]\n";
    let refusal = models.plan(&format!("name: first\n{LINEAR}---\n{second}---\n{third}")).unwrap_err();
    assert_eq!(codes(&refusal), [("/1/models/1/model", "model_not_found"), ("/2/models/1/model", "model_not_found")]);
    let text =
        "name: first\nmerge_method: liner\nmodels: [{model: a}]\n---\nmerge_method: tis\nmodels: [{model: first}]\n";
    let refusal = models.plan(text).unwrap_err();
    assert_eq!(codes(&refusal), [("/0/merge_method", "unknown_method"), ("/1/merge_method", "unknown_method")]);
}

/// Three stages, of which each uses the one before it.
fn chain(keep: &str) -> String {
    let second = "merge_method: slerp\nbase_model: first\nmodels: [{model: first}, {model: d}]\nparameters: {t: 0.5}\n";
    let third = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: second}]\nparameters: {t: 0.4}\n";
    let kept = |name: &str| if name == keep { "keep: true\n" } else { "" };
    format!("name: first\n{}{LINEAR}---\n{third}---\nname: second\n{}{second}", kept("first"), kept("second"))
}

#[test]
fn a_stage_is_there_only_while_a_later_one_needs_it() {
    let models = Models::new();
    let (text, out) = (chain(""), models.path("out"));
    let seen: Mutex<BTreeSet<(bool, bool)>> = Mutex::default();
    let on_progress = |_: Progress| {
        let is_there = |name: &str| out.join("stages").join(name).exists();
        seen.lock().unwrap().insert((is_there("first"), is_there("second")));
    };
    let observer = Observer { on_progress: &on_progress, cancel: &AtomicBool::new(false) };
    let artifact = engine::execute_stages(models.planned(&text), &text, &out, &observer).unwrap();
    let expected = BTreeSet::from([(true, false), (true, true), (false, true)]);
    assert_eq!(*seen.lock().unwrap(), expected);
    let files: BTreeSet<&str> = artifact.files.iter().map(|f| f.path.as_str()).chain(["manifest.json"]).collect();
    assert_eq!(content(&out).keys().map(String::as_str).collect::<BTreeSet<_>>(), files);
    assert!(!out.join("stages").exists());
}

#[test]
fn a_stage_that_is_used_twice_is_there_for_both() {
    let models = Models::new();
    let (text, out) = (
        chain("").replace("base_model: a\nmodels: [{model: a}", "base_model: first\nmodels: [{model: first}"),
        models.path("out"),
    );
    assert!(text.matches("model: first").count() > 3, "{text}");
    let plan = models.planned(&text);
    let all: u64 = plan.stages().iter().map(|s| s.plan.summary(false).disk_bytes).sum();
    assert_eq!(plan.summary(false).disk_bytes, all);
    models.merge(&text, &out);
    assert!(!out.join("stages").exists());
}

#[test]
fn a_kept_stage_is_in_the_artifact_with_its_digests() {
    let models = Models::new();
    let (plain, out) = (models.path("plain"), models.path("out"));
    models.merge(&chain(""), &plain);
    let artifact = models.merge(&chain("first"), &out);
    let files: BTreeMap<&str, &str> = artifact.files.iter().map(|f| (f.path.as_str(), f.sha256.as_str())).collect();
    for (name, bytes) in content(&out).iter().filter(|(name, _)| *name != "manifest.json") {
        assert_eq!(checkpoint::digest_bytes(bytes), files[name.as_str()], "{name}");
    }
    assert!(files.contains_key("stages/first/manifest.json") && !out.join("stages/second").exists());
    // keeping changes nothing of the model
    let mut kept = model_files(&out);
    kept.retain(|name, _| !name.starts_with("stages/"));
    assert_eq!(kept, model_files(&plain));
    models.merge_alone(LINEAR, &models.path("alone"));
    assert_eq!(
        model_files(&out.join("stages/first"))["model.safetensors"],
        model_files(&models.path("alone"))["model.safetensors"]
    );
}

#[test]
fn the_manifest_tells_of_every_stage_and_the_card_of_the_models_behind_them() {
    let models = Models::new();
    let out = models.path("out");
    let plan = models.planned(&chain("second"));
    let digests: Vec<String> = plan.stages().iter().map(|s| s.plan.digest.clone()).collect();
    models.merge(&chain("second"), &out);
    let manifest = manifest(&out);
    assert_eq!(manifest["plan_digest"], digests[2]);
    let told: Vec<_> =
        manifest["stages"].as_array().unwrap().iter().map(|s| (&s["name"], &s["kept"], &s["plan_digest"])).collect();
    assert_eq!(
        told,
        [(&json!("first"), &json!(false), &json!(digests[0])), (&json!("second"), &json!(true), &json!(digests[1]))]
    );
    let input = checkpoint::digest_file(&models.path("b/model.safetensors")).unwrap();
    assert_eq!(manifest["stages"][0]["inputs"][1]["files"][0]["sha256"], input);
    assert_eq!(manifest["stages"][0]["recipe"]["name"], "first");
    let made = checkpoint::digest_file(&out.join("stages/second/model.safetensors")).unwrap();
    assert_eq!(
        manifest["inputs"][1],
        json!({"model": "second", "files": [{"path": "model.safetensors", "sha256": made,
        "bytes": std::fs::metadata(out.join("stages/second/model.safetensors")).unwrap().len()}]})
    );
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("base_model:\n- a\n- b\n- d\nbase_model_relation"), "{card}");
    assert!(card.contains("- `second`, a stage of the recipe\n- `b`, through a stage\n"), "{card}");
}

#[test]
fn the_digest_follows_everything_behind_the_result() {
    let models = Models::new();
    let digest = |text: &str| models.planned(text).digest().to_owned();
    let first = digest(&chain(""));
    assert_eq!(first, digest(&chain("")));
    assert_ne!(first, digest(&chain("first")));
    assert_ne!(first, digest(&chain("").replace("weight: 0.3", "weight: 0.31")));
    TinyCheckpoint::llama(3, Dtype::BF16, 9).write(&models.path("b"));
    let file = std::fs::File::options().write(true).open(models.path("b/model.safetensors")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_ne!(first, digest(&chain("")), "an input of the first stage");
}

#[test]
fn progress_runs_over_all_stages_once() {
    let models = Models::new();
    let (text, out) = (chain(""), models.path("out"));
    let told: Mutex<Vec<Progress>> = Mutex::default();
    let observer = Observer { on_progress: &|p| told.lock().unwrap().push(p), cancel: &AtomicBool::new(false) };
    engine::execute_stages(models.planned(&text), &text, &out, &observer).unwrap();
    let told = told.into_inner().unwrap();
    let (last, tensors) = (told.iter().max_by_key(|p| p.bytes_done).unwrap(), 9 * 3);
    assert!(told.iter().all(|p| (p.bytes_total, p.tensors_total) == (last.bytes_total, tensors)));
    assert_eq!((last.bytes_done, told.iter().map(|p| p.tensors_done).max()), (last.bytes_total, Some(tensors)));
}

#[test]
fn a_merge_can_be_cancelled_in_any_stage() {
    let models = Models::new();
    let text = chain("first");
    for tensors in [0, 9, 18] {
        let cancel = AtomicBool::new(false);
        let on_progress = |p: Progress| {
            cancel.fetch_or(p.tensors_done > tensors, Ordering::Relaxed);
        };
        let observer = Observer { on_progress: &on_progress, cancel: &cancel };
        let out = models.path("out");
        let cancelled = engine::execute_stages(models.planned(&text), &text, &out, &observer);
        assert!(matches!(cancelled, Err(ExecuteError::Cancelled)), "{tensors}");
    }
    // what was left of them is in nobody's way
    models.merge(&text, &models.path("out"));
    models.merge(&text, &models.path("fresh"));
    assert_eq!(content(&models.path("out")), content(&models.path("fresh")));
}

#[test]
fn a_stage_that_fails_is_named() {
    let models = Models::new();
    let mut wild = TinyCheckpoint::llama(3, Dtype::F32, 5);
    wild.set("model.norm.weight", Dtype::F32, &[8], &[1e30; 8]);
    wild.write(&models.path("wild"));
    let second = "name: second\nmerge_method: passthrough\nmodels: [{model: first, parameters: {scale: 1e10}}]\n";
    let third = "merge_method: passthrough\nmodels: [{model: second}]\n";
    let text = format!("name: first\n{}---\n{second}---\n{third}", LINEAR.replace("model: a", "model: wild"));
    let observer = Observer { on_progress: &|_| {}, cancel: &AtomicBool::new(false) };
    let error = engine::execute_stages(models.planned(&text), &text, &models.path("out"), &observer).unwrap_err();
    assert!(error.to_string().starts_with("stage \"second\": element 0 of tensor"), "{error}");
    assert!(matches!(error.root_cause(), ExecuteError::NotFinite { .. }) && !error.is_transient());
}

#[test]
fn a_summary_tells_of_all_stages_and_of_the_most_room_needed_at_once() {
    let models = Models::new();
    let plan = models.planned(&chain(""));
    let summary = plan.summary(false);
    let told: Vec<_> = summary.stages.iter().map(|s| (s.name.as_deref(), s.method, s.tensors, s.kept)).collect();
    assert_eq!(
        told,
        [(Some("first"), "linear", 9, false), (Some("second"), "slerp", 9, false), (None, "slerp", 9, true)]
    );
    let room: Vec<u64> = plan.stages().iter().map(|s| s.plan.summary(false).disk_bytes).collect();
    assert_eq!(summary.disk_bytes, (room[0] + room[1]).max(room[1] + room[2]));
    let kept = models.planned(&chain("first")).summary(false);
    assert_eq!(kept.disk_bytes, room.iter().sum::<u64>());
    let alone = models.planned(LINEAR).summary(false);
    assert!(alone.stages.is_empty() && serde_json::to_value(alone).unwrap().get("stages").is_none());
}

#[test]
fn a_stage_wins_over_a_model_of_its_name_and_says_so() {
    let models = Models::new();
    let text = format!("name: d\n{LINEAR}---\nmerge_method: passthrough\nmodels: [{{model: d}}]\n");
    let plan = models.planned(&text);
    let told: Vec<_> = plan.warnings.iter().filter(|w| w.code == "shadowed_model").collect();
    assert_eq!(told.iter().map(|w| (w.pointer.as_str(), w.line)).collect::<Vec<_>>(), [("/0/name", Some(1))]);
    assert_eq!(plan.stages().len(), 2);
    models.merge(&text, &models.path("out"));
    models.merge_alone(LINEAR, &models.path("alone"));
    assert_eq!(
        model_files(&models.path("out"))["model.safetensors"],
        model_files(&models.path("alone"))["model.safetensors"]
    );
}

#[test]
fn a_check_plans_what_it_can_and_says_which_models_are_elsewhere() {
    let models = Models::new();
    let check = |text: &str| engine::check_stages(&Stages::parse(text, false).unwrap(), &models.access());
    let second = "name: second\nmerge_method: linear\nmodels: [{model: org/x}, {model: first}]\n";
    let third = "merge_method: slerp\nmodels: [{model: second}, {model: first}]\nparameters: {t: 0.5}\n";
    let checked = check(&format!("name: first\n{LINEAR}---\n{second}---\n{third}")).unwrap();
    let elsewhere: Vec<String> = checked.elsewhere.iter().map(|m| m.to_string()).collect();
    assert_eq!(elsewhere, ["org/x"]);
    let told: Vec<_> = checked.warnings.iter().map(|w| (w.pointer.as_str(), w.code.as_str())).collect();
    assert!(told.iter().any(|(pointer, code)| (*pointer, *code) == ("/2/models", "base_by_default")), "{told:?}");
    // the first is wrong, whatever the second's model holds
    let first = LINEAR.replace("model: b", "model: ./gone");
    let refusal = check(&format!("name: first\n{first}---\n{second}---\n{third}")).unwrap_err();
    assert_eq!(codes(&refusal), [("/0/models/1/model", "model_not_found")]);
}
