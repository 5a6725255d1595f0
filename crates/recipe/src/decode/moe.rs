//! Recipes for a mixture of experts, as mergekit-moe has them: read in full, so that what is wrong in them is told, and then
//! refused, because making one is not supported yet.

use super::{Decoder, Object};
use crate::limits;
use crate::node::{Key, Kind, Node};
use crate::problem::nearest;

const KEYS: &[&str] = &[
    "merge_method",
    "base_model",
    "experts",
    "gate_mode",
    "dtype",
    "out_dtype",
    "experts_per_token",
    "shared_experts",
    "architecture",
    "name",
    "lenient",
];
const EXPERT_KEYS: &[&str] = &["source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale"];
const GATE_MODES: &[&str] = &["hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"];

/// The key that says this is a mixture of experts: `experts`, or `merge_method: moe`.
pub(super) fn is_moe(node: &Node) -> Option<&'static str> {
    let Kind::Map(entries) = &node.kind else { return None };
    let says_so = |(key, value): &(Key, Node)| match key.name.as_str() {
        "experts" => Some("/experts"),
        "merge_method" if matches!(&value.kind, Kind::Text(s) if s == "moe") => Some("/merge_method"),
        _ => None,
    };
    entries.iter().find_map(says_so)
}

impl Decoder {
    pub(super) fn refuse_moe(&mut self, node: &Node, pointer: &str) {
        self.error(pointer, "not_yet", "building a mixture of experts (`moe`) is not supported yet");
        let Some(top) = self.object(node, "", KEYS, "a recipe for a mixture of experts") else { return };
        if top.get("base_model").is_none() {
            self.error("", "missing", "`base_model` is missing; attention, norms and embeddings come from it");
        }
        self.optional(&top, "base_model", Decoder::model_ref);
        self.optional(&top, "dtype", Decoder::dtype);
        self.optional(&top, "out_dtype", Decoder::dtype);
        self.optional(&top, "experts_per_token", Decoder::positive);
        self.optional(&top, "architecture", Decoder::text);
        self.optional(&top, "gate_mode", Decoder::gate_mode);
        if top.get("experts").is_none() {
            self.error("", "missing", "`experts` is missing; write `experts: [{source_model: PATH}]`");
        }
        self.optional(&top, "experts", Decoder::experts);
        self.optional(&top, "shared_experts", Decoder::experts);
    }

    fn gate_mode(&mut self, node: &Node, pointer: &str) -> Option<()> {
        let mode = self.text(node, pointer)?;
        if !GATE_MODES.contains(&mode.as_str()) {
            let near = nearest(&mode, GATE_MODES.iter().copied());
            let advice =
                near.map_or(format!("there are {}", GATE_MODES.join(", ")), |n| format!("did you mean `{n}`?"));
            self.error(pointer, "invalid_value", format!("gate_mode {mode:?} is not known; {advice}"));
        }
        Some(())
    }

    fn experts(&mut self, node: &Node, pointer: &str) -> Option<()> {
        let items = self.list(node, pointer, limits::MODELS_MAX, "a list of experts (`- source_model: PATH`)")?;
        for (i, item) in items.iter().enumerate() {
            let object = self.object(item, &format!("{pointer}/{i}"), EXPERT_KEYS, "a map with `source_model`");
            if let Some(expert) = object {
                self.expert(&expert);
            }
        }
        Some(())
    }

    fn expert(&mut self, expert: &Object<'_>) {
        if expert.get("source_model").is_none() {
            self.error(&expert.pointer, "missing", "`source_model` is missing; write `source_model: PATH`");
        }
        self.optional(expert, "source_model", Decoder::model_ref);
        self.optional(expert, "positive_prompts", Decoder::prompts);
        self.optional(expert, "negative_prompts", Decoder::prompts);
        self.optional(expert, "noise_scale", Decoder::factor);
        self.optional(expert, "residual_scale", Decoder::factor);
    }

    fn prompts(&mut self, node: &Node, pointer: &str) -> Option<()> {
        let items = self.list(node, pointer, limits::NODES_MAX, "a list of prompts")?;
        for (i, item) in items.iter().enumerate() {
            self.text(item, &format!("{pointer}/{i}"));
        }
        Some(())
    }

    fn factor(&mut self, node: &Node, pointer: &str) -> Option<()> {
        if !matches!(node.kind, Kind::Number(_)) {
            self.wrong_type(pointer, node, "a number");
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use crate::Recipe;

    const GOOD: &str = "base_model: org/base\ngate_mode: hidden\nexperts_per_token: 2\nexperts:\n- source_model: org/a\n  positive_prompts: [math, \"1 + 1\"]\n  noise_scale: 0.1\n- source_model: org/b\n  negative_prompts: [poetry]\ndtype: bfloat16\n";

    fn codes(text: &str) -> Vec<(String, String)> {
        let refusal = Recipe::parse(text, false).unwrap_err();
        refusal.problems.into_iter().map(|p| (p.pointer, p.code)).collect()
    }

    #[test]
    fn both_spellings_are_read_and_refused_as_not_there_yet() {
        assert_eq!(codes(GOOD), [("/experts".into(), "not_yet".into())]);
        assert_eq!(codes(&format!("merge_method: moe\n{GOOD}")), [("/merge_method".into(), "not_yet".into())]);
    }

    #[test]
    fn what_is_wrong_in_them_is_told_all_the_same() {
        let typos = GOOD.replace("gate_mode: hidden", "gate_mode: hiden").replace("noise_scale", "noise_scael");
        let expected =
            [("/experts", "not_yet"), ("/gate_mode", "invalid_value"), ("/experts/0/noise_scael", "unknown_key")];
        assert_eq!(codes(&typos), expected.map(|(pointer, code)| (pointer.to_owned(), code.to_owned())));
        assert!(Recipe::parse(&typos, false).unwrap_err().to_string().contains("did you mean `noise_scale`?"));
        assert_eq!(codes("merge_method: moe\n").len(), 3);
    }
}
