//! SentencePiece models: split as SentencePiece splits, and hostile ones refused. Expected pieces are those that the library
//! itself gives for these models.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer as Library;
use vocabulary::{from_sentencepiece, token_ids};

const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER: u64 = 4;
const BYTE: u64 = 6;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn piece(text: &str, score: f32, kind: u64) -> Vec<u8> {
    let score = [varint(2 << 3 | 5), score.to_le_bytes().to_vec()].concat();
    bytes(1, &[bytes(1, text.as_bytes()), score, number(3, kind)].concat())
}

/// As Llama's: BPE with bytes, text taken as it is.
fn llama() -> Vec<u8> {
    let mut model = [piece("<unk>", 0.0, UNKNOWN), piece("<s>", 0.0, CONTROL), piece("</s>", 0.0, CONTROL)].concat();
    model.extend(piece("<sep>", 0.0, USER));
    for byte in 0..=255u8 {
        model.extend(piece(&format!("<0x{byte:02X}>"), 0.0, BYTE));
    }
    let made = ["▁t", "he", "▁the", "▁the▁", "er", "he▁", "ll", "hell"];
    let single = ["▁", "t", "h", "e", "r", "l", "o"];
    let all = made.iter().chain(&single).zip(0..);
    model.extend(all.flat_map(|(text, rank)| piece(text, -(rank as f32), NORMAL)));
    let trainer = [number(3, 2), number(40, 0), number(41, 1), number(42, 2), number(43, u64::MAX)].concat();
    model.extend(bytes(2, &trainer));
    model.extend(bytes(3, &[bytes(1, b"identity"), number(3, 1), number(4, 0)].concat()));
    model
}

fn unigram() -> Vec<u8> {
    let mut model = [piece("<unk>", 0.0, UNKNOWN), piece("</s>", 0.0, CONTROL)].concat();
    for (text, score) in
        [("▁the", -2.0), ("▁", -3.0), ("the", -4.0), ("re", -4.5), ("t", -6.0), ("h", -6.0), ("e", -5.0)]
    {
        model.extend(piece(text, score, NORMAL));
    }
    model.extend(bytes(2, &number(3, 1)));
    model
}

fn load(model: &[u8], config: Option<&Value>) -> Library {
    from_sentencepiece(model, config).unwrap().to_string().parse().unwrap()
}

fn pieces(library: &Library, text: &str) -> Vec<String> {
    library.encode(text, true).unwrap().get_tokens().to_vec()
}

#[test]
fn bpe_joins_the_neighbours_of_the_best_score() {
    let library = load(&llama(), None);
    assert_eq!(pieces(&library, "the other"), ["▁the▁", "o", "t", "he", "r"]);
    assert_eq!(pieces(&library, " hello"), ["▁", "▁", "hell", "o"]);
    assert_eq!(pieces(&library, "hé"), ["▁", "h", "<0xC3>", "<0xA9>"]);
    assert_eq!(pieces(&library, ""), Vec::<String>::new());
}

#[test]
fn text_comes_back_from_bytes_and_blanks() {
    let library = load(&llama(), None);
    for text in ["the other", " hello  there ", "日本 🦊\n\t", "a<sep>"] {
        let ids = library.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(library.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn a_piece_of_the_user_is_taken_before_the_text_is_split() {
    let library = load(&llama(), None);
    assert_eq!(pieces(&library, "the<sep>"), ["▁the", "<sep>"]);
    assert_eq!(library.token_to_id("<sep>"), Some(3));
}

#[test]
fn unigram_takes_the_most_likely_pieces_and_removes_blanks() {
    let library = load(&unigram(), None);
    assert_eq!(pieces(&library, "  the   there "), ["▁the", "▁the", "re"]);
    assert_eq!(library.encode("hx", true).unwrap().get_ids().last(), Some(&0));
}

#[test]
fn ids_are_the_places_and_what_was_added_since_comes_after() {
    let config = json!({"added_tokens_decoder": {
        "275": {"content": "<|im_end|>", "special": true, "lstrip": true, "normalized": false},
        "1": {"content": "<bos>", "special": true},
        "x": 3,
    }});
    let json = from_sentencepiece(&llama(), Some(&config)).unwrap();
    let ids = token_ids(&json).unwrap();
    assert_eq!((ids["<unk>"], ids["<0x00>"], ids["▁t"], ids["o"], ids["<|im_end|>"]), (0, 4, 260, 274, 275));
    assert!(!ids.contains_key("<bos>"));
    let library = load(&llama(), Some(&config));
    assert_eq!(library.token_to_id("<|im_end|>"), Some(275));
    assert_eq!(library.encode("the <|im_end|>", true).unwrap().get_ids(), [262, 275]);
}

#[test]
fn a_text_begins_and_ends_as_the_config_says() {
    let first_and_last = |config: Value| {
        let pieces = pieces(&load(&llama(), Some(&config)), "the");
        (pieces[0] == "<s>", pieces[pieces.len() - 1] == "</s>")
    };
    assert_eq!(first_and_last(json!({})), (false, false));
    assert_eq!(first_and_last(json!({"tokenizer_class": "LlamaTokenizerFast"})), (true, false));
    assert_eq!(first_and_last(json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false})), (false, false));
    assert_eq!(first_and_last(json!({"tokenizer_class": "T5Tokenizer"})), (false, true));
    assert_eq!(first_and_last(json!({"add_bos_token": true, "add_eos_token": true})), (true, true));
}

#[test]
fn a_piece_of_blanks_that_the_user_defined_is_made_first() {
    let mut model = llama();
    model.extend(piece("▁▁", 0.0, USER));
    assert_eq!(pieces(&load(&model, None), "h  the"), ["▁", "h", "▁▁", "t", "he"]);
}

fn refusal(model: &[u8]) -> String {
    from_sentencepiece(model, None).unwrap_err().to_string()
}

#[test]
fn what_is_no_model_is_refused() {
    let unknown = piece("<unk>", 0.0, UNKNOWN);
    for (model, expected) in [
        (vec![], "it has no piece for the unknown"),
        (piece("a", 0.0, NORMAL), "it has no piece for the unknown"),
        ([&unknown[..], &piece("a", 0.0, NORMAL), &piece("a", 0.0, NORMAL)].concat(), "it has the piece \"a\" twice"),
        (piece("a", f32::NAN, NORMAL), "a score is no finite number"),
        (piece("a", 0.0, 9), "piece type 9 is not known"),
        (piece("", 0.0, NORMAL), "a piece is empty"),
        (piece(&"a".repeat(300), 0.0, NORMAL), "a piece has 300 bytes; at most 256 are taken"),
        (bytes(1, &bytes(1, b"\xff")), "a piece is no UTF-8"),
        (number(1, 3), "should hold bytes"),
        ([&unknown[..], &bytes(2, &number(3, 4))].concat(), "model type 4 is neither unigram"),
        (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "it ends in the middle of a field"),
        (vec![0x80; 20], "a number does not end"),
        (vec![0x0b], "wire type 3 is not known"),
        (b"{\"model\": {}}".to_vec(), "is malformed"),
    ] {
        assert!(refusal(&model).contains(expected), "{}", refusal(&model));
    }
}

#[test]
fn a_model_cut_anywhere_does_not_panic() {
    let whole = llama();
    for end in 0..whole.len() {
        let _ = from_sentencepiece(&whole[..end], None);
    }
}

/// Every way to split every piece is a merge: pieces of one letter repeated have most.
#[test]
fn more_merges_than_allowed_are_refused() {
    let mut model = piece("<unk>", 0.0, UNKNOWN);
    for letter in 0..60u32 {
        let letter = char::from_u32(0x21 + letter).unwrap();
        for length in 1..=256 / letter.len_utf8() {
            model.extend(piece(&letter.to_string().repeat(length), 0.0, NORMAL));
        }
    }
    model.extend(bytes(2, &number(3, 2)));
    assert!(refusal(&model).contains("in more than 1000000 ways"), "{}", refusal(&model));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(model in prop::collection::vec(any::<u8>(), 0..200), at in 0..4000usize, with in any::<u8>()) {
        let _ = from_sentencepiece(&model, None);
        let mut damaged = llama();
        let place = at % damaged.len();
        damaged[place] = with;
        if let Ok(json) = from_sentencepiece(&damaged, None) {
            token_ids(&json).unwrap();
        }
    }
}
