//! The chat template of the output.

use vocabulary::ChatTemplate;

use super::Planner;
use crate::Source;
use crate::beside::text;

const POINTER: &str = "/chat_template";

impl Planner<'_> {
    /// The template that the recipe asks for; `None` where it asks for none, or none can be found.
    pub(super) fn chat_template(&mut self) -> Option<String> {
        // parsed without fault by `check` already
        match ChatTemplate::parse(self.recipe.chat_template.as_ref()?).ok()? {
            ChatTemplate::Text(template) => Some(template.into_owned()),
            ChatTemplate::Auto => self.most_frequent_template(),
        }
    }

    fn most_frequent_template(&mut self) -> Option<String> {
        let own: Vec<(String, String)> = self
            .of_donor_first()
            .filter_map(|source| Some((source.model.to_string(), own_template(source, &self.sources.access)?)))
            .collect();
        for (model, template) in &own {
            if let Err(error) = vocabulary::check_template(template) {
                self.warn(POINTER, "chat_template", format!("that of model {model:?} is not counted: {error}"));
            }
        }
        let templates: Vec<&str> = own.iter().map(|(_, template)| template.as_str()).collect();
        let chosen = vocabulary::most_frequent(&templates).map(str::to_owned);
        if chosen.is_none() {
            let detail = "no model has a chat template, so the output has none; write the name of one, or its text";
            self.warn(POINTER, "no_effect", detail);
        }
        chosen
    }

    /// The base, or whoever gives the config, before the others: of equally frequent templates its own counts.
    fn of_donor_first(&self) -> impl Iterator<Item = &'_ Source> {
        let (donor, list) = (self.donor(), &self.sources.list);
        std::iter::once(&list[donor]).chain(list.iter().enumerate().filter(move |(i, _)| *i != donor).map(|(_, s)| s))
    }
}

/// As transformers looks for it: the file of its own, then the tokenizer's config, then the processor's file.
fn own_template(source: &Source, access: &checkpoint::Access) -> Option<String> {
    let max = vocabulary::limits::TEMPLATE_BYTES_MAX as u64;
    let of_its_own = text(source, "chat_template.jinja", max, access);
    let inside = |name: &str| {
        let json = source.checkpoint.json(name, access).ok().flatten()?;
        vocabulary::template_in(&json).map(str::to_owned)
    };
    of_its_own.or_else(|| inside("tokenizer_config.json")).or_else(|| inside("chat_template.json"))
}
