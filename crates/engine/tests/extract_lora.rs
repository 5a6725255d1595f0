//! Adapters extracted from the difference of two models, and applied again.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use checkpoint::{Access, Dtype};
use engine::{Observer, Plan, Progress, Settings, Sources};
use recipe::{Recipe, Refusal};
use serde_json::{Value, json};
use testkit::{Tensor, TinyCheckpoint, read_checkpoint};

const UP: &str = "model.layers.0.mlp.up_proj.weight";

struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    fn new(base: &TinyCheckpoint, tuned: &TinyCheckpoint) -> Models {
        let dir = tempfile::tempdir().unwrap();
        base.write(&dir.path().join("base"));
        tuned.write(&dir.path().join("tuned"));
        Models { dir }
    }

    /// A fine-tune of which every tensor differs.
    fn far() -> Models {
        Models::new(&TinyCheckpoint::llama(2, Dtype::F32, 1), &TinyCheckpoint::llama(2, Dtype::F32, 2))
    }

    fn plan(&self, recipe: &str, settings: &Settings) -> Result<(Plan, Sources), Refusal> {
        let access = Access::Under(vec![self.dir.path().to_owned()]);
        engine::open_and_plan(&Recipe::parse(recipe, false)?, &access, settings)
    }

    fn make(&self, recipe: &str, out: &str, threads: usize) -> PathBuf {
        let settings = Settings { threads, ..Settings::default() };
        let (plan, sources) = self.plan(recipe, &settings).unwrap_or_else(|refusal| panic!("{refusal}"));
        let out = self.dir.path().join(out);
        let (last, cancel) = (Mutex::new(None), AtomicBool::new(false));
        let watch = |progress: Progress| *last.lock().unwrap() = Some(progress);
        engine::execute(&plan, &sources, recipe, &out, &Observer { on_progress: &watch, cancel: &cancel }).unwrap();
        if recipe.starts_with("merge_method: extract_lora") {
            let last = last.into_inner().unwrap().unwrap();
            assert_eq!((last.tensors_done, last.bytes_done), (last.tensors_total, last.bytes_total));
        }
        out
    }

    fn extract(&self, parameters: &str) -> PathBuf {
        self.make(&extraction(parameters), "adapter", 2)
    }

    /// The base with the adapter that was extracted.
    fn rebuilt(&self) -> BTreeMap<String, Tensor> {
        let recipe = "merge_method: passthrough\nmodels: [{model: base+adapter}]\n";
        read_checkpoint(&self.make(recipe, "rebuilt", 2))
    }

    fn tuned(&self) -> BTreeMap<String, Tensor> {
        read_checkpoint(&self.dir.path().join("tuned"))
    }
}

fn extraction(parameters: &str) -> String {
    format!("merge_method: extract_lora\nbase_model: base\nmodels: [{{model: tuned}}]\nparameters: {{{parameters}}}\n")
}

fn read(dir: &std::path::Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape, b.shape);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.values.iter().zip(&b.values).map(|(a, b)| a - b)) / norm(&mut b.values.iter().copied())
}

#[test]
fn an_adapter_of_full_rank_gives_the_fine_tuned_model_back() {
    for parameters in ["rank: 8", "rank: 8, embeddings: true"] {
        let models = Models::far();
        let adapter = models.extract(parameters);
        let (rebuilt, tuned) = (models.rebuilt(), models.tuned());
        assert_eq!(rebuilt.keys().collect::<Vec<_>>(), tuned.keys().collect::<Vec<_>>());
        for (name, tuned) in &tuned {
            assert!(distance(&rebuilt[name], tuned) < 2e-6, "{name}");
        }
        let factors = read_checkpoint(&adapter);
        let has = |name: &str| factors.contains_key(&format!("base_model.model.{name}"));
        assert!(has("model.norm.weight") && has("model.layers.1.self_attn.q_proj.lora_A.weight"));
        assert_eq!(has("model.embed_tokens.lora_embedding_A"), parameters.contains("embeddings"));
        assert_eq!(has("lm_head.lora_B.weight"), parameters.contains("embeddings"));
        assert_eq!(has("lm_head.weight"), !parameters.contains("embeddings"));
    }
}

#[test]
fn a_difference_of_low_rank_is_captured_whole_and_what_does_not_differ_is_left_out() {
    let base = TinyCheckpoint::llama(1, Dtype::F32, 1);
    let mut tuned = base.clone();
    let dir = tempfile::tempdir().unwrap();
    base.write(dir.path());
    let mut values: Vec<f32> = read_checkpoint(dir.path())[UP].values.iter().map(|v| *v as f32).collect();
    values.iter_mut().enumerate().for_each(|(e, v)| *v += 0.1 * (e / 8 + 1) as f32 * (e % 8) as f32);
    tuned.set(UP, Dtype::F32, &[12, 8], &values);
    let models = Models::new(&base, &tuned);
    let adapter = models.extract("rank: 1");
    assert!(distance(&models.rebuilt()[UP], &models.tuned()[UP]) < 1e-6);
    let config = read(&adapter, "adapter_config.json");
    assert_eq!(config["modules_to_save"], Value::Null);
    assert_eq!(config["target_modules"], json!(["q_proj", "up_proj"]));
    let captured = &read(&adapter, "manifest.json")["adapter"]["captured"];
    assert!(captured["model.layers.0.mlp.up_proj"]["energy"].as_f64().unwrap() > 0.999_999);
}

#[test]
fn energy_takes_no_more_rank_than_it_needs() {
    let models = Models::far();
    let adapter = models.extract("energy: 0.7");
    let captured = read(&adapter, "manifest.json")["adapter"]["captured"].clone();
    let ranks: Vec<u64> = captured.as_object().unwrap().values().map(|m| m["rank"].as_u64().unwrap()).collect();
    for module in captured.as_object().unwrap().values() {
        assert!(module["energy"].as_f64().unwrap() >= 0.7 && module["rank"].as_u64().unwrap() < 8, "{module}");
    }
    let config = read(&adapter, "adapter_config.json");
    assert_eq!(config["r"].as_u64(), ranks.iter().max().copied());
    let factors = read_checkpoint(&adapter);
    for (name, module) in captured.as_object().unwrap() {
        let rank = factors[&format!("base_model.model.{name}.lora_A.weight")].shape[0] as u64;
        assert_eq!(Some(rank), module["rank"].as_u64());
        let in_config = config["rank_pattern"].get(name).unwrap_or(&config["r"]);
        assert_eq!(Some(rank), in_config.as_u64());
    }
}

#[test]
fn filters_give_modules_their_rank_and_none_leaves_them_to_the_base() {
    let models = Models::far();
    let adapter =
        models.extract("rank: [{filter: q_proj, value: 3}, {filter: layers.0, value: 2}, {value: 0}], save: false");
    let names: Vec<String> =
        read_checkpoint(&adapter).keys().map(|n| n.replace("base_model.model.model.layers.", "")).collect();
    assert_eq!(
        names,
        [
            "0.mlp.up_proj.lora_A.weight",
            "0.mlp.up_proj.lora_B.weight",
            "0.self_attn.q_proj.lora_A.weight",
            "0.self_attn.q_proj.lora_B.weight",
            "1.self_attn.q_proj.lora_A.weight",
            "1.self_attn.q_proj.lora_B.weight",
        ]
    );
    let config = read(&adapter, "adapter_config.json");
    assert_eq!(config["target_modules"], json!(["model.layers.0.mlp.up_proj", "q_proj"]));
    assert_eq!(config["rank_pattern"], json!({"model.layers.0.mlp.up_proj": 2}));
}

#[test]
fn biases_beneath_factors_are_carried() {
    let pair = [1u64, 2].map(|seed| {
        let mut model = TinyCheckpoint::llama(1, Dtype::F32, seed);
        let mut stream = seed;
        model.random("model.layers.0.self_attn.q_proj.bias", Dtype::F32, &[8], &mut stream);
        model
    });
    let models = Models::new(&pair[0], &pair[1]);
    let adapter = models.extract("rank: 8");
    assert_eq!(read(&adapter, "adapter_config.json")["bias"], "lora_only");
    let name = "model.layers.0.self_attn.q_proj.bias";
    assert!(distance(&models.rebuilt()[name], &models.tuned()[name]) < 1e-6);
}

#[test]
fn weights_that_lie_as_in_by_out_are_decomposed_turned() {
    let pair = [1u64, 2].map(|seed| {
        let mut stream = seed;
        let mut model = TinyCheckpoint {
            tensors: BTreeMap::new(),
            config: json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 1}),
        };
        model.random("h.0.attn.c_attn.weight", Dtype::F32, &[8, 24], &mut stream);
        model.random("wte.weight", Dtype::F32, &[16, 8], &mut stream);
        model
    });
    let models = Models::new(&pair[0], &pair[1]);
    let adapter = models.extract("rank: 8");
    let factors = read_checkpoint(&adapter);
    assert_eq!(factors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape, [8, 8]);
    assert_eq!(factors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"].shape, [24, 8]);
    assert_eq!(read(&adapter, "adapter_config.json")["fan_in_fan_out"], true);
    for (name, tuned) in &models.tuned() {
        assert!(distance(&models.rebuilt()[name], tuned) < 2e-6, "{name}");
    }
}

#[test]
fn bytes_follow_the_recipe_and_not_the_threads() {
    let wide = |seed: u64| {
        let mut model = TinyCheckpoint::llama(1, Dtype::BF16, seed);
        let mut stream = seed;
        model.random("model.layers.0.mlp.down_proj.weight", Dtype::BF16, &[300, 400], &mut stream);
        model
    };
    let models = Models::new(&wide(1), &wide(2));
    let digest = |out: PathBuf| checkpoint::digest_file(&out.join("manifest.json")).unwrap();
    let recipe = extraction("rank: 5");
    let one = digest(models.make(&recipe, "one", 1));
    assert_eq!(one, digest(models.make(&recipe, "three", 3)));
    let other = models.make(&format!("{recipe}options: {{random_seed: 7}}\n"), "seed", 1);
    assert_ne!(one, digest(other));
}

#[test]
fn an_artifact_has_the_files_of_an_adapter_and_no_others() {
    let models = Models::far();
    let adapter = models.extract("rank: 2");
    let mut names: Vec<String> =
        std::fs::read_dir(&adapter).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json", "recipe.yml"]);
    let manifest = read(&adapter, "manifest.json");
    assert_eq!(manifest["inputs"].as_array().unwrap().len(), 2);
    for file in manifest["outputs"].as_array().unwrap() {
        let path = adapter.join(file["path"].as_str().unwrap());
        assert_eq!(file["sha256"], checkpoint::digest_file(&path).unwrap());
    }
}

#[test]
fn what_does_not_fit_the_memory_is_refused_and_the_peak_is_told() {
    let models = Models::far();
    let (plan, _) = models.plan(&extraction("rank: 2"), &Settings::default()).unwrap();
    assert!(plan.summary(false).memory_bytes > 0);
    let little = Settings { held_memory: 1000, ..Settings::default() };
    let refusal = models.plan(&extraction("rank: 2"), &little).unwrap_err().to_string();
    assert!(refusal.contains("--memory"), "{refusal}");
}

#[test]
fn a_vocabulary_of_another_size_is_saved_whole_and_no_other_tensor_may_differ_in_shape() {
    let base = TinyCheckpoint::llama(1, Dtype::F32, 1);
    let mut stream = 5;
    let mut grown = base.clone();
    grown.random("model.embed_tokens.weight", Dtype::F32, &[17, 8], &mut stream);
    let models = Models::new(&base, &grown);
    let (plan, _) = models.plan(&extraction("rank: 2, embeddings: true"), &Settings::default()).unwrap();
    assert!(plan.warnings.iter().any(|w| w.detail.contains("resized")), "{:?}", plan.warnings);
    let adapter = models.extract("rank: 2, embeddings: true");
    let saved = &read_checkpoint(&adapter)["base_model.model.model.embed_tokens.weight"];
    assert_eq!(saved.bytes, models.tuned()["model.embed_tokens.weight"].bytes);
    let mut wide = base.clone();
    wide.random(UP, Dtype::F32, &[13, 8], &mut stream);
    let refusal = Models::new(&base, &wide).plan(&extraction("rank: 2"), &Settings::default()).expect_err("refused");
    assert!(refusal.to_string().contains("[13, 8]"), "{refusal}");
}

#[test]
fn a_tied_head_is_saved_with_the_embedding_that_it_is() {
    let pair = [1u64, 2].map(|seed| {
        let mut model = TinyCheckpoint::llama(1, Dtype::F32, seed);
        model.tensors.remove("lm_head.weight");
        model.config["tie_word_embeddings"] = json!(true);
        model
    });
    let models = Models::new(&pair[0], &pair[1]);
    let adapter = models.extract("rank: 8");
    assert_eq!(read(&adapter, "adapter_config.json")["modules_to_save"], json!(["embed_tokens", "lm_head", "norm"]));
    let rebuilt = models.rebuilt();
    let embedding = &models.tuned()["model.embed_tokens.weight"].values;
    assert_eq!(
        (&rebuilt["model.embed_tokens.weight"].values, &rebuilt["lm_head.weight"].values),
        (embedding, embedding)
    );
    let (plan, _) = models.plan(&extraction("rank: 8, embeddings: true"), &Settings::default()).unwrap();
    assert!(plan.warnings.iter().any(|w| w.code == "tied_head"), "{:?}", plan.warnings);
}

/// Two models of one shape, of which every tensor differs.
fn pair(config: Value, tensors: &[(&str, &[usize])]) -> Models {
    let [base, tuned] = [1u64, 2].map(|seed| {
        let mut stream = seed;
        let mut model = TinyCheckpoint { tensors: BTreeMap::new(), config: config.clone() };
        tensors.iter().for_each(|(name, shape)| model.random(name, Dtype::F32, shape, &mut stream));
        model
    });
    Models::new(&base, &tuned)
}

/// The names in the adapter's file, without the wrapper's.
fn names(adapter: &std::path::Path) -> Vec<String> {
    read_checkpoint(adapter).keys().map(|name| name.replacen("base_model.model.", "", 1)).collect()
}

#[test]
fn names_are_those_of_the_class_where_files_have_others() {
    let config =
        json!({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_config": {}});
    let models = pair(
        config,
        &[
            ("language_model.model.layers.0.mlp.up_proj.weight", &[12, 8]),
            ("language_model.lm_head.weight", &[16, 8]),
            ("vision_tower.vision_model.encoder.layers.0.norm.weight", &[8]),
        ],
    );
    let adapter = models.extract("rank: 8");
    assert_eq!(
        names(&adapter),
        [
            "lm_head.weight",
            "model.language_model.layers.0.mlp.up_proj.lora_A.weight",
            "model.language_model.layers.0.mlp.up_proj.lora_B.weight",
            "model.vision_tower.encoder.layers.0.norm.weight",
        ]
    );
    for (name, tuned) in &models.tuned() {
        assert!(distance(&models.rebuilt()[name], tuned) < 2e-6, "{name}");
    }
}

#[test]
fn experts_are_left_out_unless_asked_for_and_what_peft_takes_for_them_is_saved_whole() {
    let config = json!({"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"]});
    let models = pair(
        config,
        &[
            ("model.layers.0.mlp.experts.0.up_proj.weight", &[12, 8]),
            ("model.layers.0.mlp.experts.1.up_proj.weight", &[12, 8]),
            ("model.layers.0.mlp.gate.weight", &[2, 8]),
            ("model.layers.0.mlp.gate.e_score_correction_bias", &[2]),
            ("model.layers.1.mlp.up_proj.weight", &[12, 8]),
            ("model.layers.1.self_attn.q_proj.weight", &[8, 8]),
            ("model.layers.1.self_attn.sinks", &[4]),
        ],
    );
    let (plan, _) = models.plan(&extraction("rank: 8"), &Settings::default()).unwrap();
    let told: Vec<&str> = plan.warnings.iter().filter(|w| w.code == "left_out").map(|w| w.detail.as_str()).collect();
    assert!(told.len() == 2 && told[0].contains("sinks") && told[1].contains("experts: true"), "{told:?}");
    let adapter = models.extract("rank: 8");
    assert_eq!(
        names(&adapter),
        [
            "model.layers.0.mlp.gate.e_score_correction_bias",
            "model.layers.0.mlp.gate.weight",
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.1.self_attn.q_proj.lora_A.weight",
            "model.layers.1.self_attn.q_proj.lora_B.weight",
        ]
    );
    let left_out = &read(&adapter, "manifest.json")["adapter"]["left_out"];
    assert_eq!(left_out.as_array().unwrap().len(), 3, "{left_out}");
    let all = models.make(&extraction("rank: 8, experts: true"), "all", 2);
    assert!(names(&all).contains(&"model.layers.0.mlp.experts.1.up_proj.lora_A.weight".to_owned()));
    assert!(names(&all).contains(&"model.layers.1.mlp.up_proj.lora_A.weight".to_owned()));
}

#[test]
fn heads_of_classifiers_are_saved_whole_even_where_they_do_not_differ() {
    let config = json!({"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]});
    let shapes: &[(&str, &[usize])] =
        &[("pre_classifier.weight", &[8, 8]), ("classifier.weight", &[2, 8]), ("classifier.bias", &[2])];
    let models = pair(config, shapes);
    std::fs::copy(models.dir.path().join("tuned/model.safetensors"), models.dir.path().join("base/model.safetensors"))
        .unwrap();
    let adapter = models.extract("rank: 8");
    assert_eq!(names(&adapter), ["classifier.bias", "classifier.weight", "pre_classifier.weight"]);
    assert_eq!(read(&adapter, "adapter_config.json")["modules_to_save"], json!(["classifier", "pre_classifier"]));
}

#[test]
fn a_module_that_holds_numbers_alone_is_saved_whole_and_so_is_what_shares_an_embedding() {
    let config =
        json!({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true});
    let models = pair(
        config,
        &[
            ("shared.weight", &[16, 8]),
            ("encoder.block.0.act.alpha", &[1]),
            ("encoder.block.0.layer.0.relative_attention_bias.weight", &[4, 2]),
        ],
    );
    let adapter = models.extract("rank: 8");
    assert_eq!(
        names(&adapter),
        [
            "decoder.embed_tokens.weight",
            "encoder.block.0.act.alpha",
            "encoder.block.0.layer.0.relative_attention_bias.weight",
            "encoder.embed_tokens.weight",
            "lm_head.weight",
            "shared.weight",
        ]
    );
}

#[test]
fn recipes_that_name_no_difference_are_refused() {
    let models = Models::far();
    for (recipe, expected) in [
        ("merge_method: extract_lora\nmodels: [{model: tuned}]\n", "base"),
        (
            "merge_method: extract_lora\nbase_model: base\nmodels: [{model: tuned}, {model: base}, {model: tuned+base}]\n",
            "exactly 2",
        ),
        (&extraction("rank: 0, save: false"), "nothing is left"),
        (&extraction("rnak: 3"), "did you mean `rank`"),
        (&extraction("energy: 2"), "between 0 and 1"),
        (&(extraction("rank: 2") + "tokenizer: {source: base}\n"), "remove `tokenizer`"),
        (
            "merge_method: extract_lora\nbase_model: base\nslices: [{sources: [{model: tuned, layer_range: [0, 1]}, {model: base, layer_range: [0, 1]}]}]\n",
            "whole model",
        ),
    ] {
        let refusal = models.plan(recipe, &Settings::default()).expect_err("refused").to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}
