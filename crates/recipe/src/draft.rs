//! A recipe before it is understood: what came beside it is laid into its tree, and then it is one merge or several.

use serde_json::{Map, Value};

use crate::node::{Key, Kind, Node};
use crate::variants::{self, Variant};
use crate::{Problem, Refusal, limits, to_yaml};

/// A recipe as a tree, and as the text it came as.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub(crate) root: Node,
    pub(crate) text: String,
    pub(crate) syntax: Syntax,
    /// Whether the tree still says what the text says.
    pub(crate) is_as_written: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Yaml,
    Json,
}

impl Draft {
    /// From YAML, or JSON as text: findings have lines.
    pub fn from_yaml(text: &str) -> Result<Draft, Refusal> {
        let root = Node::from_yaml(text)?;
        root.within_limits()?;
        Ok(Draft { root, text: text.to_owned(), syntax: Syntax::Yaml, is_as_written: true })
    }

    pub fn from_json(value: &Value) -> Result<Draft, Refusal> {
        let root = Node::from_json(value);
        root.within_limits()?;
        Ok(Draft { root, text: value.to_string(), syntax: Syntax::Json, is_as_written: true })
    }

    /// Lays options over those of the recipe.
    pub fn set_options(&mut self, options: &Map<String, Value>) {
        for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
            set_option(&mut self.root, name, Node::from_json(value));
            self.is_as_written = false;
        }
    }

    /// Adds `variants` or a `grid` that came beside the recipe.
    pub fn set_variants(&mut self, key: &'static str, value: &Value) -> Result<(), Refusal> {
        let node = Node::from_json(value);
        node.within_limits()?;
        if self.root.get(key).is_some() {
            let detail = format!("`{key}` stands in the recipe and beside it; keep one");
            return Err(problem_at(&node, &format!("/{key}"), "conflict", detail).into());
        }
        self.root.set(key, node);
        Ok(())
    }

    /// The merges of this recipe: itself, or each of its variants in the order written.
    pub fn variants(self) -> Result<Vec<Variant>, Refusal> {
        variants::expand(self)
    }
}

/// Sets an option, whichever way it is spelled in the recipe.
pub(crate) fn set_option(root: &mut Node, name: &str, value: Node) {
    let underscored = |name: &str| name.replace('-', "_");
    let Some(options) = root.slot("options", value.at) else { return };
    if let Kind::Map(entries) = &mut options.kind {
        entries.retain(|(key, _): &(Key, Node)| underscored(&key.name) != underscored(name));
    }
    options.set(name, value);
}

/// A tree as a text of its own, that a worker or a person can merge alone.
pub(crate) fn written(syntax: Syntax, root: &Node) -> Result<String, Problem> {
    let value = root.to_json();
    let text = match syntax {
        Syntax::Yaml => to_yaml(&value),
        Syntax::Json => value.to_string(),
    };
    // room for a line that names the variant
    if text.len() + 2 * limits::VARIANT_NAME_CHARS_MAX > limits::RECIPE_BYTES_MAX {
        let detail = format!(
            "the recipe of one merge has {} bytes; at most {} are accepted",
            text.len(),
            limits::RECIPE_BYTES_MAX
        );
        return Err(problem_at(root, "", "too_large", detail));
    }
    Ok(text)
}

pub(crate) fn problem_at(node: &Node, pointer: &str, code: &str, detail: String) -> Problem {
    Problem {
        pointer: pointer.to_owned(),
        line: node.at.map(|at| at.0),
        column: node.at.map(|at| at.1),
        code: code.to_owned(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RECIPE: &str = "# mine\nmerge_method: passthrough\nmodels: [{model: a}]\n";

    fn only(draft: Draft) -> Variant {
        let mut variants = draft.variants().unwrap();
        assert_eq!(variants.len(), 1);
        variants.remove(0)
    }

    #[test]
    fn a_recipe_to_which_nothing_is_added_keeps_its_text() {
        let variant = only(Draft::from_yaml(RECIPE).unwrap());
        assert_eq!((variant.name(), variant.text().unwrap().as_str()), (None, RECIPE));
        let value = json!({"models": [{"model": "a"}], "merge_method": "passthrough"});
        assert_eq!(only(Draft::from_json(&value).unwrap()).text().unwrap(), value.to_string());
    }

    #[test]
    fn options_beside_the_recipe_win_in_either_spelling() {
        let mut draft =
            Draft::from_yaml(&format!("{RECIPE}options: {{allow-crimes: false, random_seed: 3}}\n")).unwrap();
        draft.set_options(json!({"allow_crimes": true, "out_shard_size": null}).as_object().unwrap());
        let variant = only(draft);
        let options = variant.recipe(false).unwrap().options;
        assert_eq!((options.allow_crimes, options.random_seed, options.out_shard_size), (true, Some(3), None));
        let read = crate::Recipe::parse(&variant.text().unwrap(), false).unwrap();
        assert_eq!(read.options, options);
    }

    #[test]
    fn an_option_that_came_beside_the_text_has_no_line_in_it() {
        let mut draft = Draft::from_yaml(RECIPE).unwrap();
        draft.set_options(json!({"allow_crimes": 3}).as_object().unwrap());
        let refusal = only(draft).recipe(false).unwrap_err();
        assert_eq!((refusal.problems[0].pointer.as_str(), refusal.problems[0].line), ("/options/allow_crimes", None));
    }

    #[test]
    fn variants_stand_in_one_place() {
        let mut draft = Draft::from_yaml(&format!("{RECIPE}grid: {{parameters: {{scale: [1, 2]}}}}\n")).unwrap();
        assert_eq!(draft.set_variants("grid", &json!({})).unwrap_err().problems[0].code, "conflict");
    }
}
