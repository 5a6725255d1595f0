//! `tokenizer` and `tokenizer_source`.

use super::{Decoder, Object};
use crate::node::{Kind, Node};
use crate::problem::escape;
use crate::types::*;

impl Decoder {
    pub(super) fn tokenizer(&mut self, top: &Object<'_>) -> Option<TokenizerRecipe> {
        match (top.get("tokenizer"), top.get("tokenizer_source")) {
            (Some((_, _)), Some((_, pointer))) => {
                self.error(
                    &pointer,
                    "conflict",
                    "`tokenizer` and `tokenizer_source` exclude each other; keep `tokenizer`",
                );
                None
            }
            (None, None) => None,
            (None, Some((node, pointer))) => {
                let source = self.tokenizer_source(node, &pointer)?;
                Some(TokenizerRecipe { source, tokens: Vec::new(), pad_to_multiple_of: None })
            }
            (Some((node, pointer)), None) => self.tokenizer_object(node, &pointer),
        }
    }

    fn tokenizer_object(&mut self, node: &Node, pointer: &str) -> Option<TokenizerRecipe> {
        let object = self.object(node, pointer, &["source", "tokens", "pad_to_multiple_of"], "a map with `source`")?;
        let source = match object.get("source") {
            Some((node, at)) => self.tokenizer_source(node, &at)?,
            None => TokenizerSource::Union,
        };
        let tokens = self.optional(&object, "tokens", Decoder::tokens).unwrap_or_default();
        let pad_to_multiple_of = match object.get("pad_to_multiple_of") {
            Some((node, at)) => Some(self.positive(node, &at)?),
            None => None,
        };
        Some(TokenizerRecipe { source, tokens, pad_to_multiple_of })
    }

    fn tokenizer_source(&mut self, node: &Node, pointer: &str) -> Option<TokenizerSource> {
        match &node.kind {
            Kind::Text(s) if s == "union" => Some(TokenizerSource::Union),
            Kind::Text(s) if s == "base" => Some(TokenizerSource::Base),
            _ => self.model_ref(node, pointer).map(TokenizerSource::Model),
        }
    }

    fn tokens(&mut self, node: &Node, pointer: &str) -> Option<Vec<(String, TokenRecipe)>> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong_type(pointer, node, "a map of tokens");
            return None;
        };
        if entries.iter().any(|(key, _)| key.name.is_empty()) {
            self.error(pointer, "invalid_value", "a token is a text; this one is empty");
            return None;
        }
        let tokens: Vec<_> = entries
            .iter()
            .map(|(key, value)| {
                Some((key.name.clone(), self.token(value, &format!("{pointer}/{}", escape(&key.name)))?))
            })
            .collect();
        tokens.into_iter().collect()
    }

    fn token(&mut self, node: &Node, pointer: &str) -> Option<TokenRecipe> {
        let object = self.object(node, pointer, &["source", "force"], "a map with `source`")?;
        let source = match object.get("source") {
            Some((node, at)) => Some(self.token_source(node, &at)?),
            None => None,
        };
        let force = self.optional(&object, "force", Decoder::boolean).unwrap_or(false);
        Some(TokenRecipe { source, force })
    }

    fn token_source(&mut self, node: &Node, pointer: &str) -> Option<TokenSource> {
        let Kind::Map(entries) = &node.kind else {
            return self.model_ref(node, pointer).map(TokenSource::Model);
        };
        if !entries.iter().any(|(key, _)| key.name == "kind") {
            return self.model_ref(node, pointer).map(TokenSource::Model);
        }
        let object = self.object(node, pointer, &["kind", "model", "token", "token_id"], "a token source")?;
        let Some((node, at)) = object.get("kind") else {
            self.error(pointer, "missing", "write `kind: zero` or `kind: model_token`");
            return None;
        };
        let kind = self.text(node, &at)?;
        match kind.as_str() {
            "zero" => Some(TokenSource::Zero),
            "model_token" => self.model_token(&object),
            other => {
                self.error(
                    pointer,
                    "invalid_value",
                    format!("token source kind {other:?} is not known; write `zero` or `model_token`"),
                );
                None
            }
        }
    }

    fn model_token(&mut self, object: &Object<'_>) -> Option<TokenSource> {
        let model = self.required_model(object)?;
        let token = self.optional(object, "token", Decoder::text);
        let token_id = self.optional(object, "token_id", Decoder::token_id);
        if token.is_some() == token_id.is_some() {
            let pointer = object.pointer.clone();
            self.error(&pointer, "invalid_value", "write exactly one of `token` and `token_id`");
            return None;
        }
        Some(TokenSource::ModelToken { model, token, token_id })
    }
}
