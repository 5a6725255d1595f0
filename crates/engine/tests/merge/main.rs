//! Whole merges of tiny checkpoints through the public functions of the engine.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod code;
mod families;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use checkpoint::{Access, Dtype};
use engine::backend::cpu::Cpu;
use engine::{Artifact, ExecuteError, Observer, Plan, Settings, Sources};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use recipe::{Recipe, Refusal};
use testkit::reference::{self, Task};
use testkit::{TinyCheckpoint, read_checkpoint};

struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    /// Checkpoints named a, b, c, ... under a root.
    fn new(models: &[TinyCheckpoint]) -> Models {
        let dir = tempfile::tempdir().unwrap();
        for (name, model) in ["a", "b", "c", "d"].iter().zip(models) {
            model.write(&dir.path().join(name));
        }
        Models { dir }
    }

    fn access(&self) -> Access {
        Access::Under(vec![self.dir.path().to_owned()])
    }

    fn plan(&self, recipe: &str, settings: &Settings) -> Result<(Plan, Sources), Refusal> {
        let recipe = Recipe::parse(recipe, false)?;
        let sources = Sources::open(&recipe, &self.access())?;
        Ok((engine::plan(&recipe, &sources, settings)?, sources))
    }

    fn refused(&self, recipe: &str) -> String {
        match self.plan(recipe, &Settings::default()) {
            Ok(_) => panic!("accepted: {recipe}"),
            Err(refusal) => refusal.to_string(),
        }
    }

    fn merge(&self, recipe: &str) -> (PathBuf, Artifact) {
        let (plan, sources) =
            self.plan(recipe, &Settings { threads: 2, ..Settings::default() }).unwrap_or_else(|r| panic!("{r}"));
        let out = self.dir.path().join("out");
        let artifact = engine::execute(&plan, &sources, recipe, &out, &quiet(&AtomicBool::new(false))).unwrap();
        (out, artifact)
    }
}

fn quiet(cancel: &AtomicBool) -> Observer<'_> {
    Observer { on_progress: &|_| {}, cancel }
}

fn llamas(count: u64, dtype: Dtype) -> Vec<TinyCheckpoint> {
    (0..count).map(|seed| TinyCheckpoint::llama(3, dtype, seed)).collect()
}

/// One tensor that spans several blocks of every reduction, with many equal magnitudes.
fn wide(seed: u64, dtype: Dtype, shape: &[usize]) -> TinyCheckpoint {
    let mut model = TinyCheckpoint::llama(1, dtype, seed);
    let mut stream = seed + 100;
    model.random("model.layers.0.mlp.down_proj.weight", dtype, shape, &mut stream);
    let values: Vec<f32> =
        read_values(&model, "model.layers.0.mlp.down_proj.weight").iter().map(|v| (v * 8.0).round() / 8.0).collect();
    model.set("model.layers.0.mlp.gate_proj.weight", dtype, shape, &values);
    model
}

fn read_values(model: &TinyCheckpoint, name: &str) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path());
    read_checkpoint(dir.path())[name].values.iter().map(|v| *v as f32).collect()
}

const TIES: &str = "merge_method: ties\nbase_model: a\nmodels:\n- {model: b, parameters: {weight: 0.7, density: 0.4}}\n- {model: c, parameters: {weight: [0.2, 0.9], density: 0.61}}\nparameters: {rescale: true, lambda: 0.9}\n";
const SLERP: &str = "merge_method: slerp\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}\n";
const LINEAR: &str = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 1e-1}}]\ndtype: bfloat16\n";

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// The same bytes for any number of threads, any span and any tile.
    #[test]
    fn bytes_do_not_depend_on_threads_spans_or_tiles(threads in 1usize..8, blocks in 1u64..5, tile in 1usize..=2048, which in 0usize..3) {
        let shape = [301, 523];
        let models = Models::new(&[wide(0, Dtype::BF16, &shape), wide(1, Dtype::BF16, &shape), wide(2, Dtype::BF16, &shape)]);
        let recipe = [TIES, SLERP, LINEAR][which];
        let (_, expected) = models.merge(recipe);
        let (plan, sources) = models.plan(recipe, &Settings { threads, ..Settings::default() }).unwrap();
        let out = models.dir.path().join("other");
        let other = engine::execute_on(&Cpu::with_spans(blocks, tile), &plan, &sources, recipe, &out, &quiet(&AtomicBool::new(false))).unwrap();
        prop_assert_eq!(expected.files, other.files);
    }

    /// TIES against the reference, at magnitudes with many equals: the lowest indices are kept.
    #[test]
    fn ties_keeps_the_lowest_of_equal_magnitudes(density in 0.0f64..1.0, seed in 0u64..1000) {
        let models = [TinyCheckpoint::llama(1, Dtype::F32, seed), TinyCheckpoint::llama(1, Dtype::F32, seed + 1)]
            .map(|mut m| { for name in m.tensors.keys().cloned().collect::<Vec<_>>() {
                let coarse: Vec<f32> = read_values(&m, &name).iter().map(|v| (v * 2.0).round() / 2.0).collect();
                let shape = m.tensors[&name].1.clone();
                m.set(&name, Dtype::F32, &shape, &coarse);
            } m });
        let models = Models::new(&models);
        let recipe = format!("merge_method: ties\nbase_model: a\nmodels: [{{model: b, parameters: {{weight: 1, density: {density}}}}}]\n");
        let (out, _) = models.merge(&recipe);
        let (a, b) = (read_checkpoint(&models.dir.path().join("a")), read_checkpoint(&models.dir.path().join("b")));
        for (name, merged) in read_checkpoint(&out) {
            let parameters = serde_json::json!({
                "shape": merged.shape, "base": 1, "shared": {"lambda": 1.0, "normalize": true, "rescale": "none", "sign_method": "sum"},
                "each": [{"weight": 1.0, "density": density}, {}],
            });
            let x: [&[f64]; 2] = [&b[&name].values, &a[&name].values];
            let task = Task { method: "ties", parameters: &parameters, x: &x, draws: &|_, _| 0.0 };
            prop_assert_eq!(&merged.values, &reference::merge(&task).values, "{}", name);
        }
    }
}

#[test]
fn an_artifact_is_complete_and_its_digests_are_right() {
    let models = Models::new(&llamas(2, Dtype::BF16));
    std::fs::write(models.dir.path().join("a/tokenizer.json"), "{}").unwrap();
    std::fs::write(models.dir.path().join("a/modeling_custom.py"), "evil()").unwrap();
    let (out, artifact) = models.merge(LINEAR);
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["README.md", "config.json", "manifest.json", "model.safetensors", "recipe.yml", "tokenizer.json"]
    );
    for file in &artifact.files {
        assert_eq!(checkpoint::digest_file(&out.join(&file.path)).unwrap(), file.sha256, "{}", file.path);
    }
    assert_eq!(std::fs::read_to_string(out.join("recipe.yml")).unwrap(), LINEAR);
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let input = models.dir.path().join("b/model.safetensors");
    assert_eq!(manifest["inputs"][1]["files"][0]["sha256"], checkpoint::digest_file(&input).unwrap());
    assert_eq!(manifest["recipe"]["merge_method"], "linear");
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
}

#[test]
fn card_and_tokenizer_are_left_out_where_the_recipe_says_so() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let tokenizer =
        serde_json::json!({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "added_tokens": []});
    for name in ["a", "b"] {
        std::fs::write(models.dir.path().join(name).join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(models.dir.path().join(name).join("tokenizer_config.json"), "{}").unwrap();
    }
    let options = "options: {copy-tokenizer: false, write-model-card: false}\n";
    let (out, artifact) = models.merge(&format!("{LINEAR}{options}"));
    let mut paths: Vec<&str> = artifact.files.iter().map(|f| f.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["config.json", "model.safetensors", "recipe.yml"]);
    std::fs::remove_dir_all(&out).unwrap();
    // a tokenizer that is asked for is there, also when merging it changed nothing
    let (out, _) = models.merge(&format!("{LINEAR}{options}tokenizer: {{source: union}}\n"));
    assert!(out.join("tokenizer.json").exists() && out.join("tokenizer_config.json").exists());
}

#[test]
fn shards_hold_every_tensor_once_under_an_index() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let recipe = format!("{LINEAR}options: {{out_shard_size: 400}}\n");
    let (out, _) = models.merge(&recipe);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    let merged = read_checkpoint(&out);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), merged.len());
    let files: std::collections::BTreeSet<&str> =
        index["weight_map"].as_object().unwrap().values().map(|f| f.as_str().unwrap()).collect();
    assert!(files.len() > 3 && files.iter().all(|f| out.join(f).exists()), "{files:?}");
    let bytes: usize = merged.values().map(|t| t.bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
}

#[test]
fn stacked_layers_are_renumbered_and_the_config_says_how_many() {
    let models = Models::new(&llamas(2, Dtype::BF16));
    let recipe = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 3]}]\n- sources: [{model: b, layer_range: [1, 3]}]\n- sources: [{model: a, layer_range: [3, 3]}]\n";
    let (out, _) = models.merge(recipe);
    let merged = read_checkpoint(&out);
    let (a, b) = (read_checkpoint(&models.dir.path().join("a")), read_checkpoint(&models.dir.path().join("b")));
    let q = |layer: u32| format!("model.layers.{layer}.self_attn.q_proj.weight");
    assert_eq!(merged[&q(2)].bytes, a[&q(2)].bytes);
    assert_eq!(merged[&q(4)].bytes, b[&q(2)].bytes);
    // the empty last slice says whose norm and head these are
    assert_eq!(merged["lm_head.weight"].bytes, a["lm_head.weight"].bytes);
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["num_hidden_layers"], 5);
}

#[test]
fn a_tied_head_is_merged_from_the_embedding_and_the_flag_follows() {
    let mut list = llamas(2, Dtype::F32);
    list[0].tensors.remove("lm_head.weight");
    list[0].config["tie_word_embeddings"] = true.into();
    let models = Models::new(&list);
    let (out, _) = models.merge("merge_method: passthrough\nmodels: [{model: a}]\n");
    assert!(!read_checkpoint(&out).contains_key("lm_head.weight"));
    let models = Models::new(&list);
    let (out, _) = models.merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\n");
    assert!(read_checkpoint(&out).contains_key("lm_head.weight"));
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
}

#[test]
fn buffers_that_are_equal_travel_and_those_that_differ_fail() {
    let mut list = llamas(2, Dtype::F32);
    for model in &mut list {
        model.set("model.position_ids", Dtype::I64, &[4], &[0.0, 1.0, 2.0, 3.0]);
    }
    let models = Models::new(&list);
    let (out, _) = models.merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\ndtype: float16\n");
    assert_eq!(read_checkpoint(&out)["model.position_ids"].dtype, Dtype::I64);
    list[1].set("model.position_ids", Dtype::I64, &[4], &[0.0, 1.0, 2.0, 4.0]);
    let models = Models::new(&list);
    let (plan, sources) =
        models.plan("merge_method: linear\nmodels: [{model: a}, {model: b}]\n", &Settings::default()).unwrap();
    let error = engine::execute(&plan, &sources, "", &models.dir.path().join("out"), &quiet(&AtomicBool::new(false)))
        .unwrap_err();
    assert!(matches!(error, ExecuteError::BuffersDiffer { .. }), "{error}");
}

#[test]
fn what_headers_show_to_be_wrong_is_refused() {
    let mut list = llamas(4, Dtype::F32);
    list[1].tensors.remove("model.norm.weight");
    list[2].random("model.norm.weight", Dtype::F32, &[9], &mut 1);
    let models = Models::new(&list);
    let missing = models.refused("merge_method: linear\nmodels: [{model: a}, {model: b}]\n");
    assert!(missing.contains(r#"tensor "model.norm.weight": not in "b""#), "{missing}");
    let shapes = models.refused("merge_method: linear\nmodels: [{model: a}, {model: c}]\n");
    assert!(shapes.contains(r#"[8] in "a", [9] in "c""#), "{shapes}");
    let outside = models.refused("merge_method: linear\nmodels: [{model: a}, {model: ../x}]\n");
    assert!(outside.contains("no such directory under the source roots"), "{outside}");
    let hub = models.refused("merge_method: linear\nmodels: [{model: a}, {model: org/name}]\n");
    assert!(hub.contains("Hub is not supported yet"), "{hub}");
    let unmatched = models
        .refused("merge_method: slerp\nmodels: [{model: a}, {model: d}]\nparameters: {t: [{filter: mlp, value: 1}]}\n");
    assert!(unmatched.contains("no condition matches it"), "{unmatched}");
}

#[test]
fn a_merge_stops_when_asked_and_progress_reaches_its_total() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let (plan, sources) = models.plan(LINEAR, &Settings::default()).unwrap();
    let cancel = AtomicBool::new(true);
    let out = models.dir.path().join("out");
    assert!(matches!(engine::execute(&plan, &sources, "", &out, &quiet(&cancel)), Err(ExecuteError::Cancelled)));
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(1));
    let watch = |p: engine::Progress| {
        done.fetch_max(p.bytes_done, Ordering::Relaxed);
        total.store(p.bytes_total, Ordering::Relaxed);
    };
    let cancel = AtomicBool::new(false);
    engine::execute(&plan, &sources, "", &out, &Observer { on_progress: &watch, cancel: &cancel }).unwrap();
    assert_eq!(done.into_inner(), total.into_inner());
}

#[test]
fn a_plan_has_the_same_digest_until_something_that_matters_changes() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let digest = |recipe: &str, settings: &Settings| models.plan(recipe, settings).unwrap().0.digest;
    let settings = Settings::default();
    let first = digest(LINEAR, &settings);
    assert_eq!(first, digest(LINEAR, &Settings { threads: 7, memory: 1 << 20, ..settings.clone() }));
    assert_ne!(first, digest(&LINEAR.replace("0.3", "0.4"), &settings));
    assert_ne!(first, digest(LINEAR, &Settings { shard_bytes: 400, ..settings.clone() }));
    let touched = Path::new("b/model.safetensors");
    std::fs::File::options()
        .write(true)
        .open(models.dir.path().join(touched))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_ne!(first, digest(LINEAR, &settings));
}

/// Statistics over the whole model against the reference on all tensors written one after the other.
#[test]
fn a_trim_and_an_angle_over_the_whole_model_are_taken_over_all_its_tensors() {
    let models = Models::new(&llamas(3, Dtype::F32));
    let read = |name: &str| read_checkpoint(&models.dir.path().join(name));
    let (a, b) = (read("a"), read("b"));
    let joined = |m: &std::collections::BTreeMap<String, testkit::Tensor>| {
        m.values().flat_map(|t| t.values.clone()).collect::<Vec<f64>>()
    };
    let (xa, xb) = (joined(&a), joined(&b));
    let cases = [
        (
            "merge_method: ties\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1, density: 0.3}}]\nparameters: {trim_scope: model}\n",
            "ties",
            serde_json::json!({"lambda": 1.0, "normalize": true, "rescale": "none", "sign_method": "sum"}),
            (vec![&xb[..], &xa[..]], 1),
        ),
        (
            "merge_method: slerp\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3, angle_scope: model}\n",
            "slerp",
            serde_json::json!({"t": 0.3}),
            (vec![&xa[..], &xb[..]], 0),
        ),
    ];
    for (recipe, method, shared, (x, base)) in cases {
        let (out, _) = models.merge(recipe);
        let parameters = serde_json::json!({"shape": [xa.len()], "base": base, "shared": shared, "each": [{"weight": 1.0, "density": 0.3}, {}]});
        let truth = reference::merge(&Task { method, parameters: &parameters, x: &x, draws: &|_, _| 0.0 });
        let ours = joined(&read_checkpoint(&out));
        let off = ours.iter().zip(&truth.values).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-6, "{method}: {off}");
        std::fs::remove_dir_all(out).unwrap();
    }
    let differing = "merge_method: ties\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1, density: [0.3, 0.6]}}]\nparameters: {trim_scope: model}\n";
    assert!(models.refused(differing).contains("one value of density"));
}

#[test]
fn what_comes_out_infinite_fails_with_the_tensors_name_unless_allowed() {
    let mut list = llamas(2, Dtype::F32);
    let values: Vec<f32> = vec![60_000.0; 8];
    list.iter_mut().for_each(|m| m.set("model.norm.weight", Dtype::F32, &[8], &values));
    let models = Models::new(&list);
    let recipe = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\nparameters: {normalize: false}\ndtype: float16\n";
    let (plan, sources) = models.plan(recipe, &Settings::default()).unwrap();
    let error = engine::execute(&plan, &sources, "", &models.dir.path().join("x"), &quiet(&AtomicBool::new(false)))
        .unwrap_err();
    assert!(error.to_string().contains(r#"tensor "model.norm.weight" came out as NaN or infinite in F16"#), "{error}");
    let (out, _) = models.merge(&format!("{recipe}options: {{allow_non_finite: true}}\n"));
    assert!(read_checkpoint(&out)["model.norm.weight"].values[0].is_infinite());
}

#[test]
fn a_random_merge_is_the_same_again_and_another_with_another_seed() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let recipe = "merge_method: dare_ties\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1, dare: {drop_rate: 0.6}, density: 0.5}}]\nparameters: {rescale: true, int8_mask: true}\n";
    let digest = |recipe: &str| {
        let (out, artifact) = models.merge(recipe);
        std::fs::remove_dir_all(out).unwrap();
        artifact.files.into_iter().find(|f| f.path == "model.safetensors").unwrap().sha256
    };
    let first = digest(recipe);
    assert_eq!(first, digest(recipe));
    assert_ne!(first, digest(&format!("{recipe}options: {{random_seed: 5}}\n")));
}

/// What each method does with a tensor that only some of the models have, once the recipe allows it.
#[test]
fn a_tensor_that_some_models_lack_is_merged_as_the_method_says() {
    let mut list = llamas(3, Dtype::F32);
    list[1].tensors.remove("model.norm.weight");
    let models = Models::new(&list);
    let read = |name: &str| read_checkpoint(&models.dir.path().join(name))["model.norm.weight"].clone();
    let merged = |recipe: &str| {
        let (out, _) = models.merge(&format!("{recipe}options: {{allow_missing_tensors: true}}\n"));
        let norm = read_checkpoint(&out).get("model.norm.weight").cloned();
        std::fs::remove_dir_all(out).unwrap();
        norm
    };
    let linear = merged(
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 4}}, {model: b, parameters: {weight: 5}}]\n",
    );
    assert_eq!(linear.unwrap().values, read("a").values);
    let slerp = merged("merge_method: slerp\nmodels: [{model: b}, {model: c}]\nparameters: {t: 0.5}\n");
    assert_eq!(slerp.unwrap().bytes, read("c").bytes);
    let nearswap = merged("merge_method: nearswap\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.5}\n");
    assert_eq!(nearswap.unwrap().bytes, read("a").bytes);
    let stock = merged("merge_method: model_stock\nbase_model: b\nmodels: [{model: a}, {model: c}]\n");
    assert!(stock.is_none(), "neither the base nor three models have it");
    let ties = "merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1}}]\noptions: {allow_missing_tensors: true}\n";
    assert!(models.refused(ties).contains("too few for ties"));
}

#[test]
fn a_checkpoint_that_contradicts_its_config_or_is_no_file_is_refused_at_once() {
    let refused = |change: &dyn Fn(&Path), config: serde_json::Value| {
        let mut list = llamas(2, Dtype::F32);
        list[0].config["num_hidden_layers"] = config;
        let models = Models::new(&list);
        change(&models.dir.path().join("a"));
        models.refused("merge_method: linear\nmodels: [{model: a}, {model: b}]\n")
    };
    let nothing: &dyn Fn(&Path) = &|_| {};
    assert!(refused(nothing, 5.into()).contains("says 5 layers (num_hidden_layers) and its tensors have 3"));
    assert!(refused(nothing, "two".into()).contains(r#"num_hidden_layers is "two""#));
    let pipe: &dyn Fn(&Path) = &|dir| {
        std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.join("model.safetensors")).status().unwrap();
        assert!(made.success());
    };
    assert!(refused(pipe, 3.into()).contains("model.safetensors: is no regular file"));
    let link: &dyn Fn(&Path) = &|dir| std::os::unix::fs::symlink("/etc/hostname", dir.join("tokenizer.json")).unwrap();
    assert!(refused(link, 3.into()).contains("leads out of the source roots"));
}

#[test]
fn a_filter_that_matches_nothing_is_a_warning_and_many_alike_findings_are_one() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let recipe = "merge_method: slerp\nmodels: [{model: a}, {model: b}]\nparameters: {t: [{filter: nosuch, value: 1}, {value: 0.5}]}\n";
    let (plan, _) = models.plan(recipe, &Settings::default()).unwrap();
    assert!(plan.warnings.iter().any(|w| w.detail.contains(r#"filter "nosuch" matches no tensor"#)));
    let refused = models
        .refused("merge_method: slerp\nmodels: [{model: a}, {model: b}]\nparameters: {t: [{filter: mlp, value: 1}]}\n");
    assert!(refused.contains("more like it") && refused.lines().count() <= 5, "{refused}");
}

/// As guides write it: a union vocabulary, and a token that no model has.
#[test]
fn a_union_with_a_brand_new_token_is_merged_with_a_warning() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let tokenizer = serde_json::json!({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"}, "added_tokens": []});
    for name in ["a", "b"] {
        std::fs::write(models.dir.path().join(name).join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }
    let recipe = "merge_method: linear\nmodels:\n- model: a\n- model: b\ntokenizer:\n  source: union\n  tokens:\n    <|special_token|>:\n      source: b\n";
    let (plan, _) = models.plan(recipe, &Settings::default()).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.code == "vocabulary" && w.detail.contains("<|special_token|>")),
        "{:?}",
        plan.warnings
    );
    let (out, _) = models.merge(recipe);
    let merged = read_checkpoint(&out);
    let head = &merged["lm_head.weight"];
    assert_eq!(head.shape, [4, 8]);
    assert!(head.values[24..].iter().all(|v| *v == 0.0) && head.values[..24].iter().any(|v| *v != 0.0));
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["vocab_size"], 4);
}
