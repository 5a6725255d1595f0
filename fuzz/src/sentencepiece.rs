//! A SentencePiece model, read into the tokenizer that is made of it.

pub fn run(data: &[u8]) {
    if let Ok(tokenizer) = vocabulary::from_sentencepiece(data, None) {
        vocabulary::token_ids(&tokenizer).expect("what is made of a model is a tokenizer");
    }
}
