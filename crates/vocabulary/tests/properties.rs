//! What holds for any vocabularies: whose ids stay, whose come next, which rows are taken; and that nothing panics.

use std::collections::BTreeMap;

use proptest::prelude::*;
use recipe::{ModelRef, TokenizerRecipe, TokenizerSource};
use serde_json::{Value, json};
use vocabulary::{OutputVocabulary, RowSource, Tokenizer, VocabularyError, merge, token_ids};

fn union(tokenizers: &[Tokenizer]) -> Result<OutputVocabulary, VocabularyError> {
    let recipe = TokenizerRecipe { source: TokenizerSource::Union, tokens: Vec::new(), pad_to_multiple_of: None };
    merge(&recipe, tokenizers, 0)
}

fn tokenizer(place: usize, tokenizer_json: Value, rows: u32) -> Tokenizer {
    Tokenizer { model: ModelRef::local(format!("m{place}")), tokenizer_json: tokenizer_json.into(), rows }
}

/// Distinct short pieces of one kind of model, the last of them added tokens.
fn made(kind: &str, tokens: &[String], added: usize) -> Value {
    let (pieces, added) = tokens.split_at(tokens.len() - added.min(tokens.len() - 1));
    let vocab = match kind {
        "Unigram" => pieces.iter().map(|t| json!([t, -1.0])).collect(),
        _ => Value::Object(pieces.iter().enumerate().map(|(id, t)| (t.clone(), json!(id))).collect()),
    };
    let added: Vec<Value> = added.iter().zip(pieces.len()..).map(|(t, id)| entry(id, t)).collect();
    let mut json =
        json!({"model": {"type": kind, "vocab": vocab, "unk_token": tokens[0], "unk_id": 0}, "added_tokens": added});
    if kind == "BPE" {
        let pairs = pieces.iter().filter(|t| t.len() == 2).map(|t| t.split_at(1));
        let is_piece = |part: &str| pieces.iter().any(|t| t == part);
        json["model"]["merges"] =
            pairs.filter(|(l, r)| is_piece(l) && is_piece(r)).map(|(l, r)| json!([l, r])).collect();
    }
    if kind == "WordPiece" {
        json["model"]["continuing_subword_prefix"] = json!("##");
        json["model"]["max_input_chars_per_word"] = json!(100);
    }
    json
}

fn entry(id: usize, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    })
}

fn vocabularies() -> impl Strategy<Value = Vec<(&'static str, Vec<String>, usize)>> {
    let tokens = prop::collection::hash_set("[a-d]{1,3}", 1..12).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    let kind = prop::sample::select(vec!["BPE", "Unigram", "WordPiece", "WordLevel"]);
    prop::collection::vec((kind, tokens, 0..3usize), 1..5)
}

proptest! {
    #[test]
    fn ids_are_those_of_the_base_then_those_of_each_model_in_order(models in vocabularies()) {
        let tokenizers: Vec<Tokenizer> = models
            .iter()
            .enumerate()
            .map(|(place, (kind, tokens, added))| tokenizer(place, made(kind, tokens, *added), tokens.len() as u32))
            .collect();
        let mut expected: Vec<&String> = Vec::new();
        for (_, tokens, _) in &models {
            expected.extend(tokens.iter().filter(|t| !models[0].1.contains(t)).collect::<Vec<_>>());
        }
        let mut order: Vec<&String> = models[0].1.iter().collect();
        expected.into_iter().for_each(|t| if !order.contains(&t) { order.push(t) });

        let output = union(&tokenizers).unwrap();
        let ids = token_ids(&output.tokenizer_json).unwrap();
        let expected: BTreeMap<String, u32> = order.into_iter().cloned().zip(0..).collect();
        prop_assert_eq!(&ids, &expected);
        for (place, (_, tokens, _)) in models.iter().enumerate() {
            for (own, token) in tokens.iter().enumerate() {
                prop_assert_eq!(&output.maps[place][ids[token] as usize], &RowSource::Row(own as u32));
            }
        }
        let again = union(&tokenizers).unwrap();
        prop_assert_eq!(again.tokenizer_json.to_string(), output.tokenizer_json.to_string());
        prop_assert_eq!(again.notes, output.notes);
        let loaded = output.tokenizer_json.to_string().parse::<tokenizers::Tokenizer>();
        prop_assert!(loaded.is_ok(), "{:?}", loaded.err());
    }

    /// A tokenizer.json from a stranger may have anything anywhere.
    #[test]
    fn a_damaged_tokenizer_is_merged_or_refused(models in vocabularies(), at in any::<prop::sample::Index>(), with in damage()) {
        let tokenizers: Vec<Tokenizer> = models
            .iter()
            .enumerate()
            .map(|(place, (kind, tokens, added))| {
                let mut json = made(kind, tokens, *added);
                json["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "Metaspace", "replacement": "_"}]});
                let mut places = Vec::new();
                pointers(&json, String::new(), &mut places);
                *json.pointer_mut(&places[at.index(places.len())]).unwrap() = with.clone();
                tokenizer(place, json, tokens.len() as u32)
            })
            .collect();
        if let Ok(output) = union(&tokenizers) {
            prop_assert!(output.maps.iter().all(|map| map.len() == output.rows as usize));
            token_ids(&output.tokenizer_json).unwrap();
        }
    }
}

fn damage() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(1),
        json!(4_000_000_000u64),
        json!(1e308),
        json!(""),
        json!("a"),
        json!("BPE"),
        json!("Unigram"),
        json!([]),
        json!(["a"]),
        json!(["a", "b"]),
        json!({}),
        json!({"a": 1}),
    ])
}

fn pointers(json: &Value, at: String, found: &mut Vec<String>) {
    match json {
        Value::Object(map) => map.iter().for_each(|(key, inside)| pointers(inside, format!("{at}/{key}"), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, inside)| pointers(inside, format!("{at}/{i}"), found))
        }
        _ => {}
    }
    found.push(at);
}

/// A piece of one letter in all lengths has as many ways to be made as it has letters.
#[test]
fn pieces_without_end_take_no_time() {
    let lengths = (1..3000).map(|n| ("a".repeat(n), json!(n - 1))).collect::<serde_json::Map<_, _>>();
    let long = json!({"model": {"type": "BPE", "vocab": lengths, "merges": []}});
    let short = json!({"model": {"type": "BPE", "vocab": {"b": 0, "a": 1}, "merges": [["a", "a"]]}});
    let output = union(&[tokenizer(0, short, 2), tokenizer(1, long, 2999)]).unwrap();
    assert_eq!(output.tokens, 3000);
}
