//! Models merged with their adapters, applied while they are read.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use checkpoint::{Access, Dtype};
use engine::backend::cpu::Cpu;
use engine::{Artifact, Observer, Plan, Settings, Sources};
use recipe::{Recipe, Refusal};
use serde_json::{Value, json};
use testkit::{Tensor, TinyCheckpoint, read_checkpoint};

const WRAPPER: &str = "base_model.model.";
const UP: &str = "model.layers.0.mlp.up_proj";
const PLAIN: &str = "merge_method: passthrough\nmodels: [{model: base+adapter}]\ndtype: float32\n";

struct Setup {
    dir: tempfile::TempDir,
    base: TinyCheckpoint,
    adapter: TinyCheckpoint,
    config: Value,
}

impl Setup {
    fn new() -> Setup {
        Setup {
            dir: tempfile::tempdir().unwrap(),
            base: TinyCheckpoint::llama(2, Dtype::BF16, 3),
            adapter: TinyCheckpoint { tensors: BTreeMap::new(), config: json!({}) },
            config: json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": "org/base", "target_modules": ["up_proj"]}),
        }
    }

    fn tensor(mut self, name: &str, shape: &[usize]) -> Setup {
        let mut stream = name.len() as u64;
        self.adapter.random(&format!("{WRAPPER}{name}"), Dtype::F32, shape, &mut stream);
        self
    }

    /// Factors of rank 3 for one up_proj, [12, 8] in the model.
    fn up(self) -> Setup {
        self.tensor(&format!("{UP}.lora_A.weight"), &[3, 8]).tensor(&format!("{UP}.lora_B.weight"), &[12, 3])
    }

    fn config(mut self, more: Value) -> Setup {
        self.config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self
    }

    fn write(&self) {
        self.base.write(&self.dir.path().join("base"));
        let dir = self.dir.path().join("adapter");
        self.adapter.write(&dir);
        std::fs::rename(dir.join("model.safetensors"), dir.join("adapter_model.safetensors")).unwrap();
        std::fs::remove_file(dir.join("config.json")).unwrap();
        std::fs::write(dir.join("adapter_config.json"), self.config.to_string()).unwrap();
    }

    fn plan(&self, recipe: &str) -> Result<(Plan, Sources), Refusal> {
        self.write();
        let access = Access::Under(vec![self.dir.path().to_owned()]);
        engine::open_and_plan(&Recipe::parse(recipe, false)?, &access, &Settings { threads: 2, ..Settings::default() })
    }

    fn merge(&self, recipe: &str) -> (PathBuf, Artifact) {
        let (plan, sources) = self.plan(recipe).unwrap_or_else(|refusal| panic!("{refusal}"));
        let out = self.dir.path().join("out");
        let artifact = engine::execute(&plan, &sources, recipe, &out, &quiet(&AtomicBool::new(false))).unwrap();
        (out, artifact)
    }

    fn merged(&self, recipe: &str) -> BTreeMap<String, Tensor> {
        read_checkpoint(&self.merge(recipe).0)
    }

    fn refused(&self, recipe: &str) -> String {
        self.plan(recipe).expect_err("refused").to_string()
    }

    fn of_base(&self, name: &str) -> Tensor {
        read_checkpoint(&self.dir.path().join("base"))[name].clone()
    }

    fn of_adapter(&self, name: &str) -> Tensor {
        read_checkpoint(&self.dir.path().join("adapter"))[&format!("{WRAPPER}{name}")].clone()
    }

    /// W + s L R in f64, where the factors' elements are given by row, column and rank.
    fn expected(
        &self,
        name: &str,
        scale: f64,
        left: impl Fn(usize, usize) -> f64,
        right: impl Fn(usize, usize) -> f64,
        rank: usize,
    ) -> Vec<f64> {
        let base = self.of_base(name);
        let columns = base.shape.get(1).copied().unwrap_or(1);
        let product = |e: usize| (0..rank).map(|k| left(e / columns, k) * right(k, e % columns)).sum::<f64>();
        base.values.iter().enumerate().map(|(e, w)| w + scale * product(e)).collect()
    }

    fn expected_up(&self, scale: f64) -> Vec<f64> {
        let (a, b) = (self.of_adapter(&format!("{UP}.lora_A.weight")), self.of_adapter(&format!("{UP}.lora_B.weight")));
        self.expected(&format!("{UP}.weight"), scale, |row, k| b.values[row * 3 + k], |k, c| a.values[k * 8 + c], 3)
    }
}

fn quiet(cancel: &AtomicBool) -> Observer<'_> {
    Observer { on_progress: &|_| {}, cancel }
}

/// A few roundings of f32, of terms between -1 and 1 times the scale.
fn assert_close(found: &Tensor, expected: &[f64], scale: f64) {
    assert_eq!(found.values.len(), expected.len());
    for (e, (found, expected)) in found.values.iter().zip(expected).enumerate() {
        let allowed = 8.0 * 2f64.powi(-24) * (1.0 + 3.0 * scale);
        assert!((found - expected).abs() <= allowed, "[{e}]: {found} against {expected}");
    }
}

#[test]
fn an_adapted_tensor_is_the_models_plus_the_scaled_product_and_all_others_are_as_they_were() {
    let setup = Setup::new().up();
    let merged = setup.merged(PLAIN);
    assert_close(&merged[&format!("{UP}.weight")], &setup.expected_up(2.0), 2.0);
    for (name, tensor) in merged.iter().filter(|(name, _)| **name != format!("{UP}.weight")) {
        assert_eq!(tensor.values, setup.of_base(name).values, "{name}");
    }
}

#[test]
fn the_output_keeps_the_models_dtype_and_is_rounded_once() {
    let setup = Setup::new().up();
    let merged = setup.merged("merge_method: passthrough\nmodels: [{model: base+adapter}]\n");
    let tensor = &merged[&format!("{UP}.weight")];
    assert_eq!(tensor.dtype, Dtype::BF16);
    for (found, expected) in tensor.values.iter().zip(setup.expected_up(2.0)) {
        assert!((found - expected).abs() <= 2f64.powi(-8) * expected.abs() + 1e-6, "{found} {expected}");
    }
}

#[test]
fn scales_follow_rslora_and_the_patterns() {
    let root = Setup::new().up().config(json!({"use_rslora": true}));
    let scale = 6.0 / 3f64.sqrt();
    assert_close(&root.merged(PLAIN)[&format!("{UP}.weight")], &root.expected_up(scale), scale);
    let patterns =
        Setup::new().up().config(json!({"r": 9, "rank_pattern": {"up_proj": 3}, "alpha_pattern": {"up_proj": 1}}));
    assert_close(&patterns.merged(PLAIN)[&format!("{UP}.weight")], &patterns.expected_up(1.0 / 3.0), 1.0);
}

#[test]
fn an_embedding_is_adapted_row_by_token() {
    let setup = Setup::new()
        .tensor("model.embed_tokens.lora_embedding_A", &[3, 16])
        .tensor("model.embed_tokens.lora_embedding_B", &[8, 3]);
    let merged = setup.merged(PLAIN);
    let a = setup.of_adapter("model.embed_tokens.lora_embedding_A").values;
    let b = setup.of_adapter("model.embed_tokens.lora_embedding_B").values;
    let name = "model.embed_tokens.weight";
    let expected = setup.expected(name, 2.0, |row, k| a[k * 16 + row], |k, column| b[column * 3 + k], 3);
    assert_close(&merged[name], &expected, 2.0);
}

#[test]
fn weights_that_lie_as_in_by_out_are_adapted_turned() {
    let setup = Setup::new()
        .tensor(&format!("{UP}.lora_A.weight"), &[3, 12])
        .tensor(&format!("{UP}.lora_B.weight"), &[8, 3])
        .config(json!({"fan_in_fan_out": true}));
    let merged = setup.merged(PLAIN);
    let a = setup.of_adapter(&format!("{UP}.lora_A.weight")).values;
    let b = setup.of_adapter(&format!("{UP}.lora_B.weight")).values;
    let name = format!("{UP}.weight");
    let expected = setup.expected(&name, 2.0, |row, k| a[k * 12 + row], |k, column| b[column * 3 + k], 3);
    assert_close(&merged[&name], &expected, 2.0);
    let unsaid = setup.config(json!({"fan_in_fan_out": false}));
    assert!(unsaid.refused(PLAIN).contains("fan_in_fan_out"));
}

#[test]
fn a_dora_gives_each_row_its_length() {
    let setup =
        Setup::new().up().tensor(&format!("{UP}.lora_magnitude_vector"), &[12]).config(json!({"use_dora": true}));
    let merged = setup.merged(PLAIN);
    let magnitude = setup.of_adapter(&format!("{UP}.lora_magnitude_vector")).values;
    let sum = setup.expected_up(2.0);
    let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let expected: Vec<f64> = sum
        .chunks(8)
        .zip(&magnitude)
        .flat_map(|(row, m)| row.iter().map(|x| x * m / length(row)).collect::<Vec<_>>())
        .collect();
    assert_close(&merged[&format!("{UP}.weight")], &expected, 8.0);
}

#[test]
fn tensors_saved_whole_replace_the_models() {
    let setup = Setup::new().up().tensor("lm_head.modules_to_save.weight", &[16, 8]).tensor("model.norm.weight", &[8]);
    let merged = setup.merged(PLAIN);
    assert_eq!(merged["lm_head.weight"].values, setup.of_adapter("lm_head.modules_to_save.weight").values);
    assert_eq!(merged["model.norm.weight"].values, setup.of_adapter("model.norm.weight").values);
}

#[test]
fn a_head_saved_whole_ends_the_tie() {
    let mut setup = Setup::new().tensor("lm_head.weight", &[16, 8]).tensor("model.embed_tokens.weight", &[16, 8]);
    setup.base.tensors.remove("lm_head.weight");
    setup.base.config["tie_word_embeddings"] = json!(true);
    let (out, _) = setup.merge(PLAIN);
    let merged = read_checkpoint(&out);
    assert_eq!(merged["lm_head.weight"].values, setup.of_adapter("lm_head.weight").values);
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
}

#[test]
fn a_bias_of_the_second_factor_goes_to_the_bias() {
    let mut setup = Setup::new().up().tensor(&format!("{UP}.lora_B.bias"), &[12]).config(json!({"lora_bias": true}));
    assert!(setup.refused(PLAIN).contains("no tensor \"model.layers.0.mlp.up_proj.bias\""));
    let mut stream = 5;
    setup.base.random(&format!("{UP}.bias"), Dtype::BF16, &[12], &mut stream);
    let merged = setup.merged(PLAIN);
    let bias = setup.of_adapter(&format!("{UP}.lora_B.bias")).values;
    let name = format!("{UP}.bias");
    assert_close(&merged[&name], &setup.expected(&name, 2.0, |row, _| bias[row], |_, _| 1.0, 1), 2.0);
}

#[test]
fn an_adapted_model_is_merged_with_others_by_any_method() {
    let setup = Setup::new().up();
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: base+adapter, parameters: {weight: 0.5}}]\ndtype: float32\n";
    assert_close(&setup.merged(recipe)[&format!("{UP}.weight")], &setup.expected_up(1.0), 2.0);
}

#[test]
fn bytes_do_not_depend_on_threads_spans_or_tiles() {
    let mut setup = Setup::new()
        .tensor("model.layers.0.mlp.down_proj.lora_A.weight", &[3, 523])
        .tensor("model.layers.0.mlp.down_proj.lora_B.weight", &[301, 3]);
    let mut stream = 8;
    setup.base.random("model.layers.0.mlp.down_proj.weight", Dtype::BF16, &[301, 523], &mut stream);
    let (out, expected) = setup.merge(PLAIN);
    let name = "model.layers.0.mlp.down_proj";
    let a = setup.of_adapter(&format!("{name}.lora_A.weight")).values;
    let b = setup.of_adapter(&format!("{name}.lora_B.weight")).values;
    let name = format!("{name}.weight");
    let truth = setup.expected(&name, 2.0, |row, k| b[row * 3 + k], |k, column| a[k * 523 + column], 3);
    assert_close(&read_checkpoint(&out)[&name], &truth, 2.0);
    for (blocks, tile) in [(1, 2048), (2, 77), (3, 1000)] {
        let (plan, sources) = setup.plan(PLAIN).unwrap();
        let out = setup.dir.path().join(format!("out-{blocks}"));
        let cpu = Cpu::with_spans(blocks, tile);
        let other = engine::execute_on(&cpu, &plan, &sources, PLAIN, &out, &quiet(&AtomicBool::new(false))).unwrap();
        let shard = |a: &Artifact| a.files.iter().find(|f| f.path == "model.safetensors").unwrap().sha256.clone();
        assert_eq!(shard(&expected), shard(&other));
    }
}

#[test]
fn the_adapter_is_part_of_the_plans_identity_and_of_the_manifest() {
    let setup = Setup::new().up();
    let (out, _) = setup.merge(PLAIN);
    let manifest: Value = serde_json::from_slice(&std::fs::read(out.join("manifest.json")).unwrap()).unwrap();
    let files = manifest["inputs"][0]["files"].as_array().unwrap();
    let path = setup.dir.path().join("adapter/adapter_model.safetensors");
    let listed = files.iter().find(|f| f["path"] == "adapter_model.safetensors").unwrap();
    assert_eq!(listed["sha256"], checkpoint::digest_file(&path).unwrap());
    let digest = || {
        let access = Access::Under(vec![setup.dir.path().to_owned()]);
        let recipe = Recipe::parse(PLAIN, false).unwrap();
        engine::open_and_plan(&recipe, &access, &Settings::default()).unwrap().0.digest
    };
    let first = digest();
    assert_eq!(first, digest());
    let config = setup.config.to_string().replace("\"lora_alpha\":6", "\"lora_alpha\":7");
    std::fs::write(setup.dir.path().join("adapter/adapter_config.json"), config).unwrap();
    assert_ne!(first, digest());
}

#[test]
fn an_adapter_of_another_model_is_a_warning_when_it_fits_and_an_error_when_not() {
    let renamed = Setup::new().up().config(json!({"base_model_name_or_path": "org/other"}));
    let (plan, _) = renamed.plan(PLAIN).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.code == "other_base" && w.detail.contains("org/other")),
        "{:?}",
        plan.warnings
    );
    let (plan, _) = Setup::new().up().plan(PLAIN).unwrap();
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);

    let gone = "model.layers.7.mlp.up_proj";
    let foreign = Setup::new()
        .tensor(&format!("{gone}.lora_A.weight"), &[3, 8])
        .tensor(&format!("{gone}.lora_B.weight"), &[12, 3]);
    assert!(foreign.refused(PLAIN).contains(gone));
    let wide =
        Setup::new().tensor(&format!("{UP}.lora_A.weight"), &[3, 9]).tensor(&format!("{UP}.lora_B.weight"), &[12, 3]);
    assert!(wide.refused(PLAIN).contains("[12, 9]"));
}

#[test]
fn factors_that_do_not_fit_the_memory_are_refused() {
    let setup = Setup::new().up();
    setup.write();
    let access = Access::Under(vec![setup.dir.path().to_owned()]);
    let recipe = Recipe::parse(PLAIN, false).unwrap();
    let plan = |memory: u64| {
        engine::open_and_plan(&recipe, &access, &Settings { held_memory: memory, threads: 2, ..Settings::default() })
    };
    assert!(plan(100).expect_err("refused").to_string().contains("--memory"));
    let (with, without) =
        (plan(240).unwrap().0, setup.plan("merge_method: passthrough\nmodels: [{model: base}]\n").unwrap().0);
    let memory = |plan: &Plan, threads: u64| plan.summary(false).memory_bytes / threads;
    let threads = Settings::default().thread_count() as u64;
    assert!(memory(&with, 2) > memory(&without, threads), "the factors count");
}

#[test]
fn what_an_adapter_holds_and_nobody_understands_is_refused_by_name() {
    for (setup, expected) in [
        (
            Setup::new().up().tensor("model.embed_tokens.token_adapter.trainable_tokens_delta", &[1, 8]),
            "trainable_tokens_delta",
        ),
        (Setup::new().tensor(&format!("{UP}.lora_A.weight"), &[3, 8]), "factor B"),
        (Setup::new().up().config(json!({"r": 4})), "rank 3"),
        (Setup::new().up().config(json!({"lora_alpha": 1e300})), "too large"),
        (Setup::new().up().config(json!({"use_dora": true})), "magnitude"),
        (Setup::new().up().tensor(&format!("{UP}.lora_magnitude_vector"), &[12]), "use_dora"),
        (
            Setup::new()
                .up()
                .tensor(&format!("transformer.{UP}.lora_A.weight"), &[3, 8])
                .tensor(&format!("transformer.{UP}.lora_B.weight"), &[12, 3]),
            "twice",
        ),
        (Setup::new().up().config(json!({"layer_replication": [[0, 1]]})), "layer_replication"),
        (
            Setup::new()
                .tensor(&format!("{UP}.lora_A.weight"), &[3, 8, 1])
                .tensor(&format!("{UP}.lora_B.weight"), &[12, 3]),
            "[3, 8, 1]",
        ),
        (Setup::new().up().tensor("model.norm.bias", &[8]), "model.norm.bias"),
        (Setup::new().up().tensor("model.embed_tokens.weight", &[17, 8]), "resize"),
    ] {
        let refusal = setup.refused(PLAIN);
        assert!(refusal.contains(expected) && refusal.contains("adapter"), "{expected}: {refusal}");
    }
}
