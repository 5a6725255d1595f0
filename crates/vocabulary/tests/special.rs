//! Ids and names of special tokens follow the merged vocabulary.

use serde_json::{Value, json};
use vocabulary::special::{Moved, disagreements, list_added, move_ids, retain_names, take_roles};
use vocabulary::token_ids;

fn words(tokens: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    json!({"model": {"type": "WordLevel", "vocab": vocab}, "added_tokens": []})
}

#[test]
fn ids_follow_their_tokens_alone_and_in_lists() {
    let moved = Moved::between(&words(&["a", "<s>", "</s>", "<e>"]), &words(&["</s>", "<s>", "<e>"]), 0).unwrap();
    let mut config = json!({
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": null, "hidden_size": 2,
        "text_config": {"eos_token_id": 2}, "image_token_index": 3, "unk_token_id": -1,
    });
    assert_eq!(move_ids(&mut config, &moved), Vec::<String>::new());
    let expected = json!({
        "bos_token_id": 1, "eos_token_id": [0, 2], "pad_token_id": null, "hidden_size": 2,
        "text_config": {"eos_token_id": 0}, "image_token_index": 2, "unk_token_id": -1,
    });
    assert_eq!(config, expected);
}

#[test]
fn an_id_whose_token_is_gone_is_taken_out_and_told() {
    let moved = Moved::between(&words(&["a", "<s>", "</s>"]), &words(&["</s>"]), 0).unwrap();
    let mut config = json!({"bos_token_id": 1, "eos_token_id": [1, 2], "pad_token_id": 77});
    assert_eq!(move_ids(&mut config, &moved), ["bos_token_id", "eos_token_id", "pad_token_id"]);
    assert_eq!(config, json!({"eos_token_id": [0]}));
}

#[test]
fn an_id_in_the_padding_stays_where_ids_stay() {
    let moved = Moved::between(&words(&["a"]), &words(&["a", "b"]), 8).unwrap();
    let mut config = json!({"pad_token_id": 7});
    assert!(move_ids(&mut config, &moved).is_empty());
    assert_eq!(config, json!({"pad_token_id": 7}));
}

#[test]
fn roles_are_those_of_the_model_whose_vocabulary_it_is() {
    let mut config = json!({"bos_token_id": 1, "eos_token_id": 2, "text_config": {"eos_token_id": 2}});
    let generation = json!({"eos_token_id": [5, 6]});
    take_roles(&mut config, &[&generation, &json!({"eos_token_id": 5, "pad_token_id": 0, "bos_token_id": null})]);
    let expected =
        json!({"bos_token_id": 1, "eos_token_id": [5, 6], "text_config": {"eos_token_id": 2}, "pad_token_id": 0});
    assert_eq!(config, expected);
}

#[test]
fn a_config_that_says_otherwise_than_the_tokenizer_is_told() {
    let ids = token_ids(&words(&["<s>", "</s>", "<e>"])).unwrap();
    let names = json!({"bos_token": "<s>", "eos_token": {"content": "<e>"}, "pad_token": null});
    let told = disagreements(&json!({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}), &names, &ids);
    assert_eq!(told, ["eos_token_id is 1, but tokenizer_config.json says \"<e>\", which has id 2"]);
    for agreeing in [json!({"eos_token_id": [1, 2]}), json!({"eos_token_id": 2}), json!({}), json!(null)] {
        assert!(disagreements(&agreeing, &names, &ids).is_empty(), "{agreeing}");
    }
}

#[test]
fn names_of_tokens_that_are_gone_are_taken_out() {
    let ids = token_ids(&words(&["<s>"])).unwrap();
    let mut config = json!({
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": {"content": "<pad>"}, "unk_token": null,
        "additional_special_tokens": ["<s>", "<x>"], "extra_special_tokens": {"image": "<i>"},
    });
    assert_eq!(retain_names(&mut config, &ids), ["</s>", "<pad>", "<x>", "<i>"]);
    let expected = json!({
        "bos_token": "<s>", "unk_token": null, "additional_special_tokens": ["<s>"], "extra_special_tokens": {},
    });
    assert_eq!(config, expected);
}

#[test]
fn added_tokens_are_listed_only_where_the_config_lists_them() {
    let mut json = words(&["a", "<s>"]);
    json["added_tokens"] = json!([
        {"id": 1, "content": "<s>", "special": true, "lstrip": false},
        {"id": 2, "content": "<x>", "special": true, "lstrip": true},
    ]);
    let mut config = json!({"added_tokens_decoder": {
        "1": {"content": "<s>", "special": true},
        "2": {"content": "<old>", "special": true},
        "9": {"content": "<gone>"},
    }});
    list_added(&mut config, &json);
    let expected = json!({"added_tokens_decoder": {
        "1": {"content": "<s>", "special": true},
        "2": {"content": "<x>", "special": true, "lstrip": true},
    }});
    assert_eq!(config, expected);
    let mut without = json!({"eos_token": "<s>"});
    list_added(&mut without, &json);
    assert_eq!(without, json!({"eos_token": "<s>"}));
}
