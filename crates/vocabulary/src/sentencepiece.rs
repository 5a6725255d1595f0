//! A SentencePiece `tokenizer.model` as the tokenizer.json that splits text as it does.
//!
//! Of the protobuf a few fields are read: pieces with score and type, the kind of model, and how text is normalized.

mod message;
mod pieces;

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::VocabularyError;
use crate::limits::{MERGES_MAX, SENTENCEPIECE_BYTES_MAX};
use message::malformed;
use pieces::{Kind, Piece, PieceType, SentencePiece};

/// The sign for a blank.
const BLANK: &str = "▁";

/// Reads the bytes of a `tokenizer.model`; `config` is the tokenizer_config.json beside it, where there is one, which says
/// what was added since and whether a text begins and ends with special tokens.
pub fn from_sentencepiece(bytes: &[u8], config: Option<&Value>) -> Result<Value, VocabularyError> {
    if bytes.len() > SENTENCEPIECE_BYTES_MAX {
        return Err(malformed(format!("it has {} bytes; at most {SENTENCEPIECE_BYTES_MAX} are taken", bytes.len())));
    }
    let model = SentencePiece::read(bytes)?;
    let split = match model.kind {
        Kind::Unigram => unigram(&model),
        Kind::Bpe => bpe(&model)?,
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&model, config),
        "normalizer": normalizer(&model),
        "pre_tokenizer": pre_tokenizer(&model),
        "post_processor": post_processor(&model, config),
        "decoder": decoder(&model),
        "model": split,
    }))
}

fn unigram(model: &SentencePiece) -> Value {
    let vocab: Vec<Value> = model.pieces.iter().map(|p| json!([p.text, p.score])).collect();
    json!({"type": "Unigram", "unk_id": model.unknown, "vocab": vocab, "byte_fallback": model.has_bytes()})
}

fn bpe(model: &SentencePiece) -> Result<Value, VocabularyError> {
    let vocab: serde_json::Map<String, Value> =
        model.pieces.iter().enumerate().map(|(id, p)| (p.text.clone(), json!(id))).collect();
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": model.pieces[model.unknown].text,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
        "byte_fallback": model.has_bytes(), "ignore_merges": false, "vocab": vocab, "merges": merges(&model.pieces)?,
    }))
}

/// SentencePiece joins the neighbours whose piece has the best score; so each way to make a piece is a merge, and the
/// merges rank as their pieces' scores.
fn merges(pieces: &[Piece]) -> Result<Vec<Value>, VocabularyError> {
    let ids: HashMap<&str, usize> =
        pieces.iter().enumerate().filter(|(_, p)| p.is_made()).map(|(id, p)| (p.text.as_str(), id)).collect();
    let mut made: Vec<&Piece> = pieces.iter().filter(|p| p.is_made()).collect();
    made.sort_by(|a, b| b.score.total_cmp(&a.score));
    let ways = made.into_iter().flat_map(|piece| {
        let splits = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let mut ways: Vec<(usize, usize, &str, &str)> =
            splits.filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, l, r))).collect();
        ways.sort_unstable();
        ways
    });
    let merges: Vec<(&str, &str)> = ways.map(|(_, _, left, right)| (left, right)).take(MERGES_MAX + 1).collect();
    if merges.len() > MERGES_MAX {
        return Err(malformed(format!("its pieces are made in more than {MERGES_MAX} ways")));
    }
    Ok(merges.into_iter().map(|(left, right)| json!([left, right])).collect())
}

fn added_tokens(model: &SentencePiece, config: Option<&Value>) -> Vec<Value> {
    let entry = |id: usize, content: &str, special: bool, normalized: bool| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": normalized, "special": special,
        })
    };
    let own = model.pieces.iter().enumerate().filter_map(|(id, piece)| match piece.kind {
        PieceType::Unknown | PieceType::Control => Some(entry(id, &piece.text, true, false)),
        PieceType::UserDefined if !piece.is_made() && !piece.text.contains(' ') => {
            Some(entry(id, &piece.text, false, false))
        }
        PieceType::UserDefined | PieceType::Normal | PieceType::Byte | PieceType::Unused => None,
    });
    let mut added: Vec<Value> = own.collect();
    let later = config.and_then(|config| config["added_tokens_decoder"].as_object()).into_iter().flatten();
    let mut later: Vec<(usize, &Value)> = later.filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
    later.sort_by_key(|(id, _)| *id);
    for (id, token) in later.into_iter().filter(|(id, _)| *id >= model.pieces.len()) {
        let Some(content) = token["content"].as_str() else { continue };
        let mut made = entry(id, content, token["special"] == true, token["normalized"] == true);
        for key in ["single_word", "lstrip", "rstrip"] {
            made[key] = json!(token[key] == true);
        }
        added.push(made);
    }
    added
}

fn normalizer(model: &SentencePiece) -> Value {
    let mut steps = Vec::new();
    if let Some(charsmap) = &model.charsmap {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": charsmap}));
    }
    if model.removes_blanks {
        steps.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if model.adds_blank {
        steps.push(json!({"type": "Prepend", "prepend": BLANK}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK}));
    json!({"type": "Sequence", "normalizers": steps})
}

/// Words can be taken one by one unless pieces reach from one into the next.
fn pre_tokenizer(model: &SentencePiece) -> Value {
    match model.crosses_blanks() {
        true => Value::Null,
        false => json!({"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "never", "split": true}),
    }
}

fn decoder(model: &SentencePiece) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if model.adds_blank {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// What stands before and after a text. Llama and Gemma begin a text where their config does not say; T5 ends it.
fn post_processor(model: &SentencePiece, config: Option<&Value>) -> Value {
    let config = config.unwrap_or(&Value::Null);
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    let says = |key: &str, classes: &[&str]| {
        config[key].as_bool().unwrap_or_else(|| classes.iter().any(|name| class.starts_with(name)))
    };
    let named = |key: &str, piece: Option<usize>| {
        let name = config[key].as_str().or_else(|| config[key]["content"].as_str());
        let by_name = name.and_then(|name| model.pieces.iter().position(|p| p.text == name));
        by_name.or(piece).map(|id| (id, model.pieces[id].text.as_str()))
    };
    let begin = named("bos_token", model.begin).filter(|_| says("add_bos_token", &["Llama", "CodeLlama", "Gemma"]));
    let end = named("eos_token", model.end).filter(|_| says("add_eos_token", &["T5"]));
    if begin.is_none() && end.is_none() {
        return Value::Null;
    }
    let mark = |token: Option<(usize, &str)>, of: usize| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": of}}))
    };
    let around = |name: &str, of: usize| {
        let text = json!({"Sequence": {"id": name, "type_id": of}});
        [mark(begin, of), Some(text), mark(end, of)].into_iter().flatten().collect::<Vec<_>>()
    };
    let tokens: serde_json::Map<String, Value> = [begin, end]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
}
