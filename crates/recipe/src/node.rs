//! Text as a tree that remembers where each value stood.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

use crate::limits;
use crate::problem::Problem;

/// A value and its line and column, absent for values that came as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub at: Option<(u32, u32)>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    /// Keys keep their own place: an unknown key is reported where it stands.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub at: Option<(u32, u32)>,
    pub name: String,
}

impl Node {
    /// Parses one YAML document (JSON is one too), within the limits.
    pub fn from_yaml(text: &str) -> Result<Node, Problem> {
        if text.len() > limits::RECIPE_BYTES_MAX {
            return Err(whole(
                "too_large",
                format!("recipe has {} bytes; at most {} are accepted", text.len(), limits::RECIPE_BYTES_MAX),
            ));
        }
        if let Some(at) = text.find('\0') {
            return Err(whole("yaml_syntax", format!("recipe has a NUL byte at offset {at}; send YAML text")));
        }
        serde_yaml::from_str_with_options::<Spanned<Raw>>(text, options())
            .map(Node::from)
            .map_err(|error| syntax_problem(&error))
    }

    /// Parses one YAML document, or several as a list of them; empty ones beside others are passed over.
    pub fn from_documents(text: &str) -> Result<Node, Problem> {
        match Node::from_yaml(text) {
            Err(problem) if problem.code == SEVERAL => {
                let documents = serde_yaml::from_multiple_with_options::<Spanned<Raw>>(text, options());
                let documents = documents.map_err(|error| syntax_problem(&error))?;
                let documents: Vec<Node> = documents.into_iter().map(Node::from).collect();
                Ok(<[Node; 1]>::try_from(documents).map_or_else(Node::of_list, |[only]| only))
            }
            one => one,
        }
    }

    /// The documents of a list; what is no list is one, and stands alone.
    pub fn into_documents(self) -> (Vec<Node>, bool) {
        match self.kind {
            Kind::List(documents) => (documents, true),
            kind => (vec![Node { at: self.at, kind }], false),
        }
    }

    fn of_list(items: Vec<Node>) -> Node {
        Node { at: None, kind: Kind::List(items) }
    }

    pub fn from_json(value: &serde_json::Value) -> Node {
        let kind = match value {
            serde_json::Value::Null => Kind::Null,
            serde_json::Value::Bool(b) => Kind::Bool(*b),
            serde_json::Value::Number(n) => Kind::Number(n.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(s) => Kind::Text(s.clone()),
            serde_json::Value::Array(items) => Kind::List(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(map) => {
                Kind::Map(map.iter().map(|(k, v)| (Key { at: None, name: k.clone() }, Node::from_json(v))).collect())
            }
        };
        Node { at: None, kind }
    }

    /// Values in this one, itself counted.
    pub fn count(&self) -> usize {
        let mut count = 0;
        let mut left = vec![self];
        while let Some(node) = left.pop() {
            count += 1;
            match &node.kind {
                Kind::List(items) => left.extend(items),
                Kind::Map(entries) => left.extend(entries.iter().map(|(_, value)| value)),
                _ => {}
            }
        }
        count
    }

    /// Whether keys, nesting, texts and the number of values stay within the limits, however the tree came to be.
    pub fn within_limits(&self) -> Result<(), Problem> {
        let (mut nodes, mut text_bytes) = (0, 0);
        let mut pointer_bytes = 0;
        let mut left = vec![(self, 0, 0)];
        while let Some((node, depth, above)) = left.pop() {
            nodes += 1;
            if nodes > limits::NODES_MAX || depth > limits::DEPTH_MAX {
                let detail =
                    format!("the recipe has more than {} values or {} levels", limits::NODES_MAX, limits::DEPTH_MAX);
                return Err(whole("too_large", detail));
            }
            // aliases of a long text are cheap to write
            if text_bytes > limits::TEXT_BYTES_MAX {
                let detail = format!("the texts of the recipe have more than {} bytes", limits::TEXT_BYTES_MAX);
                return Err(whole("too_large", detail));
            }
            // every value is remembered by the keys above it
            pointer_bytes += above;
            if pointer_bytes > limits::POINTER_BYTES_MAX {
                let detail =
                    format!("the keys above the recipe's values have more than {} bytes", limits::POINTER_BYTES_MAX);
                return Err(whole("too_large", detail));
            }
            match &node.kind {
                Kind::Text(text) => text_bytes += text.len(),
                Kind::List(items) => left.extend(items.iter().map(|item| (item, depth + 1, above + PLACE_BYTES))),
                Kind::Map(entries) => {
                    if let Some((key, _)) = entries.iter().find(|(key, _)| key.name.len() > limits::KEY_BYTES_MAX) {
                        let detail = format!(
                            "a key has {} bytes; at most {} are accepted",
                            key.name.len(),
                            limits::KEY_BYTES_MAX
                        );
                        let at = |place: fn((u32, u32)) -> u32| key.at.map(place);
                        return Err(Problem { line: at(|p| p.0), column: at(|p| p.1), ..whole("too_large", detail) });
                    }
                    // escaping may double a key
                    let below = |key: &Key| above + 1 + 2 * key.name.len();
                    left.extend(entries.iter().map(|(key, value)| (value, depth + 1, below(key))));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool(b) => (*b).into(),
            Kind::Number(n) => json_number(*n),
            Kind::Text(s) => s.as_str().into(),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(entries) => entries.iter().map(|(key, value)| (key.name.clone(), value.to_json())).collect(),
        }
    }

    /// The value of a key, unless it is null, which is as good as absent.
    pub fn get(&self, name: &str) -> Option<&Node> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(key, value)| key.name == name && value.kind != Kind::Null).map(|(_, value)| value)
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub fn len(&self) -> usize {
        self.items().len()
    }

    pub fn item_mut(&mut self, index: usize) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::List(items) => items.get_mut(index),
            _ => None,
        }
    }

    /// Sets the value of a key in place, or as the last. What is absent becomes a map; what is no map stays as it is.
    pub fn set(&mut self, name: &str, value: Node) {
        if let Some(place) = self.slot(name, value.at) {
            *place = value;
        }
    }

    /// The value of a key, made as null where there is none.
    pub fn slot(&mut self, name: &str, at: Option<(u32, u32)>) -> Option<&mut Node> {
        if self.kind == Kind::Null {
            *self = Node { at, kind: Kind::Map(Vec::new()) };
        }
        let Kind::Map(entries) = &mut self.kind else { return None };
        let place = entries.iter().position(|(key, _)| key.name == name).unwrap_or(entries.len());
        if place == entries.len() {
            entries.push((Key { at, name: name.to_owned() }, Node { at, kind: Kind::Null }));
        }
        Some(&mut entries[place].1)
    }

    /// What a person would call this value, for messages.
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".into(),
            Kind::Bool(b) => format!("`{b}`"),
            Kind::Number(n) => format!("the number {n}"),
            Kind::Text(s) if s.chars().count() > 40 => {
                format!("the text {:?}...", s.chars().take(40).collect::<String>())
            }
            Kind::Text(s) => format!("the text {s:?}"),
            Kind::List(items) => format!("a list of {}", items.len()),
            Kind::Map(_) => "a map".into(),
        }
    }
}

/// A whole number as it is written, without a point.
fn json_number(n: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() <= EXACT && !(n == 0.0 && n.is_sign_negative()) {
        return (n as i64).into();
    }
    n.into()
}

/// A place in a list, as a part of a pointer.
const PLACE_BYTES: usize = 8;

/// What one document is called that is not alone.
const SEVERAL: &str = "several_documents";

fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_nodes: limits::NODES_MAX,
            max_events: limits::NODES_MAX * 3,
            max_depth: limits::DEPTH_MAX,
            max_aliases: limits::ALIASES_MAX,
            max_merge_keys: limits::ALIASES_MAX,
            max_anchors: limits::ALIASES_MAX,
            // so many and as many empty ones; past them the text is not read on
            max_documents: 2 * limits::STAGES_MAX,
        },
        // YAML 1.1 reads y, n, yes, no, on and off as booleans; they are texts here, and count as booleans where one is due
        strict_booleans: true,
        // it reads 010 as 8, and so do the recipes' other readers
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn whole(code: &str, detail: String) -> Problem {
    Problem::of_whole(code, detail)
}

/// The parser's error in a user's words: its advice speaks of Rust types, so it is cut off.
fn syntax_problem(error: &serde_yaml::Error) -> Problem {
    let place = error.location().filter(|l| l.line() > 0);
    let full = error.without_snippet().to_string();
    let message = full.split(" at line ").next().unwrap_or(&full);
    let message = message.split("; use ").next().unwrap_or(message);
    let message = message.split(", set Duplicate").next().unwrap_or(message);
    // the user's own words stand behind a colon
    let is_about = |words: &str| message.split(':').next().is_some_and(|head| head.contains(words));
    let (code, detail) = if is_about("multiple YAML documents") {
        (SEVERAL, "one document is expected here, and there are several, divided by `---`".to_owned())
    } else if message.contains("non-finite float") {
        ("invalid_value", "infinity and NaN are no values here; write a finite number".to_owned())
    } else if is_about("budget") || is_about("recursion") {
        ("too_large", breached(message))
    } else if message.contains("recursive references") {
        ("yaml_syntax", "an alias stands inside what it refers to".to_owned())
    } else {
        ("yaml_syntax", mended(message))
    };
    Problem { line: place.map(|l| l.line() as u32), column: place.map(|l| l.column() as u32), ..whole(code, detail) }
}

/// Which limit of the parser it was, and how much it allows.
fn breached(message: &str) -> String {
    let limits = [
        ("Depth", limits::DEPTH_MAX, "levels"),
        ("Nodes", limits::NODES_MAX, "values once its aliases are expanded"),
        ("Events", limits::NODES_MAX, "values once its aliases are expanded"),
        ("Aliases", limits::ALIASES_MAX, "aliases"),
        ("Anchors", limits::ALIASES_MAX, "anchors"),
        ("MergeKeys", limits::ALIASES_MAX, "merge keys"),
        ("Documents", limits::STAGES_MAX, "documents"),
    ];
    let of = message.split_once("breached: ").map_or("", |(_, breach)| breach);
    match limits.iter().find(|(name, ..)| of.starts_with(name)) {
        Some((_, max, what)) => format!("the recipe has more than {max} {what}"),
        None => "the recipe is too large or too deeply nested once its aliases are expanded".to_owned(),
    }
}

/// What is often behind a message of the parser, and what to write.
const MENDS: &[(&str, &str)] = &[
    ("tabs disallowed", "indent with spaces"),
    ("unknown escape", "in double quotes a backslash begins an escape: write a path without quotes, or with `/`"),
    ("unexpected character: ``'", "no value begins with a back-quote: remove it, or put the value in quotes"),
    ("unexpected character: `@'", "no value begins with `@`: put the value in quotes"),
    ("unexpected character: `%'", "no value begins with `%`: put the value in quotes"),
];

fn mended(message: &str) -> String {
    match MENDS.iter().find(|(found, _)| message.contains(found)) {
        Some((_, mend)) => format!("{message}; {mend}"),
        None => message.to_owned(),
    }
}

/// What serde hands over; the places come from the `Spanned` around it.
enum Raw {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Node {
        let at = Some((raw.referenced.line() as u32, raw.referenced.column() as u32));
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Bool(b) => Kind::Bool(b),
            Raw::Number(n) => Kind::Number(n),
            Raw::Text(s) => Kind::Text(s),
            Raw::List(items) => Kind::List(items.into_iter().map(Node::from).collect()),
            Raw::Map(entries) => Kind::Map(entries.into_iter().map(|(k, v)| (key(k), Node::from(v))).collect()),
        };
        Node { at, kind }
    }
}

fn key(spanned: Spanned<String>) -> Key {
    Key { at: Some((spanned.referenced.line() as u32, spanned.referenced.column() as u32)), name: spanned.value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a scalar, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Raw, E> {
        Ok(Raw::Number(n as f64))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Raw, E> {
        Ok(Raw::Number(n as f64))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Raw, E> {
        Ok(Raw::Number(n))
    }

    fn visit_str<E>(self, s: &str) -> Result<Raw, E> {
        Ok(Raw::Text(s.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Kind {
        let Kind::Map(entries) = Node::from_yaml(text).unwrap().kind else { panic!("not a map") };
        entries[0].1.kind.clone()
    }

    #[test]
    fn a_bare_exponent_is_a_number() {
        assert_eq!(number("a: 1e-3"), Kind::Number(0.001));
        assert_eq!(number("a: .5"), Kind::Number(0.5));
        assert_eq!(number("a: 2"), Kind::Number(2.0));
    }

    #[test]
    fn hostile_text_is_refused_with_a_place_and_little_work() {
        let bomb = format!(
            "a: &a [x, x, x, x, x, x, x, x, x]\n{}",
            ["b", "c", "d", "e", "f", "g", "h"]
                .iter()
                .scan("a", |last, name| {
                    let line = format!("{name}: &{name} [{}]\n", vec![format!("*{last}"); 9].join(", "));
                    *last = name;
                    Some(line)
                })
                .collect::<String>()
        );
        for text in [
            bomb,
            "[".repeat(10_000),
            "a: 1\na: 2".into(),
            "a: !!python/object:os.system x".into(),
            "a: [1,\n".into(),
            "\0".into(),
        ] {
            let problem = Node::from_yaml(&text).unwrap_err();
            assert!(["yaml_syntax", "too_large"].contains(&problem.code.as_str()), "{problem}");
        }
        assert_eq!(Node::from_yaml(&" ".repeat(limits::RECIPE_BYTES_MAX + 1)).unwrap_err().code, "too_large");
        assert_eq!(Node::from_yaml("a: 1\n---\nb: 2\n").unwrap_err().code, SEVERAL);
    }

    #[test]
    fn long_keys_and_large_objects_are_refused() {
        let long = Node::from_yaml(&format!("{}: 1", "k".repeat(300))).unwrap();
        assert_eq!(long.within_limits().unwrap_err().code, "too_large");
        let many = serde_json::Value::Array(vec![serde_json::Value::Null; limits::NODES_MAX + 1]);
        assert_eq!(Node::from_json(&many).within_limits().unwrap_err().code, "too_large");
        let texts = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(20));
        assert_eq!(Node::from_yaml(&texts).unwrap().within_limits().unwrap_err().code, "too_large");
        assert_eq!(Node::from_yaml("a: {b: [1, 2]}").unwrap().within_limits(), Ok(()));
    }

    #[test]
    fn a_duplicate_key_is_reported_where_it_stands() {
        let problem = Node::from_yaml("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((problem.line, problem.column), (Some(3), Some(1)));
        assert_eq!(problem.detail, "duplicate mapping key: a");
    }
}
