//! A recipe before it is understood: what came beside it is laid into its tree, and then it is one merge or several.

use serde_json::{Map, Value};

use crate::node::{Key, Kind, Node};
use crate::variants::{self, Variant};
use crate::{Problem, Refusal, limits, to_yaml};

/// A recipe as trees, one for each document, and as the text it came as.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub(crate) documents: Vec<Node>,
    /// Several documents, or a list of them: pointers begin with a document's number.
    pub(crate) is_list: bool,
    pub(crate) text: String,
    pub(crate) syntax: Syntax,
    /// Whether the trees still say what the text says.
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
        Draft::of(Node::from_documents(text)?, text.to_owned(), Syntax::Yaml)
    }

    /// From an object, or a list of them.
    pub fn from_json(value: &Value) -> Result<Draft, Refusal> {
        Draft::of(Node::from_json(value), value.to_string(), Syntax::Json)
    }

    fn of(node: Node, text: String, syntax: Syntax) -> Result<Draft, Refusal> {
        node.within_limits()?;
        let (documents, is_list) = node.into_documents();
        Ok(Draft { documents, is_list, text, syntax, is_as_written: true })
    }

    /// Lays options over those of every document.
    pub fn set_options(&mut self, options: &Map<String, Value>) -> Result<(), Refusal> {
        if options.len() > limits::OPTIONS_MAX {
            let detail = format!("has {} options; at most {} are accepted", options.len(), limits::OPTIONS_MAX);
            let beside = Node { at: None, kind: Kind::Null };
            return Err(problem_at(&beside, "/options", "too_many", detail).into());
        }
        Node::from_json(&Value::Object(options.clone())).within_limits()?;
        for (name, value) in options.iter().filter(|(_, value)| !value.is_null()) {
            self.documents.iter_mut().for_each(|document| set_option(document, name, Node::from_json(value)));
            self.is_as_written = false;
        }
        Ok(())
    }

    /// Adds `variants` or a `grid` that came beside the recipe.
    pub fn set_variants(&mut self, key: &'static str, value: &Value) -> Result<(), Refusal> {
        let node = Node::from_json(value);
        node.within_limits()?;
        let refused = |detail: String| Err(problem_at(&node, &format!("/{key}"), "conflict", detail).into());
        let [document] = self.documents.as_mut_slice() else {
            return refused(format!("of several documents, `{key}` changes the one that it stands in: write it there"));
        };
        if document.get(key).is_some() {
            return refused(format!("`{key}` stands in the recipe and beside it; keep one"));
        }
        document.set(key, node);
        Ok(())
    }

    /// The merges of this recipe: itself, or each of its variants in the order written.
    pub fn variants(self) -> Result<Vec<Variant>, Refusal> {
        variants::expand(self)
    }

    /// Where pointers into a document begin.
    pub(crate) fn above(&self, document: usize) -> String {
        if self.is_list { format!("/{document}") } else { String::new() }
    }
}

/// Sets an option, whichever way it is spelled in the recipe.
pub(crate) fn set_option(root: &mut Node, name: &str, value: Node) {
    let underscored = |name: &str| name.replace('-', "_");
    let Some(options) = root.slot("options", value.at) else { return };
    if let Kind::Map(entries) = &mut options.kind {
        // so many are refused when they are read
        if entries.len() > limits::OPTIONS_MAX {
            return;
        }
        entries.retain(|(key, _): &(Key, Node)| underscored(&key.name) != underscored(name));
    }
    options.set(name, value);
}

/// Documents as a text of its own, that a worker or a person can merge alone.
pub(crate) fn written(syntax: Syntax, documents: &[Node], is_list: bool) -> Result<String, Problem> {
    let values: Vec<Value> = documents.iter().map(Node::to_json).collect();
    let text = match syntax {
        Syntax::Yaml => values.iter().map(to_yaml).collect::<Vec<_>>().join("---\n"),
        Syntax::Json if is_list => Value::Array(values).to_string(),
        Syntax::Json => values.into_iter().next().unwrap_or_default().to_string(),
    };
    // room for a line that names the variant
    if text.len() + 2 * limits::VARIANT_NAME_CHARS_MAX > limits::RECIPE_BYTES_MAX {
        let detail = format!(
            "the recipe of one merge has {} bytes; at most {} are accepted",
            text.len(),
            limits::RECIPE_BYTES_MAX
        );
        return Err(Problem::of_whole("too_large", detail));
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
        draft.set_options(json!({"allow_crimes": true, "out_shard_size": null}).as_object().unwrap()).unwrap();
        let variant = only(draft);
        let options = variant.stages(false).unwrap().result().recipe.options.clone();
        assert_eq!((options.allow_crimes, options.random_seed, options.out_shard_size), (true, Some(3), None));
        let read = crate::Recipe::parse(&variant.text().unwrap(), false).unwrap();
        assert_eq!(read.options, options);
    }

    #[test]
    fn an_option_that_came_beside_the_text_has_no_line_in_it() {
        let mut draft = Draft::from_yaml(RECIPE).unwrap();
        draft.set_options(json!({"allow_crimes": 3}).as_object().unwrap()).unwrap();
        let refusal = only(draft).stages(false).unwrap_err();
        assert_eq!((refusal.problems[0].pointer.as_str(), refusal.problems[0].line), ("/options/allow_crimes", None));
    }

    #[test]
    fn options_without_end_are_refused() {
        let many: Map<String, Value> = (0..1000).map(|i| (format!("o{i}"), json!(true))).collect();
        let refusal = Draft::from_yaml(RECIPE).unwrap().set_options(&many).unwrap_err();
        assert_eq!(refusal.problems[0].code, "too_many");
        let mut full = Draft::from_json(&json!({"merge_method": "linear", "models": [], "options": many})).unwrap();
        full.set_options(json!({"allow_crimes": true}).as_object().unwrap()).unwrap();
        assert_eq!(only(full).stages(false).unwrap_err().problems.last().unwrap().code, "too_many");
    }

    #[test]
    fn variants_stand_in_one_place() {
        let mut draft = Draft::from_yaml(&format!("{RECIPE}grid: {{parameters: {{scale: [1, 2]}}}}\n")).unwrap();
        assert_eq!(draft.set_variants("grid", &json!({})).unwrap_err().problems[0].code, "conflict");
    }
}
