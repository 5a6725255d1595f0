//! The tokenizer's files of the output that differ from those of the donor.

use serde_json::{Value, json};

use super::Planner;
use super::tokens::Tokens;
use crate::artifact::MadeFile;

impl Planner<'_> {
    pub(super) fn tokenizer_files(
        &mut self,
        donor: usize,
        tokens: Option<&Tokens>,
        template: Option<String>,
    ) -> Vec<MadeFile> {
        let mut made = Vec::new();
        if let Some(tokens) = tokens.filter(|t| !t.output.is_identity) {
            made.push(MadeFile::json("tokenizer.json", &tokens.output.tokenizer_json));
        }
        let carried = self.sources.list[donor].checkpoint.json("tokenizer_config.json", &self.sources.access);
        if let Ok(Some(carried)) = carried {
            let config = with_template(carried.clone(), template.as_deref());
            if config != carried {
                made.push(MadeFile::json("tokenizer_config.json", &config));
            }
        }
        made.extend(template.map(|t| MadeFile { name: "chat_template.jinja", content: t.into_bytes() }));
        made
    }
}

/// Older libraries look for the template here and newer ones in its own file, so it is in both.
fn with_template(mut config: Value, template: Option<&str>) -> Value {
    if let (Some(template), Some(config)) = (template, config.as_object_mut()) {
        config.insert("chat_template".to_owned(), json!(template));
    }
    config
}
