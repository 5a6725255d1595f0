//! Merged tokenizers, loaded by the library that will load them: ids as planned, and text comes back.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use recipe::{ModelRef, TokenizerRecipe, TokenizerSource};
use serde_json::{Value, json};
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, Tokenizer as Library};
use vocabulary::{OutputVocabulary, Tokenizer, merge, token_ids};

const ENGLISH: &[&str] = &[
    "the quick brown fox jumps over the lazy dog and the other dog",
    "merging models is the making of one model out of others, weight by weight",
    "a tokenizer splits text into pieces, and the pieces have rows in a matrix",
    "other mothers and brothers gather together in the northern weather",
];
const GERMAN: &[&str] = &[
    "die schnelle braune Füchsin springt über den faulen Hund und über den Zaun",
    "Zusammenführen heißt, aus mehreren Modellen eines zu machen, Gewicht für Gewicht",
    "ein Tokenisierer zerlegt Text in Stücke, und zu jedem Stück gehört eine Zeile",
    "Schifffahrtsgesellschaften übernehmen größere Aufträge zwischen München und Zürich",
];
const TEXTS: &[&str] = &[
    "the other dog",
    "über den faulen Hund, die Füchsin",
    "weather   with  blanks\nand lines\t\tand tabs ",
    " leading blank",
    "日本語 and 🦊 and e\u{301}",
    "Ġthe ▁the ##ing <0x41> \u{2581}",
    "a<|im_start|>b</s>c",
    "123 4567 x=y+z; fn main() {}",
];

fn special(content: &str) -> AddedToken {
    AddedToken::from(content, true)
}

fn train(mut library: Library, mut trainer: TrainerWrapper, corpus: &[&str]) -> Value {
    library.train(&mut trainer, corpus.iter().copied()).unwrap();
    serde_json::from_str(&library.to_string(false).unwrap()).unwrap()
}

fn library(model: impl Into<ModelWrapper>, pre_tokenizer: Value, decoder: Value) -> Library {
    let mut library = Library::new(model);
    library.with_pre_tokenizer(Some(serde_json::from_value::<PreTokenizerWrapper>(pre_tokenizer).unwrap()));
    library.with_decoder(Some(serde_json::from_value::<DecoderWrapper>(decoder).unwrap()));
    library
}

fn byte_level(corpus: &[&str], specials: &[&str]) -> Value {
    let step = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let trainer = BpeTrainer::builder()
        .vocab_size(420)
        .show_progress(false)
        .initial_alphabet(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect())
        .special_tokens(specials.iter().map(|s| special(s)).collect())
        .build();
    train(library(BPE::default(), step.clone(), step), TrainerWrapper::BpeTrainer(trainer), corpus)
}

/// As Llama's: blanks become `▁`, and what no piece spells becomes bytes.
fn metaspace(corpus: &[&str], specials: &[&str]) -> Value {
    let step = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let trainer = BpeTrainer::builder()
        .vocab_size(300)
        .show_progress(false)
        .special_tokens(specials.iter().map(|s| special(s)).collect())
        .build();
    let library = library(BPE::default(), step, metaspace_decoder());
    let mut json = train(library, TrainerWrapper::BpeTrainer(trainer), corpus);
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for byte in 0..=255u8 {
        let next = vocab.len();
        vocab.insert(format!("<0x{byte:02X}>"), json!(next));
    }
    json["model"]["byte_fallback"] = json!(true);
    json
}

fn metaspace_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]})
}

fn unigram(corpus: &[&str], specials: &[&str]) -> Value {
    let step = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    let trainer = UnigramTrainer::builder()
        .vocab_size(160)
        .show_progress(false)
        .special_tokens(specials.iter().map(|s| special(s)).collect())
        .unk_token(Some("<unk>".to_owned()))
        .build()
        .unwrap();
    let library = library(Unigram::default(), step.clone(), step);
    train(library, TrainerWrapper::UnigramTrainer(trainer), corpus)
}

fn wordpiece(corpus: &[&str], specials: &[&str]) -> Value {
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(200)
        .show_progress(false)
        .special_tokens(specials.iter().map(|s| special(s)).collect())
        .build();
    trainer.set_continuing_subword_prefix(Some("##".to_owned()));
    let model = WordPiece::builder().unk_token("[UNK]".to_owned()).build().unwrap();
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": false});
    let mut library = library(model, json!({"type": "BertPreTokenizer"}), decoder);
    let lowercase = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": false});
    library.with_normalizer(Some(serde_json::from_value::<NormalizerWrapper>(lowercase).unwrap())).unwrap();
    train(library, TrainerWrapper::WordPieceTrainer(trainer), corpus)
}

fn union(models: &[&Value]) -> OutputVocabulary {
    let tokenizers: Vec<Tokenizer> = models
        .iter()
        .enumerate()
        .map(|(place, json)| {
            let rows = token_ids(json).unwrap().values().max().unwrap() + 1;
            Tokenizer { model: ModelRef::local(format!("m{place}")), tokenizer_json: (*json).clone().into(), rows }
        })
        .collect();
    let recipe = TokenizerRecipe { source: TokenizerSource::Union, tokens: Vec::new(), pad_to_multiple_of: None };
    merge(&recipe, &tokenizers, 0).unwrap()
}

fn load(json: &Value) -> Library {
    json.to_string().parse().unwrap()
}

fn again(library: &Library, text: &str) -> String {
    library.decode(library.encode(text, false).unwrap().get_ids(), false).unwrap()
}

/// Where the pieces of a text end.
fn ends(library: &Library, text: &str) -> BTreeSet<usize> {
    library.encode(text, false).unwrap().get_offsets().iter().map(|(_, end)| *end).collect()
}

/// Loads the union; the library's ids are the planned ones, and each text comes back as of one of the models.
fn check(models: &[&Value]) -> (OutputVocabulary, Library) {
    let output = union(models);
    let merged = load(&output.tokenizer_json);
    for (token, id) in token_ids(&output.tokenizer_json).unwrap() {
        assert_eq!(merged.token_to_id(&token), Some(id), "{token:?}");
    }
    let owners: Vec<Library> = models.iter().map(|json| load(json)).collect();
    for text in TEXTS {
        let back = again(&merged, text);
        let expected: Vec<String> = owners.iter().map(|owner| again(owner, text)).collect();
        // with the pieces of all, the union knows some of what is unknown to each; blanks are then the base's
        let known = |text: &str| text.replace("<unk>", "").replace("[UNK]", "");
        let squeezed = |text: &str| text.replace('▁', " ").split_whitespace().collect::<String>();
        let is_known = back == *text || (expected[0] != *text && squeezed(&back) == squeezed(text));
        let has_unknown = known(&expected[0]) != expected[0];
        let is_better = is_known || (has_unknown && known(&back).len() > known(&expected[0]).len());
        assert!(
            is_better || expected.contains(&back),
            "{text:?} comes back as {back:?}, of its owners as {expected:?}"
        );
    }
    (output, merged)
}

/// How many pieces of `text` only the union has, not its base.
fn news(base: &Value, merged: &Library, text: &str) -> usize {
    let ids = token_ids(base).unwrap();
    merged.encode(text, false).unwrap().get_tokens().iter().filter(|token| !ids.contains_key(*token)).count()
}

#[test]
fn pieces_of_another_byte_level_tokenizer_are_found_by_merging() {
    let base = byte_level(ENGLISH, &["</s>"]);
    let other = byte_level(GERMAN, &["<|im_start|>", "</s>"]);
    let (_, merged) = check(&[&base, &other]);
    let text = "über den faulen Hund";
    assert!(news(&base, &merged, text) > 3, "{:?}", merged.encode(text, false).unwrap().get_tokens());
    let base = load(&base);
    for text in TEXTS.iter().filter(|text| !text.contains("<|im_start|>")) {
        assert!(ends(&merged, text).is_subset(&ends(&base, text)), "{text:?}: a piece of the base was cut");
        assert!(TEXTS.iter().all(|text| again(&merged, text) == **text), "{text:?}");
    }
}

#[test]
fn pieces_of_another_metaspace_tokenizer_are_found_by_merging() {
    let base = metaspace(ENGLISH, &["<unk>", "</s>"]);
    let other = metaspace(GERMAN, &["<unk>", "<|im_start|>"]);
    let (output, merged) = check(&[&base, &other]);
    assert!(news(&base, &merged, "über den faulen Hund") >= 3, "{:?}", output.notes);
    // the base has no "ü", whose bytes would be joined to nothing
    assert!(merged.encode("für", false).unwrap().get_tokens().iter().all(|t| !t.starts_with("<0x")));
    assert!(!output.notes.iter().any(|n| n.contains("before it is split")), "{:?}", output.notes);
}

#[test]
fn pieces_of_another_unigram_tokenizer_keep_their_scores() {
    let base = unigram(ENGLISH, &["<unk>", "</s>"]);
    let other = unigram(GERMAN, &["<unk>", "<|im_start|>"]);
    let (output, merged) = check(&[&base, &other]);
    assert!(news(&base, &merged, "über den faulen Hund") > 3);
    let score = |json: &Value, piece: &str| {
        let list = json["model"]["vocab"].as_array().unwrap();
        list.iter().find(|entry| entry[0] == piece).map(|entry| entry[1].as_f64().unwrap())
    };
    let ids = token_ids(&base).unwrap();
    let own: Vec<String> = token_ids(&other).unwrap().into_keys().filter(|t| !ids.contains_key(t)).collect();
    let least = base["model"]["vocab"].as_array().unwrap().iter().map(|e| e[1].as_f64().unwrap()).fold(0.0, f64::min);
    for piece in own.iter().filter(|piece| **piece != "<|im_start|>") {
        assert_eq!(score(&output.tokenizer_json, piece), score(&other, piece).map(|s| s.max(least)), "{piece:?}");
    }
}

#[test]
fn pieces_of_another_wordpiece_tokenizer_are_pieces() {
    let base = wordpiece(ENGLISH, &["[UNK]", "[SEP]"]);
    let other = wordpiece(GERMAN, &["[UNK]", "<|im_start|>"]);
    let (_, merged) = check(&[&base, &other]);
    assert!(news(&base, &merged, "über den faulen Hund") > 3);
    assert!(!merged.encode("über den faulen Hund", false).unwrap().get_tokens().contains(&"[UNK]".to_owned()));
}

/// Pieces that mean other text in the base would cut its text if they were matched as they stand.
#[test]
fn text_comes_back_whatever_kinds_are_mixed() {
    let made: Vec<Value> = vec![
        byte_level(ENGLISH, &["</s>"]),
        byte_level(GERMAN, &["<|im_start|>"]),
        metaspace(ENGLISH, &["<unk>"]),
        metaspace(GERMAN, &["<unk>", "<|im_start|>"]),
        unigram(GERMAN, &["<unk>"]),
        wordpiece(GERMAN, &["[UNK]", "<|im_start|>"]),
    ];
    for base in &made {
        for other in made.iter().filter(|other| *other != base) {
            check(&[base, other]);
        }
    }
    check(&made.iter().collect::<Vec<_>>());
}

#[test]
fn a_bpe_base_reaches_pieces_of_a_unigram_tokenizer_of_its_alphabet() {
    let base = metaspace(ENGLISH, &["<unk>"]);
    let (_, merged) = check(&[&base, &unigram(GERMAN, &["<unk>"])]);
    assert!(news(&base, &merged, "über den faulen Hund und die Füchsin") > 3);
}

#[test]
fn older_notation_of_merges_stays_as_it_is() {
    let mut base = byte_level(ENGLISH, &[]);
    for merge in base["model"]["merges"].as_array_mut().unwrap() {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    let (output, _) = check(&[&base, &byte_level(GERMAN, &[])]);
    assert!(output.tokenizer_json["model"]["merges"].as_array().unwrap().iter().all(Value::is_string));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_text_comes_back_from_a_byte_level_union(texts in prop::collection::vec(".{0,40}", 20)) {
        thread_local! {
            static MERGED: Library = load(&union(&[&byte_level(ENGLISH, &[]), &byte_level(GERMAN, &["<|a|>"])]).tokenizer_json);
        }
        MERGED.with(|merged| {
            for text in texts {
                assert_eq!(again(merged, &text), text);
            }
        });
    }
}
