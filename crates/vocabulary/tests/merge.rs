//! Each rule on tokenizers of a few tokens.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use recipe::{ModelRef, TokenRecipe, TokenSource, TokenizerRecipe, TokenizerSource};
use serde_json::{Value, json};
use vocabulary::RowSource::{MeanOfOwn, Of, Row, Zero};
use vocabulary::{OutputVocabulary, RowSource, Tokenizer, VocabularyError, merge, token_ids};

/// A BPE tokenizer with ids in the order of `vocab`, then `added`, all special.
fn bpe(vocab: &[&str], added: &[&str]) -> Value {
    let ids: serde_json::Map<String, Value> =
        vocab.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let added: Vec<Value> = added.iter().zip(vocab.len()..).map(|(token, id)| entry(id, token, true)).collect();
    json!({"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": ids, "merges": []}})
}

fn entry(id: usize, token: &str, special: bool) -> Value {
    json!({
        "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

fn named(name: &str, tokenizer_json: Value, rows: u32) -> Tokenizer {
    Tokenizer { model: ModelRef::local(name), tokenizer_json: tokenizer_json.into(), rows }
}

fn recipe(source: TokenizerSource) -> TokenizerRecipe {
    TokenizerRecipe { source, tokens: Vec::new(), pad_to_multiple_of: None }
}

fn with_token(source: TokenizerSource, token: &str, row: Option<TokenSource>, force: bool) -> TokenizerRecipe {
    TokenizerRecipe { tokens: vec![(token.to_owned(), TokenRecipe { source: row, force })], ..recipe(source) }
}

fn from_model(name: &str) -> Option<TokenSource> {
    Some(TokenSource::Model(ModelRef::local(name)))
}

fn from_id(name: &str, id: u32) -> Option<TokenSource> {
    Some(TokenSource::ModelToken { model: ModelRef::local(name), token: None, token_id: Some(id) })
}

fn from_token(name: &str, token: &str) -> Option<TokenSource> {
    Some(TokenSource::ModelToken { model: ModelRef::local(name), token: Some(token.to_owned()), token_id: None })
}

fn ids(output: &OutputVocabulary) -> Vec<(u32, String)> {
    let mut ids: Vec<_> =
        token_ids(&output.tokenizer_json).unwrap().into_iter().map(|(token, id)| (id, token)).collect();
    ids.sort();
    ids
}

fn tokens(output: &OutputVocabulary) -> Vec<String> {
    ids(output).into_iter().map(|(_, token)| token).collect()
}

fn rows_of(output: &OutputVocabulary, token: &str) -> Vec<RowSource> {
    let row = token_ids(&output.tokenizer_json).unwrap()[token] as usize;
    output.maps.iter().map(|map| map[row].clone()).collect()
}

fn mean(rows: &[(usize, u32)]) -> RowSource {
    RowSource::Mean(rows.into())
}

fn own(count: u32) -> Vec<RowSource> {
    (0..count).map(Row).collect()
}

/// base: a b; x: a b X; y: b a X Y, in another order.
fn three() -> Vec<Tokenizer> {
    vec![
        named("x", bpe(&["a", "b"], &["X"]), 3),
        named("base", bpe(&["a", "b"], &[]), 2),
        named("y", bpe(&["b", "a"], &["X", "Y"]), 4),
    ]
}

const BASE: usize = 1;

fn refused(recipe: &TokenizerRecipe) -> VocabularyError {
    merge(recipe, &three(), BASE).unwrap_err()
}

#[test]
fn union_keeps_ids_of_base_and_appends_in_order_of_models() {
    let models = vec![
        named("x", bpe(&["q", "a", "p"], &["X"]), 4),
        named("base", bpe(&["a", "b"], &["S"]), 3),
        named("y", bpe(&["b", "z", "a"], &["S", "X"]), 5),
    ];
    let output = merge(&recipe(TokenizerSource::Union), &models, BASE).unwrap();
    assert_eq!(tokens(&output), ["a", "b", "S", "q", "p", "X", "z"]);
    assert_eq!(ids(&output).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    assert_eq!((output.rows, output.tokens, output.is_identity), (7, 7, false));
    // pieces are pieces again; what was added after training is added again, and known to the vocabulary by its id
    assert_eq!(output.tokenizer_json["added_tokens"], json!([entry(2, "S", true), entry(5, "X", true)]));
    let vocab = json!({"a": 0, "b": 1, "S": 2, "q": 3, "p": 4, "X": 5, "z": 6});
    assert_eq!(output.tokenizer_json["model"]["vocab"], vocab);
    assert!(output.notes.iter().any(|n| n.starts_with("4 tokens added") && n.contains("\"q\"")), "{:?}", output.notes);
    assert_eq!(output.notes.len(), 1, "{:?}", output.notes);
}

#[test]
fn union_without_news_is_the_base() {
    let models = vec![named("base", bpe(&["a", "b"], &["S"]), 3), named("x", bpe(&["a", "b"], &["S"]), 3)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 0).unwrap();
    assert!(output.is_identity);
    assert_eq!(output.tokenizer_json, *models[0].tokenizer_json);
    assert_eq!(output.maps, vec![own(3), own(3)]);
    assert_eq!(output.notes, Vec::<String>::new());
}

#[test]
fn an_absent_token_takes_the_only_row_then_the_row_of_base_then_the_mean() {
    let output = merge(&recipe(TokenizerSource::Union), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "Y"), [Of { model: 2, row: 3 }, Of { model: 2, row: 3 }, Row(3)]);
    assert_eq!(rows_of(&output, "X"), [Row(2), mean(&[(0, 2), (2, 2)]), Row(2)]);
    assert_eq!(rows_of(&output, "a"), [Row(0), Row(0), Row(1)]);

    let mut models = three();
    models.push(named("z", bpe(&["b"], &[]), 1));
    let output = merge(&recipe(TokenizerSource::Union), &models, BASE).unwrap();
    assert_eq!(rows_of(&output, "a")[3], Of { model: BASE, row: 0 });
}

#[test]
fn the_same_tokens_at_other_ids_are_gathered() {
    let models = vec![named("base", bpe(&["a", "b"], &[]), 2), named("x", bpe(&["b", "a"], &[]), 2)];
    let output = merge(&recipe(TokenizerSource::Base), &models, 0).unwrap();
    assert!(!output.is_identity);
    assert_eq!(output.maps, vec![vec![Row(0), Row(1)], vec![Row(1), Row(0)]]);
}

#[test]
fn a_named_source_fills_only_what_lacks_the_token_unless_forced() {
    let source = || from_token("x", "a");
    let output = merge(&with_token(TokenizerSource::Union, "Y", source(), false), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "Y"), [Row(0), Of { model: 0, row: 0 }, Row(3)]);
    let output = merge(&with_token(TokenizerSource::Union, "Y", source(), true), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "Y"), [Row(0), Of { model: 0, row: 0 }, Of { model: 0, row: 0 }]);
    let output = merge(&with_token(TokenizerSource::Union, "X", from_model("y"), false), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "X"), [Row(2), Of { model: 2, row: 2 }, Row(2)]);
    let output = merge(&with_token(TokenizerSource::Union, "X", from_id("y", 0), false), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "X")[BASE], Of { model: 2, row: 0 });
}

#[test]
fn force_without_a_source_gives_every_model_the_usual_fallback() {
    let output = merge(&with_token(TokenizerSource::Union, "a", None, true), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "a"), [Of { model: BASE, row: 0 }, Row(0), Of { model: BASE, row: 0 }]);
}

#[test]
fn zero_fills_or_replaces_and_is_noted() {
    let zero = || Some(TokenSource::Zero);
    let output = merge(&with_token(TokenizerSource::Union, "X", zero(), false), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "X"), [Row(2), Zero, Row(2)]);
    assert!(output.notes.iter().any(|n| n.contains("set to zero, as the recipe says (\"X\")")), "{:?}", output.notes);
    let output = merge(&with_token(TokenizerSource::Union, "a", zero(), true), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "a"), [Zero, Zero, Zero]);
    let output = merge(&with_token(TokenizerSource::Union, "a", zero(), false), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "a"), [Row(0), Row(0), Row(1)]);
    assert!(!output.notes.iter().any(|n| n.contains("set to zero")), "{:?}", output.notes);
}

#[test]
fn a_new_token_is_added_to_any_source() {
    for source in [TokenizerSource::Union, TokenizerSource::Base, TokenizerSource::Model(ModelRef::local("y"))] {
        let output = merge(&with_token(source, "N", from_id("base", 1), false), &three(), BASE).unwrap();
        assert_eq!(rows_of(&output, "N"), [Of { model: BASE, row: 1 }, Row(1), Of { model: BASE, row: 1 }]);
        let last = output.tokenizer_json["added_tokens"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last, entry(output.tokens as usize - 1, "N", false));
        assert_eq!(output.rows, output.tokens);
    }
    let output = merge(&with_token(TokenizerSource::Base, "N", None, false), &three(), BASE).unwrap();
    assert_eq!(rows_of(&output, "N"), [Zero, Zero, Zero]);
    assert!(output.notes.iter().any(|n| n.contains("in no model") && n.contains("\"N\"")), "{:?}", output.notes);
}

#[test]
fn a_named_token_of_another_model_keeps_its_settings() {
    let output = merge(&with_token(TokenizerSource::Base, "X", from_model("x"), false), &three(), BASE).unwrap();
    assert_eq!(tokens(&output), ["a", "b", "X"]);
    assert_eq!(output.tokenizer_json["added_tokens"], json!([entry(2, "X", true)]));
}

#[test]
fn source_model_is_that_tokenizer_and_base_still_decides_rows() {
    let source = TokenizerSource::Model(ModelRef::local("y"));
    let output = merge(&recipe(source), &three(), BASE).unwrap();
    assert_eq!(tokens(&output), ["b", "a", "X", "Y"]);
    assert_eq!(output.maps[2], own(4));
    assert_eq!(output.maps[1], [Row(1), Row(0), mean(&[(0, 2), (2, 2)]), Of { model: 2, row: 3 }]);
}

#[test]
fn padding_that_all_share_is_kept() {
    let models = vec![named("base", bpe(&["a", "b"], &["S"]), 8), named("x", bpe(&["a", "b"], &["S"]), 8)];
    let output = merge(&recipe(TokenizerSource::Base), &models, 0).unwrap();
    assert_eq!((output.rows, output.tokens, output.is_identity), (8, 3, true));
    assert_eq!(output.notes.len(), 1, "{:?}", output.notes);

    let padded = |multiple| TokenizerRecipe { pad_to_multiple_of: Some(multiple), ..recipe(TokenizerSource::Union) };
    assert!(merge(&padded(4), &models, 0).unwrap().is_identity);
    let output = merge(&padded(5), &models, 0).unwrap();
    assert_eq!((output.rows, output.is_identity), (5, false));
    assert_eq!(output.maps[1], [Row(0), Row(1), Row(2), MeanOfOwn, MeanOfOwn]);

    let forced = with_token(TokenizerSource::Base, "S", from_id("base", 0), true);
    let output = merge(&forced, &models, 0).unwrap();
    assert_eq!((output.rows, output.is_identity), (8, false));
    assert_eq!(output.maps[1][1..4], [Row(1), Of { model: 0, row: 0 }, Row(3)]);
}

#[test]
fn padding_that_differs_is_dropped() {
    for models in [
        vec![named("base", bpe(&["a", "b"], &[]), 8), named("x", bpe(&["a", "b"], &[]), 6)],
        vec![named("base", bpe(&["a", "b"], &[]), 8), named("x", bpe(&["b", "a"], &[]), 8)],
    ] {
        let output = merge(&recipe(TokenizerSource::Base), &models, 0).unwrap();
        assert_eq!((output.rows, output.is_identity), (2, false));
    }
    let models = [named("base", bpe(&["a", "b"], &[]), 8)];
    let output = merge(&with_token(TokenizerSource::Base, "N", None, false), &models, 0).unwrap();
    assert_eq!(output.rows, 3);
}

#[test]
fn a_token_past_the_rows_of_its_model_is_absent_there() {
    let models = [named("base", bpe(&["a"], &["S", "T"]), 2), named("x", bpe(&["a"], &["S", "T"]), 3)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 0).unwrap();
    assert_eq!(tokens(&output), ["a", "S", "T"]);
    assert_eq!(rows_of(&output, "T"), [Of { model: 1, row: 2 }, Row(2)]);

    let short = TokenizerSource::Model(ModelRef::local("base"));
    let output = merge(&recipe(short), &models, 1).unwrap();
    assert_eq!(tokens(&output), ["a", "S"]);
    assert!(output.notes.iter().any(|n| n.contains("dropped") && n.contains("\"T\"")), "{:?}", output.notes);
}

#[test]
fn dropped_tokens_take_their_merges_along() {
    for (prefix, merges, kept) in [
        (Value::Null, json!(["a b", "ab c"]), json!(["a b"])),
        (Value::Null, json!([["a", "b"], ["ab", "c"]]), json!([["a", "b"]])),
        (json!("##"), json!([["a", "##b"], ["ab", "##c"]]), json!([["a", "##b"], ["ab", "##c"]])),
    ] {
        let mut tokenizer = bpe(&["a", "b", "c", "ab", "abc"], &["S"]);
        tokenizer["model"]["merges"] = merges.clone();
        tokenizer["model"]["continuing_subword_prefix"] = prefix.clone();
        let is_prefixed = prefix.is_string();
        let output = merge(&recipe(TokenizerSource::Base), &[named("base", tokenizer, 4)], 0).unwrap();
        let model = &output.tokenizer_json["model"];
        assert_eq!(model["vocab"].as_object().unwrap().len(), 4);
        // "ab" + "##c" makes "abc", which has no row either
        assert_eq!(model["merges"], if is_prefixed { json!([["a", "##b"]]) } else { kept });
        assert_eq!(output.tokenizer_json["added_tokens"], json!([]));
    }
}

#[test]
fn a_dropped_token_is_no_longer_put_around_a_text() {
    let mut tokenizer = bpe(&["a"], &["S", "T"]);
    let mark = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let token = |id: &str, of: u32| json!({"id": id, "ids": [of], "tokens": [id]});
    tokenizer["post_processor"] = json!({"type": "Sequence", "processors": [{
        "type": "TemplateProcessing", "single": [mark("S"), text, mark("T")], "pair": [text, mark("T")],
        "special_tokens": {"S": token("S", 1), "T": token("T", 2)},
    }]});
    let output = merge(&recipe(TokenizerSource::Base), &[named("base", tokenizer, 2)], 0).unwrap();
    let kept = &output.tokenizer_json["post_processor"]["processors"][0];
    assert_eq!(kept["single"], json!([mark("S"), text]));
    assert_eq!(kept["pair"], json!([text]));
    assert_eq!(kept["special_tokens"], json!({"S": token("S", 1)}));
}

#[test]
fn an_added_token_elsewhere_becomes_one_in_the_union_but_not_in_base() {
    let mut other = bpe(&["a", "b"], &[]);
    other["added_tokens"] = json!([entry(1, "b", true)]);
    let models = [named("base", bpe(&["a", "b"], &[]), 2), named("x", other, 2)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 0).unwrap();
    assert_eq!(output.tokenizer_json["added_tokens"], json!([entry(1, "b", true)]));
    assert!(output.is_identity);
    let output = merge(&recipe(TokenizerSource::Base), &models, 0).unwrap();
    assert_eq!(output.tokenizer_json["added_tokens"], json!([]));
}

#[test]
fn of_conflicting_settings_those_of_base_then_of_the_first_model_count() {
    let with = |special: bool| {
        let mut tokenizer = bpe(&["a"], &["S"]);
        tokenizer["added_tokens"][0]["special"] = json!(special);
        tokenizer
    };
    let models = [named("x", with(false), 2), named("base", with(true), 2)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 1).unwrap();
    assert_eq!(output.tokenizer_json["added_tokens"][0]["special"], json!(true));
    assert!(output.notes.iter().any(|n| n.contains("different settings")), "{:?}", output.notes);

    let models = [named("x", with(false), 2), named("base", bpe(&["a"], &[]), 1), named("y", with(true), 2)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 1).unwrap();
    assert_eq!(output.tokenizer_json["added_tokens"], json!([entry(1, "S", false)]));
}

#[test]
fn ids_without_a_token_are_padding() {
    let mut gap = bpe(&["a"], &["S"]);
    gap["added_tokens"][0]["id"] = json!(3);
    let models = [named("base", gap, 4), named("x", bpe(&["a"], &["T"]), 2)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 0).unwrap();
    assert_eq!(ids(&output), [(0, "a".to_owned()), (3, "S".to_owned()), (4, "T".to_owned())]);
    assert_eq!(output.maps[0][1..3], [MeanOfOwn, MeanOfOwn]);
    // a library would number the added tokens itself if the vocabulary did not say their ids
    assert_eq!(output.tokenizer_json["model"]["vocab"], json!({"a": 0, "S": 3, "T": 4}));
}

#[test]
fn unigram_wordpiece_and_wordlevel_are_read() {
    let unigram =
        json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.0]]}});
    let map = |kind: &str| json!({"model": {"type": kind, "unk_token": "<unk>", "vocab": {"b": 1, "<unk>": 0}}});
    let models = [named("base", unigram, 2), named("x", map("WordPiece"), 2), named("y", map("WordLevel"), 2)];
    let output = merge(&recipe(TokenizerSource::Union), &models, 0).unwrap();
    assert_eq!(tokens(&output), ["<unk>", "a", "b"]);
    assert_eq!(output.tokenizer_json["model"]["vocab"], json!([["<unk>", 0.0], ["a", -1.5], ["b", -1.5]]));
    assert!(output.notes.iter().any(|n| n.starts_with("1 token of a tokenizer that writes")), "{:?}", output.notes);
    assert_eq!(rows_of(&output, "b"), [mean(&[(1, 1), (2, 1)]), Row(1), Row(1)]);
}

#[test]
fn an_added_token_takes_the_id_of_the_vocabulary() {
    let mut tokenizer = bpe(&["a", "b"], &[]);
    tokenizer["added_tokens"] = json!([entry(7, "b", true)]);
    let output = merge(&recipe(TokenizerSource::Base), &[named("base", tokenizer, 2)], 0).unwrap();
    assert_eq!(output.tokenizer_json["added_tokens"], json!([entry(1, "b", true)]));
}

#[test]
fn of_two_tokens_at_one_id_the_added_one_gives_the_row() {
    for (old, new) in [("p", "q"), ("q", "p")] {
        let mut renamed = bpe(&["a", old], &[]);
        renamed["added_tokens"] = json!([entry(1, new, true)]);
        let models = [named("base", renamed, 2), named("x", bpe(&["a", old, new], &[]), 3)];
        let output = merge(&recipe(TokenizerSource::Base), &models, 0).unwrap();
        assert_eq!(output.maps[1], [Row(0), Row(2)]);
    }
}

#[test]
fn wrong_names_say_what_to_write() {
    for (recipe, expected) in [
        (
            recipe(TokenizerSource::Model(ModelRef::local("w"))),
            "tokenizer source w is not one of the models; write `union`, `base`, or one of x, base, y",
        ),
        (
            with_token(TokenizerSource::Union, "X", from_model("w"), false),
            "token \"X\": its source names w, which is not one of the models; write one of x, base, y",
        ),
        (
            with_token(TokenizerSource::Union, "Y", from_model("x"), false),
            "token \"Y\": model x has no token \"Y\"; write a model that has it as source: y",
        ),
        (
            with_token(TokenizerSource::Union, "a", from_token("x", "nosuch"), false),
            "token \"a\": model x has no token \"nosuch\"; no model has it: write `{kind: model_token}` with another token, or `{kind: zero}`",
        ),
        (
            with_token(TokenizerSource::Union, "N", from_id("x", 3), false),
            "token \"N\": token_id 3 is past the 3 rows of model x; write an id below 3",
        ),
        (
            with_token(
                TokenizerSource::Union,
                "N",
                Some(TokenSource::ModelToken { model: ModelRef::local("x"), token: None, token_id: None }),
                false,
            ),
            "token \"N\": its source in model x needs exactly one of `token` and `token_id`",
        ),
    ] {
        assert_eq!(refused(&recipe).to_string(), expected);
    }
}

#[test]
fn a_source_token_past_the_rows_is_refused() {
    let models = [named("base", bpe(&["a"], &["S"]), 1)];
    let error = merge(&with_token(TokenizerSource::Base, "S", from_model("base"), false), &models, 0).unwrap_err();
    assert!(
        error.to_string().starts_with("token \"S\": in model base, token \"S\" has id 1, but its embedding has 1 rows"),
        "{error}"
    );
}

#[test]
fn a_tokenizer_that_cannot_be_used_is_refused_by_model() {
    let mut unknown_last = bpe(&["a", "<unk>"], &[]);
    unknown_last["model"]["unk_token"] = json!("<unk>");
    for (json, rows, expected) in [
        (json!({"model": {"type": "Magic", "vocab": {}}}), 1, "type \"Magic\" is not supported"),
        (json!({"model": {"vocab": {}}}), 1, "type \"none\" is not supported"),
        (json!({}), 1, "it has no `model`"),
        (json!({"model": {"type": "BPE", "vocab": []}}), 1, "not what type BPE has"),
        (json!({"model": {"type": "BPE", "vocab": {"a": -1}}}), 1, "the id of token \"a\" is -1"),
        (json!({"model": {"type": "Unigram", "vocab": [3]}}), 1, "entry 0 of `model.vocab`"),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}),
            1,
            "lacks `id` or `content`",
        ),
        (json!({"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": {}}), 1, "`added_tokens` is not a list"),
        (bpe(&["a"], &[]), 0, "none of its tokens has a row"),
        (bpe(&["a"], &[]), u32::MAX, "more than the 4194304 allowed"),
        (unknown_last, 1, "the unknown token has id 1"),
    ] {
        let error = merge(&recipe(TokenizerSource::Base), &[named("base", json, rows)], 0).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer of model base: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn padding_past_the_limit_is_refused() {
    let recipe = TokenizerRecipe { pad_to_multiple_of: Some(u32::MAX), ..recipe(TokenizerSource::Union) };
    assert!(matches!(refused(&recipe), VocabularyError::TooManyRows { .. }));
}
