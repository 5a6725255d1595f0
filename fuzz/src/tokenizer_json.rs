//! A `tokenizer.json`, read as a table of tokens and united with a plain one.

use recipe::{ModelRef, Recipe};
use serde_json::{Value, json};
use vocabulary::Tokenizer;

/// Rows of both embeddings: fewer than some ids, more than others.
const ROWS: u32 = 300;

pub fn run(data: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(data) else { return };
    let read = vocabulary::token_ids(&json).is_ok();
    let plain = json!({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}});
    let tokenizers = [json, plain].map(|tokenizer_json| {
        let model = ModelRef::local("m");
        Tokenizer { model, tokenizer_json: tokenizer_json.into(), rows: ROWS }
    });
    let text = "merge_method: linear\nmodels:\n  - model: m\n    parameters: {weight: 1}\ntokenizer: {source: union}\n";
    let recipe = Recipe::parse(text, false).expect("it is a sound recipe");
    let wanted = recipe.tokenizer.expect("it has a tokenizer");
    if let Ok(output) = vocabulary::merge(&wanted, &tokenizers, 0) {
        assert!(read, "a tokenizer that cannot be read was merged");
        assert!(output.tokens <= output.rows);
        assert!(output.maps.iter().all(|map| map.len() == output.rows as usize));
    }
}
