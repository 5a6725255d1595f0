//! Models of several modules, tied heads, layers that configs describe one by one, and tensors that not all models have.

use checkpoint::Dtype;
use serde_json::{Value, json};
use testkit::{TinyCheckpoint, read_checkpoint};

use super::{Models, llamas};

/// A vision-language model: two text layers, one of vision, a projector.
fn vision_language(seed: u64) -> TinyCheckpoint {
    let mut model = TinyCheckpoint {
        tensors: Default::default(),
        config: json!({
            "architectures": ["TinyVlForConditionalGeneration"], "model_type": "tiny_vl", "torch_dtype": "float32",
            "text_config": {"num_hidden_layers": 2, "vocab_size": 16, "layer_types": ["full", "sliding"]},
            "vision_config": {"depth": 1},
        }),
    };
    let mut stream = seed;
    for name in [
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.up.weight",
        "model.language_model.layers.1.up.weight",
        "model.language_model.norm.weight",
        "model.visual.blocks.0.up.weight",
        "model.visual.merger.mlp.0.weight",
        "lm_head.weight",
    ] {
        model.random(name, Dtype::F32, &[16, 4], &mut stream);
    }
    model
}

fn config(out: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap()
}

#[test]
fn each_module_is_merged_as_it_says_and_the_others_come_from_the_base() {
    let models = Models::new(&[vision_language(1), vision_language(2)]);
    let recipe = "merge_method: linear\nparameters: {weight: 0.25}\nmodules:\n  text_decoder:\n    parameters: {weight: 0.5}\n    slices:\n    - {sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2], parameters: {weight: 1.5}}]}\n    - {sources: [{model: b, layer_range: [1, 2]}]}\n  visual:\n    models: [{model: a}, {model: b}]\n";
    let (plan, _) = models.plan(recipe, &Default::default()).unwrap();
    let told: Vec<&str> =
        plan.warnings.iter().filter(|w| w.code == "module_copied").map(|w| w.detail.as_str()).collect();
    assert_eq!(told, [r#"module `multi_modal_projector` is not mentioned, so it is taken as it is from "a""#]);
    let (out, _) = models.merge(recipe);
    let [a, b, ours] =
        [models.dir.path().join("a"), models.dir.path().join("b"), out.clone()].map(|d| read_checkpoint(&d));
    let mix = |name: &str, weights: [f64; 2]| {
        let sum = weights[0] + weights[1];
        let expected = a[name].values.iter().zip(&b[name].values).map(|(x, y)| (weights[0] * x + weights[1] * y) / sum);
        assert!(ours[name].values.iter().zip(expected).all(|(o, e)| (o - e).abs() < 1e-6), "{name}");
    };
    mix("model.language_model.layers.1.up.weight", [0.5, 1.5]);
    mix("model.visual.blocks.0.up.weight", [0.25, 0.25]);
    assert_eq!(ours["model.visual.merger.mlp.0.weight"], a["model.visual.merger.mlp.0.weight"]);
    assert_eq!(
        ours["model.language_model.layers.2.up.weight"].values,
        b["model.language_model.layers.1.up.weight"].values
    );
    // the head follows the last slice
    assert_eq!(ours["lm_head.weight"].values, b["lm_head.weight"].values);
    assert_eq!(config(&out)["text_config"]["num_hidden_layers"], 3);
    assert_eq!(config(&out)["text_config"]["layer_types"], json!(["full", "sliding", "sliding"]));
    assert_eq!(config(&out)["vision_config"]["depth"], 1);
}

#[test]
fn a_module_that_is_not_there_is_told_with_those_that_are() {
    let models = Models::new(&[vision_language(1), vision_language(2)]);
    let of = |name: &str| {
        models.refused(&format!("merge_method: linear\nmodules:\n  {name}: {{models: [{{model: a}}, {{model: b}}]}}\n"))
    };
    assert!(of("text_decodr").contains("did you mean `text_decoder`?"), "{}", of("text_decodr"));
    assert!(of("x").contains("it has multi_modal_projector, vision_tower, text_decoder"), "{}", of("x"));
    let sliced = models.refused("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n");
    assert!(sliced.contains("write `modules:"), "{sliced}");
}

#[test]
fn what_only_some_models_have_is_refused_with_the_list_or_copied() {
    let mut list = llamas(2, Dtype::F32);
    list[1].random("extra.weight", Dtype::F32, &[3], &mut 7);
    list[1].random("more.weight", Dtype::F32, &[3], &mut 8);
    let models = Models::new(&list);
    let recipe = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n";
    let refused = models.refused(recipe);
    assert!(refused.contains(r#"2 tensors ("extra.weight", "more.weight"): not in "a""#), "{refused}");
    let (out, _) = models.merge(&format!("{recipe}options: {{unknown_tensors: copy}}\n"));
    let (ours, b) = (read_checkpoint(&out), read_checkpoint(&models.dir.path().join("b")));
    assert_eq!(ours["extra.weight"], b["extra.weight"]);
}

#[test]
fn layers_that_the_config_does_not_count_are_unknown_tensors_of_slices() {
    let mut list = llamas(1, Dtype::F32);
    list[0].config["num_hidden_layers"] = 2.into();
    let models = Models::new(&list);
    let recipe = "merge_method: passthrough\nslices:\n- {sources: [{model: a, layer_range: [0, 1]}]}\n- {sources: [{model: a, layer_range: [0, 2]}]}\n";
    assert!(models.refused(recipe).contains("past the layers that config.json counts"));
    let (out, _) = models.merge(&format!("{recipe}options: {{unknown_tensors: copy}}\n"));
    let (ours, a) = (read_checkpoint(&out), read_checkpoint(&models.dir.path().join("a")));
    let up = |layer: u32| format!("model.layers.{layer}.mlp.up_proj.weight");
    assert_eq!(ours[&up(3)], a[&up(2)]);
    assert_eq!(config(&out)["num_hidden_layers"], 3);
}

#[test]
fn uncounted_layers_of_another_model_are_told_too() {
    let mut list = llamas(2, Dtype::F32);
    list[0].config["num_hidden_layers"] = 2.into();
    let models = Models::new(&list);
    let recipe = "merge_method: passthrough\nslices:\n- {sources: [{model: a, layer_range: [0, 1]}]}\n- {sources: [{model: b, layer_range: [1, 3]}]}\n";
    assert!(models.refused(recipe).contains("model.layers.2.mlp.up_proj.weight"), "{}", models.refused(recipe));
    let copied = format!("{recipe}options: {{unknown_tensors: copy}}\n");
    let (plan, _) = models.plan(&copied, &Default::default()).unwrap();
    assert!(plan.warnings.iter().any(|w| w.code == "left_out" && w.detail.contains("model.layers.2.")));
}

#[test]
fn a_head_that_one_model_ties_is_written_and_the_flag_follows() {
    let mut list = llamas(2, Dtype::F32);
    list[0].tensors.remove("lm_head.weight");
    list[0].config["tie_word_embeddings"] = true.into();
    let models = Models::new(&list);
    let (out, _) = models.merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\n");
    let [a, b, ours] = ["a", "b", "out"].map(|d| read_checkpoint(&models.dir.path().join(d)));
    let expected =
        a["model.embed_tokens.weight"].values.iter().zip(&b["lm_head.weight"].values).map(|(x, y)| (x + y) / 2.0);
    assert!(ours["lm_head.weight"].values.iter().zip(expected).all(|(o, e)| (o - e).abs() < 1e-6));
    assert_eq!(config(&out)["tie_word_embeddings"], false);
}

#[test]
fn buffers_that_loaders_make_anew_need_not_be_in_every_model() {
    let mut list = llamas(2, Dtype::F32);
    list[1].random("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, &[4], &mut 1);
    let models = Models::new(&list);
    let (plan, _) =
        models.plan("merge_method: linear\nmodels: [{model: a}, {model: b}]\n", &Default::default()).unwrap();
    assert!(plan.warnings.iter().any(|w| w.code == "left_out" && w.detail.contains("inv_freq")));
    assert!(plan.tasks.iter().all(|t| !t.name.contains("inv_freq")));
}

#[test]
fn vocabularies_are_cut_only_where_the_recipe_says_so() {
    let mut list = llamas(2, Dtype::F32);
    list[1].random("model.embed_tokens.weight", Dtype::F32, &[20, 8], &mut 1);
    list[1].random("lm_head.weight", Dtype::F32, &[20, 8], &mut 2);
    list[1].config["vocab_size"] = 20.into();
    let models = Models::new(&list);
    let recipe = "merge_method: linear\nbase_model: b\nmodels: [{model: b}, {model: a}]\n";
    assert!(models.refused(recipe).contains("add `tokenizer: {source: base}`"));
    let (out, _) = models.merge(&format!("{recipe}options: {{unsafe_truncate_embeddings: true}}\n"));
    let [a, b, ours] = ["a", "b", "out"].map(|d| read_checkpoint(&models.dir.path().join(d)));
    assert_eq!(ours["lm_head.weight"].shape, [16, 8]);
    let expected = a["lm_head.weight"].values.iter().zip(&b["lm_head.weight"].values).map(|(x, y)| (x + y) / 2.0);
    assert!(ours["lm_head.weight"].values.iter().zip(expected).all(|(o, e)| (o - e).abs() < 1e-6));
    assert_eq!(config(&out)["vocab_size"], 16);
}

#[test]
fn a_shared_embedding_is_given_to_both_sides_where_a_tie_ends() {
    let bart = |seed: u64, head: bool| {
        let mut model = TinyCheckpoint {
            tensors: Default::default(),
            config: json!({
                "architectures": ["BartForConditionalGeneration"], "model_type": "bart", "is_encoder_decoder": true,
                "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 16, "tie_word_embeddings": !head,
            }),
        };
        let mut stream = seed;
        for name in ["model.shared.weight", "model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight"] {
            model.random(name, Dtype::F32, &[16, 4], &mut stream);
        }
        if head {
            model.random("lm_head.weight", Dtype::F32, &[16, 4], &mut stream);
        }
        model
    };
    let models = Models::new(&[bart(1, false), bart(2, true)]);
    let (out, _) = models.merge("merge_method: linear\nmodels: [{model: a}, {model: b}]\n");
    let ours = read_checkpoint(&out);
    for side in ["encoder", "decoder"] {
        assert_eq!(ours[&format!("model.{side}.embed_tokens.weight")].values, ours["model.shared.weight"].values);
    }
    assert_eq!(config(&out)["tie_word_embeddings"], false);
}

#[test]
fn slices_of_models_lose_no_tensor_and_no_count() {
    let mut list = llamas(2, Dtype::F32);
    list[0].random("model.extra.weight", Dtype::F32, &[3], &mut 7);
    list.iter_mut().for_each(|m| drop(m.config.as_object_mut().unwrap().remove("num_hidden_layers")));
    list.iter_mut().for_each(|m| m.config["n_heads"] = 3.into());
    let sliced = "merge_method: passthrough\nslices:\n- {sources: [{model: b, layer_range: [0, 2]}]}\n";
    assert!(Models::new(&list).refused(sliced).contains("how many layers"));
    list.iter_mut().for_each(|m| m.config["depth_of_mine"] = 3.into());
    let models = Models::new(&list);
    let recipe = "merge_method: passthrough\nslices:\n- {sources: [{model: a, layer_range: [0, 2]}]}\n- {sources: [{model: b, layer_range: [1, 3]}]}\n";
    assert!(models.refused(recipe).contains("model.extra.weight"), "{}", models.refused(recipe));
    let (out, _) = models.merge(&format!("{recipe}options: {{unknown_tensors: copy}}\n"));
    assert!(read_checkpoint(&out).contains_key("model.extra.weight"));
    assert_eq!((&config(&out)["depth_of_mine"], &config(&out)["n_heads"]), (&json!(4), &json!(3)));
}

#[test]
fn a_copied_tensor_is_copied_where_rows_follow_tokens_too() {
    let mut list = llamas(2, Dtype::F32);
    for (i, model) in list.iter_mut().enumerate() {
        model.tensors.remove("lm_head.weight");
        model.config["tie_word_embeddings"] = false.into();
        if i == 1 {
            model.random("lm_head.weight", Dtype::F32, &[16, 8], &mut 5);
        }
    }
    let models = Models::new(&list);
    for (name, tokens) in [("a", 12), ("b", 14)] {
        let vocab: serde_json::Map<String, Value> = (0..tokens).map(|i| (format!("t{i}"), i.into())).collect();
        let tokenizer = json!({"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}});
        std::fs::write(models.dir.path().join(name).join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }
    let recipe = "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 0.3}}\n- {model: b, parameters: {weight: 0.5}}\nparameters: {normalize: false}\ntokenizer: {source: union}\noptions: {unknown_tensors: copy}\n";
    let (out, _) = models.merge(recipe);
    let (ours, b) = (read_checkpoint(&out), read_checkpoint(&models.dir.path().join("b")));
    assert_eq!(ours["lm_head.weight"].values[..14 * 8], b["lm_head.weight"].values[..14 * 8]);
}
