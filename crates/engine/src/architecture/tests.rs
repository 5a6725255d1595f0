use checkpoint::{Access, Dtype};
use serde_json::json;
use testkit::TinyCheckpoint;

use super::*;

fn architecture(config: Value, tensors: &[&str]) -> (Checkpoint, Architecture) {
    let mut tiny = TinyCheckpoint { tensors: BTreeMap::new(), config };
    for name in tensors {
        tiny.set(name, Dtype::F32, &[1], &[0.0]);
    }
    let dir = tempfile::tempdir().unwrap();
    tiny.write(dir.path());
    let checkpoint = Checkpoint::open(dir.path(), &Access::Anywhere).unwrap();
    let architecture = Architecture::of(&checkpoint, None);
    (checkpoint, architecture)
}

fn modules(architecture: &Architecture) -> Vec<(&str, Option<(&str, u32)>)> {
    architecture
        .modules
        .iter()
        .map(|m| (m.name.as_str(), m.stack.as_ref().map(|s| (s.prefix.as_str(), s.count))))
        .collect()
}

#[test]
fn a_text_model_is_one_module_whose_stack_the_config_names() {
    let (checkpoint, found) = architecture(
        json!({"num_hidden_layers": 2}),
        &[
            "model.embed_tokens.weight",
            "model.layers.0.a",
            "model.layers.1.a",
            "model.layers.1.experts.0.w",
            "lm_head.weight",
        ],
    );
    assert_eq!(modules(&found), [("default", Some(("model.layers", 2)))]);
    assert_eq!(found.contradiction(&checkpoint), None);
    assert_eq!(found.layer("model.layers.1.experts.0.w").map(|(l, n)| (l.index, n)), Some((1, 2)));
    assert_eq!(found.layer("lm_head.weight"), None);
}

#[test]
fn layers_past_what_the_config_says_are_no_part_of_the_depth() {
    let (_, found) = architecture(json!({"num_hidden_layers": 2}), &["l.0.a", "l.1.a", "l.2.a"]);
    assert_eq!(modules(&found), [("default", Some(("l", 2)))]);
}

#[test]
fn a_vision_language_model_has_a_projector_a_tower_and_a_decoder() {
    let tensors = [
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.a",
        "model.language_model.layers.1.a",
        "model.visual.blocks.0.a",
        "model.visual.merger.mlp.0.weight",
        "model.visual.merger.mlp.2.weight",
        "lm_head.weight",
    ];
    let config = json!({"text_config": {"num_hidden_layers": 2}, "vision_config": {"depth": 1}});
    let (_, found) = architecture(config, &tensors);
    assert_eq!(
        modules(&found),
        [
            ("multi_modal_projector", None),
            ("vision_tower", Some(("model.visual.blocks", 1))),
            ("text_decoder", Some(("model.language_model.layers", 2))),
        ]
    );
    assert_eq!(found.find("visual"), Some(1));
    assert_eq!(found.module_of("lm_head.weight"), 2);
}

#[test]
fn an_encoder_and_a_decoder_are_modules_and_what_they_share_is_one() {
    let tensors =
        ["shared.weight", "encoder.block.0.layer.0.a", "decoder.block.0.layer.0.a", "decoder.block.1.layer.0.a"];
    let config = json!({"is_encoder_decoder": true, "num_layers": 1, "num_decoder_layers": 2});
    let (_, found) = architecture(config, &tensors);
    assert_eq!(
        modules(&found),
        [("encoder", Some(("encoder.block", 1))), ("decoder", Some(("decoder.block", 2))), ("shared", None)]
    );
}

#[test]
fn stacks_that_nothing_explains_are_a_module_each() {
    let (_, found) = architecture(json!({}), &["a.0.x", "a.1.x", "b.0.x", "b.1.x", "b.2.x", "head"]);
    assert_eq!(modules(&found), [("a", Some(("a", 2))), ("b", Some(("b", 3))), ("default", None)]);
}

#[test]
fn a_config_that_promises_more_layers_than_there_are_is_told() {
    let (checkpoint, found) = architecture(json!({"num_hidden_layers": 3}), &["l.0.a", "l.1.a"]);
    assert!(
        found.contradiction(&checkpoint).unwrap().contains("says 3 layers (num_hidden_layers) and its tensors have 2")
    );
    let (checkpoint, found) = architecture(json!({"num_hidden_layers": -1}), &["l.0.a", "l.1.a"]);
    assert!(found.contradiction(&checkpoint).unwrap().contains("no number of layers"));
}

#[test]
fn two_spellings_of_one_family_become_one() {
    let of = |names: &[&str]| architecture(json!({"model_type": "gpt2", "n_layer": 1}), names).0;
    let full = of(&["transformer.h.0.a", "transformer.wte.weight", "lm_head.weight"]);
    let bare = of(&["h.0.a", "wte.weight"]);
    let names = |c: &Checkpoint| c.tensors.keys().cloned().collect::<Vec<_>>();
    let mut spelled = of(&["h.0.a", "wte.weight"]);
    spell_alike(&mut spelled, &full);
    assert_eq!(names(&spelled), ["transformer.h.0.a", "transformer.wte.weight"]);
    let mut spelled = of(&["transformer.h.0.a", "transformer.wte.weight", "lm_head.weight"]);
    spell_alike(&mut spelled, &bare);
    assert_eq!(names(&spelled), ["h.0.a", "lm_head.weight", "wte.weight"]);
}
