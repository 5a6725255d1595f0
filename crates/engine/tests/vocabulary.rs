//! Files that speak of tokens, as a merge writes them.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use checkpoint::{Access, Dtype};
use engine::{Observer, Plan, Settings, Sources};
use recipe::{Recipe, Refusal};
use serde_json::{Value, json};
use testkit::{TinyCheckpoint, read_checkpoint};

/// Checkpoints a and b, and a tokenizer of three tokens beside each.
struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    fn new(a: &[&str; 3], b: &[&str; 3]) -> Models {
        let models = Models { dir: tempfile::tempdir().unwrap() };
        for (name, tokens, seed) in [("a", a, 1), ("b", b, 2)] {
            TinyCheckpoint::llama(1, Dtype::F32, seed).write(&models.dir.path().join(name));
            models.put(name, "tokenizer.json", &words(tokens));
        }
        models
    }

    fn put(&self, model: &str, file: &str, content: &Value) {
        std::fs::write(self.dir.path().join(model).join(file), content.to_string()).unwrap();
    }

    fn set_config(&self, model: &str, key: &str, value: Value) {
        let path = self.dir.path().join(model).join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn plan(&self, more: &str) -> Result<(Plan, Sources), Refusal> {
        let text = format!("merge_method: linear\nmodels: [{{model: a}}, {{model: b}}]\n{more}");
        let recipe = Recipe::parse(&text, false)?;
        engine::open_and_plan(&recipe, &Access::Under(vec![self.dir.path().to_owned()]), &Settings::default())
    }

    fn refused(&self, more: &str) -> String {
        self.plan(more).map(|_| ()).unwrap_err().to_string()
    }

    fn warnings(&self, more: &str) -> Vec<String> {
        self.plan(more).unwrap().0.warnings.into_iter().map(|w| w.detail).collect()
    }

    fn merge(&self, more: &str) -> Out {
        let (plan, sources) = self.plan(more).unwrap_or_else(|refusal| panic!("{refusal}"));
        let out = tempfile::tempdir_in(&self.dir).unwrap().keep();
        let observer = Observer { on_progress: &|_| {}, cancel: &AtomicBool::new(false) };
        engine::execute(&plan, &sources, "", &out, &observer).unwrap();
        Out(out)
    }
}

struct Out(PathBuf);

impl Out {
    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_str(&self.text(file)).unwrap()
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }
}

fn words(tokens: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    json!({"model": {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}, "added_tokens": []})
}

const TALK: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

#[test]
fn a_template_is_written_where_libraries_look_for_it() {
    let models = Models::new(&["<unk>", "x", "</s>"], &["<unk>", "x", "</s>"]);
    models.put("a", "tokenizer_config.json", &json!({"eos_token": "</s>", "chat_template": "old"}));
    models.put("a", "chat_template.json", &json!({"chat_template": "older"}));
    let out = models.merge(&format!("chat_template: '{TALK}'\n"));
    assert_eq!(out.text("chat_template.jinja"), TALK);
    assert_eq!(out.json("tokenizer_config.json"), json!({"eos_token": "</s>", "chat_template": TALK}));
    assert!(!out.has("chat_template.json"));
}

#[test]
fn auto_takes_the_template_that_most_models_have() {
    let models = Models::new(&["<unk>", "x", "</s>"], &["<unk>", "x", "</s>"]);
    models.put("a", "tokenizer_config.json", &json!({"chat_template": format!("\n{TALK} ")}));
    std::fs::write(models.dir.path().join("b/chat_template.jinja"), "{% broken").unwrap();
    assert_eq!(models.merge("chat_template: auto\n").text("chat_template.jinja"), TALK);
    let warnings = models.warnings("chat_template: auto\n");
    assert!(warnings.iter().any(|w| w.starts_with("that of model \"b\" is not counted")), "{warnings:?}");
    std::fs::remove_file(models.dir.path().join("a/tokenizer_config.json")).unwrap();
    let warnings = models.warnings("chat_template: auto\n");
    assert!(warnings.iter().any(|w| w.contains("no model has a chat template")), "{warnings:?}");
}

#[test]
fn a_template_that_does_not_parse_is_refused_where_it_stands() {
    let models = Models::new(&["<unk>", "x", "</s>"], &["<unk>", "x", "</s>"]);
    let refused = models.refused("chat_template: '{% if x %}'\n");
    assert!(
        refused.contains("line 3") && refused.contains("/chat_template: the chat template does not parse"),
        "{refused}"
    );
    assert!(models.refused("chat_template: chatlm\n").contains("`chatml`"));
}

#[test]
fn a_template_whose_marks_are_no_tokens_is_warned_of() {
    let models = Models::new(&["<unk>", "<|im_start|>", "</s>"], &["<unk>", "<|im_start|>", "</s>"]);
    let warnings = models.warnings("chat_template: chatml\n");
    assert!(warnings.iter().any(|w| w.contains("writes <|im_end|>, which are no tokens")), "{warnings:?}");
}

#[test]
fn ids_of_special_tokens_follow_the_vocabulary_of_another_model() {
    let models = Models::new(&["<unk>", "<s>", "</s>"], &["</s>", "<e>", "<s>"]);
    models.set_config("a", "eos_token_id", json!(2));
    models.set_config("a", "bos_token_id", json!(1));
    models.set_config("b", "eos_token_id", json!(1));
    models.put("a", "generation_config.json", &json!({"temperature": 0.5, "bos_token_id": 1, "eos_token_id": [2]}));
    models.put("b", "generation_config.json", &json!({"temperature": 0.1, "eos_token_id": [1, 0]}));
    models.put("b", "tokenizer_config.json", &json!({"eos_token": "<e>"}));
    let out = models.merge("tokenizer: {source: b}\n");
    let config = out.json("config.json");
    assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&json!(2), &json!(1)));
    let generation = out.json("generation_config.json");
    assert_eq!(generation, json!({"temperature": 0.5, "bos_token_id": 2, "eos_token_id": [1, 0]}));
    assert_eq!(out.json("tokenizer_config.json"), json!({"eos_token": "<e>"}));
}

#[test]
fn configs_that_disagree_with_the_tokenizer_are_told_and_left() {
    let models = Models::new(&["<unk>", "x", "</s>"], &["<unk>", "y", "</s>"]);
    models.set_config("a", "eos_token_id", json!(1));
    models.put("a", "tokenizer_config.json", &json!({"eos_token": "</s>"}));
    let warnings = models.warnings("tokenizer: {source: union}\n");
    let expected = "config.json: eos_token_id is 1, but tokenizer_config.json says \"</s>\", which has id 2; generation goes by the former";
    assert!(warnings.iter().any(|w| w == expected), "{warnings:?}");
    assert_eq!(models.merge("tokenizer: {source: union}\n").json("config.json")["eos_token_id"], 1);
}

#[test]
fn special_tokens_that_a_union_brings_are_listed_in_the_tokenizers_config() {
    let models = Models::new(&["<unk>", "x", "</s>"], &["<unk>", "x", "<|a|>"]);
    let mut added = words(&["<unk>", "x", "<|a|>"]);
    let token = json!({"id": 2, "content": "<|a|>", "special": true, "lstrip": false, "rstrip": false, "single_word": false, "normalized": false});
    added["added_tokens"] = json!([token]);
    models.put("b", "tokenizer.json", &added);
    models.put("a", "tokenizer_config.json", &json!({"added_tokens_decoder": {}, "eos_token": "</s>"}));
    let out = models.merge("tokenizer: {source: union}\n");
    let listed = out.json("tokenizer_config.json")["added_tokens_decoder"].clone();
    assert_eq!(
        (&listed["3"]["content"], &listed["3"]["special"], &listed["3"]["id"]),
        (&json!("<|a|>"), &json!(true), &Value::Null)
    );
    assert_eq!(out.json("config.json")["vocab_size"], 4);
}

#[test]
fn a_bias_with_a_value_for_each_token_is_gathered_too() {
    let models = Models { dir: tempfile::tempdir().unwrap() };
    for (name, tokens, seed, head) in
        [("a", ["p", "q", "r"], 1, [1.0, 2.0, 3.0]), ("b", ["r", "p", "s"], 2, [3.0, 1.0, 4.0])]
    {
        let mut model = TinyCheckpoint::llama(1, Dtype::F32, seed);
        let mut bias = [0.0; 16];
        bias[..3].copy_from_slice(&head);
        model.set("lm_head.bias", Dtype::F32, &[16], &bias);
        model.write(&models.dir.path().join(name));
        models.put(name, "tokenizer.json", &words(&tokens));
    }
    let out = models.merge("tokenizer: {source: union}\nparameters: {weight: 1}\n");
    assert_eq!(read_checkpoint(&out.0)["lm_head.bias"].values, [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn a_sentencepiece_model_serves_where_there_is_no_tokenizer_json() {
    let models = Models::new(&["<unk>", "x", "</s>"], &["<unk>", "x", "</s>"]);
    let piece = |text: &str, kind: u8| {
        [&[10, text.len() as u8 + 4, 10, text.len() as u8], text.as_bytes(), &[24, kind]].concat()
    };
    let spiece = [piece("<unk>", 2), piece("y", 1), piece("</s>", 3)].concat();
    std::fs::remove_file(models.dir.path().join("b/tokenizer.json")).unwrap();
    assert!(models.refused("tokenizer: {source: union}\n").contains("no tokenizer.json and no tokenizer.model"));
    std::fs::write(models.dir.path().join("b/tokenizer.model"), &spiece).unwrap();
    let out = models.merge("tokenizer: {source: union}\n");
    assert_eq!(out.json("tokenizer.json")["model"]["vocab"], json!({"<unk>": 0, "x": 1, "</s>": 2, "y": 3}));
    let out = models.merge("tokenizer: {source: b}\n");
    assert!(out.has("tokenizer.model") && !out.has("tokenizer.json"), "the donor's is carried as it is");
}
