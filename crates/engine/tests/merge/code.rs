//! What a model's folder brings beside data, and what is put in its place while a merge goes on.

use super::*;
use serde_json::{Value, json};

const TWO: &str = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n";

/// A model that loads by code of its own, as the Hub has them.
fn with_code(dir: &Path) {
    for name in ["configuration_own.py", "modeling_own.py", "MODELING.PY"] {
        std::fs::write(dir.join(name), "raise SystemExit").unwrap();
    }
    let config = json!({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", null]}});
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("processor_config.json"), "{\"auto_map\": {\"AutoProcessor\": \"other/repo--own.P\"}}")
        .unwrap();
    std::fs::write(dir.join("generation_config.json"), "{\"temperature\": 1}").unwrap();
}

fn model_with_code() -> Models {
    let mut list = llamas(2, Dtype::F32);
    list[0].config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"});
    list[0].config["text_config"] = json!({"auto_map": {"AutoConfig": "configuration_own.OwnConfig"}});
    let models = Models::new(&list);
    with_code(&models.dir.path().join("a"));
    models
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn code_is_in_no_artifact_is_named_by_none_of_its_files_and_is_told() {
    let models = model_with_code();
    let (plan, _) = models.plan(TWO, &Settings::default()).unwrap();
    let told: Vec<&recipe::Problem> = plan.warnings.iter().filter(|w| w.code == "code_left_out").collect();
    let [told] = told.as_slice() else { panic!("{:?}", plan.warnings) };
    assert_eq!(told.pointer, "/models/0/model");
    for part in ["\"a\"", "modeling_own.py", "MODELING.PY", "config.json", "tokenizer_config.json", "LlamaForCausalLM"]
    {
        assert!(told.detail.contains(part), "{part}: {}", told.detail);
    }
    let (out, artifact) = models.merge(TWO);
    for file in &artifact.files {
        let text = std::fs::read(out.join(&file.path)).unwrap();
        assert!(!file.path.to_lowercase().ends_with(".py"), "{}", file.path);
        assert!(!String::from_utf8_lossy(&text).contains("auto_map"), "{}", file.path);
    }
    assert_eq!(json_of(&out.join("tokenizer_config.json")), json!({"tokenizer_class": "OwnTokenizer"}));
    assert_eq!(std::fs::read_to_string(out.join("generation_config.json")).unwrap(), "{\"temperature\": 1}");
    assert_eq!(
        json_of(&out.join("manifest.json"))["code_left_out"],
        json!([{
            "model": "a",
            "files": ["MODELING.PY", "configuration_own.py", "modeling_own.py"],
            "named_in": ["config.json", "processor_config.json", "tokenizer_config.json"],
        }])
    );
}

#[test]
fn code_stays_out_where_the_tokenizer_is_made_anew() {
    let models = model_with_code();
    let recipe = format!("{TWO}chat_template: chatml\n");
    let (out, _) = models.merge(&recipe);
    let config = json_of(&out.join("tokenizer_config.json"));
    assert!(config.get("auto_map").is_none() && config.get("chat_template").is_some(), "{config}");
}

#[test]
fn a_model_without_code_has_no_word_of_it() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let (plan, _) = models.plan(TWO, &Settings::default()).unwrap();
    assert!(plan.warnings.iter().all(|w| w.code != "code_left_out"), "{:?}", plan.warnings);
    let (out, _) = models.merge(TWO);
    assert!(json_of(&out.join("manifest.json")).get("code_left_out").is_none());
}

#[test]
fn a_config_that_may_hide_code_is_refused() {
    let models = model_with_code();
    std::fs::write(models.dir.path().join("b/processor_config.json"), "{\"auto_map\": {}, \"a\": NaN}").unwrap();
    let refused = models.refused(TWO);
    assert!(refused.contains("cannot be told whether it names code"), "{refused}");
}

#[test]
fn code_that_is_named_after_planning_stops_the_merge() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let config = models.dir.path().join("a/tokenizer_config.json");
    std::fs::write(&config, "{}").unwrap();
    let (plan, sources) = models.plan(TWO, &Settings::default()).unwrap();
    std::fs::write(&config, "{\"auto_map\": {}}").unwrap();
    let out = models.dir.path().join("out");
    let error = engine::execute(&plan, &sources, TWO, &out, &quiet(&AtomicBool::new(false))).unwrap_err().to_string();
    assert!(error.contains("names code, which it did not when"), "{error}");
}

#[test]
fn a_model_that_is_swapped_for_a_link_after_planning_lets_nothing_in() {
    let mut list = llamas(3, Dtype::F32);
    let secret = list.pop().unwrap();
    let models = Models::new(&list);
    let (outside, inside) = (tempfile::tempdir().unwrap(), models.dir.path().join("a"));
    secret.write(outside.path());
    let expected = {
        let (out, artifact) = models.merge(TWO);
        std::fs::remove_dir_all(&out).unwrap();
        artifact
    };
    let swap = |models: &Models| {
        std::fs::rename(&inside, models.dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(outside.path(), &inside).unwrap();
    };
    let (plan, sources) = models.plan(TWO, &Settings::default()).unwrap();
    swap(&models);
    let out = models.dir.path().join("out");
    let artifact = engine::execute(&plan, &sources, TWO, &out, &quiet(&AtomicBool::new(false))).unwrap();
    assert_eq!(artifact.files, expected.files, "what was opened is what is merged");
    assert_eq!(artifact.manifest_sha256, expected.manifest_sha256, "and what is digested");
    assert!(models.refused(TWO).contains("no such directory under the source roots"), "and it is no model any more");
}

#[test]
fn a_file_beside_the_weights_that_is_swapped_for_a_link_stops_the_merge() {
    let models = Models::new(&llamas(2, Dtype::F32));
    let (outside, inside) = (tempfile::tempdir().unwrap(), models.dir.path().join("a/tokenizer_config.json"));
    std::fs::write(outside.path().join("secret"), "{\"secret\": 1}").unwrap();
    std::fs::write(&inside, "{}").unwrap();
    let (plan, sources) = models.plan(TWO, &Settings::default()).unwrap();
    std::fs::remove_file(&inside).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), &inside).unwrap();
    let out = models.dir.path().join("out");
    let error = engine::execute(&plan, &sources, TWO, &out, &quiet(&AtomicBool::new(false))).unwrap_err().to_string();
    assert!(error.contains("leads out of the source roots"), "{error}");
    assert!(!out.join("tokenizer_config.json").exists() && !out.join("manifest.json").exists());
}
