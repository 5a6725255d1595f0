//! The files that speak of tokens: those of the output that differ from their donor's, and whether they agree.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vocabulary::special::{disagreements, list_added, move_ids, retain_names, take_roles};
use vocabulary::{markers, token_ids};

use super::Planner;
use super::tokens::{Tokens, tokenizer_json};
use crate::artifact::MadeFile;

const CONFIG: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";

impl Planner<'_> {
    /// Files that are not carried as they are. Ids in `config`, which is that of source `donor`, become those of the output.
    pub(super) fn tokenizer_files(
        &mut self,
        config: &mut Value,
        donor: usize,
        tokens: Option<&Tokens>,
        template: Option<String>,
    ) -> Vec<MadeFile> {
        if tokens.is_none() && template.is_none() {
            return Vec::new();
        }
        let of_tokens = tokens.map_or(donor, |tokens| tokens.donor);
        let generation = self.beside(donor, GENERATION);
        let tokenizer = self.beside(of_tokens, CONFIG);
        let map = self.beside(of_tokens, "special_tokens_map.json");
        let (mut new_generation, mut new_tokenizer, mut new_map) = (generation.clone(), tokenizer.clone(), map.clone());
        let ids = self.ids(of_tokens, tokens);
        let mut made = Vec::new();
        if let Some(tokens) = tokens {
            tokens.set_size(config);
            self.move_ids("config.json", config, donor, tokens);
            self.move_ids(GENERATION, &mut new_generation, donor, tokens);
            if tokens.is_made {
                made.push(MadeFile::json("tokenizer.json", &tokens.output.tokenizer_json));
                list_added(&mut new_tokenizer, &tokens.output.tokenizer_json);
                self.retain_names(&mut new_tokenizer, &ids);
                retain_names(&mut new_map, &ids);
            }
        }
        self.set_template(&mut new_tokenizer, template.as_deref(), &ids);
        for (name, config) in [("config.json", &*config), (GENERATION, &new_generation)] {
            for detail in disagreements(config, &new_tokenizer, &ids) {
                self.warn("", "special_tokens", format!("{name}: {detail}; generation goes by the former"));
            }
        }
        let files = [
            (GENERATION, generation, new_generation),
            (CONFIG, tokenizer, new_tokenizer),
            ("special_tokens_map.json", map, new_map),
        ];
        made.extend(files.iter().filter(|(_, old, new)| old != new).map(|(name, _, new)| MadeFile::json(name, new)));
        made.extend(template.map(|t| MadeFile { name: "chat_template.jinja", content: t.into_bytes() }));
        made
    }

    /// A JSON file of a source; null where it has none.
    fn beside(&self, source: usize, name: &str) -> Value {
        self.sources.list[source].checkpoint.json(name, &self.sources.access).ok().flatten().unwrap_or_default()
    }

    /// The ids of the output's tokens; of those that are carried as they are, as far as they can be read.
    fn ids(&self, of_tokens: usize, tokens: Option<&Tokens>) -> BTreeMap<String, u32> {
        let carried = || tokenizer_json(&self.sources.list[of_tokens], &self.sources.access).ok().flatten();
        let json = tokens.map(|tokens| tokens.output.tokenizer_json.clone()).or_else(carried);
        json.and_then(|json| token_ids(&json).ok()).unwrap_or_default()
    }

    /// Ids follow their tokens into the output's vocabulary. Where another model gives it, that model's roles go with it.
    fn move_ids(&mut self, name: &str, config: &mut Value, donor: usize, tokens: &Tokens) {
        let gone = move_ids(config, &tokens.moved);
        if tokens.donor != donor {
            let generation = self.beside(tokens.donor, GENERATION);
            let own = &self.sources.list[tokens.donor].checkpoint.config;
            match name {
                GENERATION if config.is_object() => take_roles(config, &[&generation, own]),
                _ => take_roles(config, &[own]),
            }
        }
        for key in gone.iter().filter(|key| config.get(key).is_none_or(Value::is_array)) {
            let detail = format!("{name}: a token of {key:?} is not in the output's vocabulary, so its id is left out");
            self.warn(self.recipe.tokenizer_pointer(), "special_tokens", detail);
        }
    }

    fn retain_names(&mut self, config: &mut Value, ids: &BTreeMap<String, u32>) {
        for name in retain_names(config, ids) {
            let detail = format!("{CONFIG}: token {name:?} is not in the output's vocabulary, so it is left out");
            self.warn(self.recipe.tokenizer_pointer(), "special_tokens", detail);
        }
    }

    /// Older libraries look for the template in the tokenizer's config and newer ones in its own file, so it is in both.
    fn set_template(&mut self, config: &mut Value, template: Option<&str>, ids: &BTreeMap<String, u32>) {
        let Some(template) = template else { return };
        if let Some(config) = config.as_object_mut() {
            config.insert("chat_template".to_owned(), json!(template));
        }
        let missing: Vec<&str> = markers(template).into_iter().filter(|marker| !ids.contains_key(*marker)).collect();
        if !missing.is_empty() && !ids.is_empty() {
            let detail = format!(
                "the template writes {}, which are no tokens of the output: a model sees them as ordinary text; add them under `tokenizer: {{tokens: ...}}` or choose another template",
                missing.join(" ")
            );
            self.warn("/chat_template", "special_tokens", detail);
        }
    }
}
