//! Adapters merged with each other, without their model.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use checkpoint::{Access, Dtype};
use engine::{Observer, Plan, Progress, Settings, Sources};
use recipe::{Recipe, Refusal};
use serde_json::{Value, json};
use testkit::{Tensor, TinyCheckpoint, read_checkpoint};

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";
const UP: &str = "base_model.model.model.layers.0.mlp.up_proj";

struct Adapters {
    dir: tempfile::TempDir,
}

impl Adapters {
    /// Adapters a and b of rank 2 and 3 for q_proj [8, 8]; b has up_proj [12, 8] too.
    fn new() -> Adapters {
        let adapters = Adapters { dir: tempfile::tempdir().unwrap() };
        adapters.write("a", &[(Q, 8, 8, 2)], json!({"r": 2, "lora_alpha": 4}));
        adapters.write("b", &[(Q, 8, 8, 3), (UP, 12, 8, 3)], json!({"r": 3, "lora_alpha": 3}));
        adapters.write("c", &[(Q, 8, 8, 2)], json!({"r": 2, "lora_alpha": 2}));
        adapters
    }

    fn write(&self, name: &str, modules: &[(&str, usize, usize, usize)], more: Value) {
        self.write_with(name, modules, &[], more);
    }

    /// The same with vectors of 8 beside the factors.
    fn write_with(&self, name: &str, modules: &[(&str, usize, usize, usize)], vectors: &[&str], more: Value) {
        let mut adapter = TinyCheckpoint { tensors: BTreeMap::new(), config: json!({}) };
        let mut stream = u64::from(name.as_bytes()[0]);
        for (module, out, input, rank) in modules {
            adapter.random(&format!("{module}.lora_A.weight"), Dtype::F32, &[*rank, *input], &mut stream);
            adapter.random(&format!("{module}.lora_B.weight"), Dtype::F32, &[*out, *rank], &mut stream);
        }
        for vector in vectors {
            adapter.random(vector, Dtype::F32, &[8], &mut stream);
        }
        let dir = self.dir.path().join(name);
        adapter.write(&dir);
        std::fs::rename(dir.join("model.safetensors"), dir.join("adapter_model.safetensors")).unwrap();
        std::fs::remove_file(dir.join("config.json")).unwrap();
        let mut config = json!({"peft_type": "LORA", "base_model_name_or_path": "org/base", "task_type": "CAUSAL_LM"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    }

    fn plan(&self, recipe: &str) -> Result<(Plan, Sources), Refusal> {
        let access = Access::Under(vec![self.dir.path().to_owned()]);
        engine::open_and_plan(&Recipe::parse(recipe, false)?, &access, &Settings { threads: 2, ..Settings::default() })
    }

    fn merge(&self, recipe: &str) -> PathBuf {
        let (plan, sources) = self.plan(recipe).unwrap_or_else(|refusal| panic!("{refusal}"));
        let out = self.dir.path().join("out");
        let (last, cancel) = (Mutex::new(None), AtomicBool::new(false));
        let watch = |progress: Progress| *last.lock().unwrap() = Some(progress);
        engine::execute(&plan, &sources, recipe, &out, &Observer { on_progress: &watch, cancel: &cancel }).unwrap();
        let last = last.into_inner().unwrap().unwrap();
        assert_eq!((last.tensors_done, last.bytes_done), (last.tensors_total, last.bytes_total));
        out
    }

    fn refused(&self, recipe: &str) -> String {
        self.plan(recipe).expect_err("refused").to_string()
    }

    fn product(&self, adapter: &str, module: &str) -> Vec<f64> {
        product(&self.dir.path().join(adapter), module)
    }
}

/// B A in f64, without a scale.
fn product(dir: &Path, module: &str) -> Vec<f64> {
    let tensors: BTreeMap<String, Tensor> = read_checkpoint(dir);
    let (a, b) = (&tensors[&format!("{module}.lora_A.weight")], &tensors[&format!("{module}.lora_B.weight")]);
    let (rank, columns) = (a.shape[0], a.shape[1]);
    let element = |e: usize| {
        (0..rank).map(|k| b.values[e / columns * rank + k] * a.values[k * columns + e % columns]).sum::<f64>()
    };
    (0..b.shape[0] * columns).map(element).collect()
}

fn of(method: &str, second: &str, parameters: &str) -> String {
    format!(
        "merge_method: {method}\nmodels:\n- {{model: a, parameters: {{weight: 0.7}}}}\n- {{model: {second}, parameters: {{weight: -0.4}}}}\nparameters: {{{parameters}}}\n"
    )
}

fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
    }
}

fn config(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn side_by_side_is_the_weighted_sum_of_what_each_adapter_adds() {
    let adapters = Adapters::new();
    let out = adapters.merge(&of("cat", "b", ""));
    let sum = |a: f64, b: f64| 0.7 * 2.0 * a - 0.4 * 1.0 * b;
    let expected: Vec<f64> =
        adapters.product("a", Q).iter().zip(adapters.product("b", Q)).map(|(a, b)| sum(*a, b)).collect();
    assert_near(&product(&out, Q), &expected);
    // a module of one adapter alone has its share of that one
    let alone: Vec<f64> = adapters.product("b", UP).iter().map(|b| sum(0.0, *b)).collect();
    assert_near(&product(&out, UP), &alone);
    let config = config(&out);
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(5), &json!(5)));
    assert_eq!(config["rank_pattern"], json!({"model.layers.0.mlp.up_proj": 3}));
    assert_eq!(config["target_modules"], json!(["q_proj", "up_proj"]));
    assert_eq!(config["base_model_name_or_path"], "org/base");
}

#[test]
fn the_result_is_an_adapter_that_is_applied_and_merged_again() {
    let adapters = Adapters::new();
    TinyCheckpoint::llama(1, Dtype::F32, 1).write(&adapters.dir.path().join("base"));
    let out = adapters.merge(&of("svd", "b", "rank: 4"));
    assert_eq!(config(&out)["r"], 4);
    std::fs::rename(&out, adapters.dir.path().join("mixed")).unwrap();
    let recipe = "merge_method: passthrough\nmodels: [{model: base+mixed}]\n";
    let (plan, _) = adapters.plan(recipe).unwrap();
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    adapters.merge(&of("core_space", "mixed", "core: ties, density: 0.5"));
}

#[test]
fn core_space_of_the_plain_sum_loses_nothing() {
    let adapters = Adapters::new();
    let sum = product(&adapters.merge(&of("cat", "b", "")), Q);
    std::fs::remove_dir_all(adapters.dir.path().join("out")).unwrap();
    assert_near(&product(&adapters.merge(&of("core_space", "b", "core: sum")), Q), &sum);
}

#[test]
fn a_gradient_runs_over_the_layers() {
    let adapters = Adapters::new();
    let layer = |index: usize| Q.replace("layers.0", &format!("layers.{index}"));
    let names: Vec<String> = (0..3).map(layer).collect();
    let modules: Vec<(&str, usize, usize, usize)> = names.iter().map(|name| (name.as_str(), 8, 8, 2)).collect();
    adapters.write("deep", &modules, json!({"r": 2, "lora_alpha": 2}));
    let out = adapters.merge("merge_method: cat\nmodels: [{model: deep, parameters: {weight: [0, 1, 4]}}]\n");
    for (name, weight) in names.iter().zip([0.0, 1.0, 4.0]) {
        let expected: Vec<f64> = adapters.product("deep", name).iter().map(|x| weight * x).collect();
        assert_near(&product(&out, name), &expected);
    }
}

#[test]
fn every_way_makes_the_same_bytes_again() {
    let adapters = Adapters::new();
    for (method, parameters) in [
        ("linear", ""),
        ("cat", ""),
        ("svd", ""),
        ("ties", "density: 0.5"),
        ("dare_linear", "density: 0.5"),
        ("dare_ties", "density: 0.5, majority_sign_method: frequency"),
        ("magnitude_prune", "density: 0.5"),
        ("core_space", ""),
    ] {
        let digest =
            || checkpoint::digest_file(&adapters.merge(&of(method, "c", parameters)).join("manifest.json")).unwrap();
        assert_eq!(digest(), digest(), "{method}");
        let mut names: Vec<String> = std::fs::read_dir(adapters.dir.path().join("out"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json", "recipe.yml"]
        );
    }
}

#[test]
fn what_has_no_meaning_for_adapters_is_refused_with_the_mend() {
    let adapters = Adapters::new();
    TinyCheckpoint::llama(1, Dtype::F32, 1).write(&adapters.dir.path().join("base"));
    adapters.write("turned", &[(Q, 8, 8, 2)], json!({"r": 2, "lora_alpha": 2, "fan_in_fan_out": true}));
    for (name, tensor, more) in [
        ("dora", format!("{Q}.lora_magnitude_vector"), json!({"r": 2, "lora_alpha": 2, "use_dora": true})),
        ("saved", "base_model.model.lm_head.weight".to_owned(), json!({"r": 2, "lora_alpha": 2})),
    ] {
        adapters.write_with(name, &[(Q, 8, 8, 2)], &[tensor.as_str()], more);
    }
    adapters.write("wide", &[(Q, 8, 9, 2)], json!({"r": 2, "lora_alpha": 2}));
    for (recipe, expected) in [
        (of("linear", "b", ""), "several ranks"),
        (of("slerp", "b", ""), "does not merge adapters"),
        (of("ties", "c", ""), "no `density`"),
        (of("ties", "c", "density: 2"), "between 0 and 1"),
        (of("linear", "base", ""), "write `model: MODEL+a`"),
        (of("cat", "base", ""), "write `model: MODEL+a`"),
        (of("cat", "turned", ""), "fan_in_fan_out"),
        (of("cat", "wide", ""), "another shape"),
        (of("cat", "dora", ""), "DoRA"),
        (of("cat", "saved", ""), "lm_head.weight"),
        (of("cat", "b", "") + "base_model: base\n", "remove `base_model`"),
        ("merge_method: cat\nmodels: [{model: base}]\n".to_owned(), "model: MODEL+ADAPTER"),
    ] {
        let refusal = adapters.refused(&recipe);
        assert!(refusal.contains(expected), "{recipe}: {refusal}");
    }
}

/// What configs alone say of adapters decides their product.
#[test]
fn the_digest_of_a_mixture_follows_the_configs_of_its_adapters() {
    let adapters = Adapters::new();
    let recipe = of("cat", "b", "");
    let digest = || adapters.plan(&recipe).unwrap().0.digest;
    let before = digest();
    let path = adapters.dir.path().join("a/adapter_config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("\"lora_alpha\":4", "\"lora_alpha\":6")).unwrap();
    assert_ne!(digest(), before);
}
