//! `rank_pattern` and `alpha_pattern`: values for modules by the ends of their names.

use serde_json::{Map, Value};

use crate::{AdapterError, limits};

/// Pairs in the order of the config: the first that matches counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pattern(Vec<(String, f64)>);

impl Pattern {
    pub fn parse(key: &str, map: &Map<String, Value>) -> Result<Pattern, AdapterError> {
        if map.len() > limits::PATTERNS_MAX {
            let reason = format!("`{key}` has {} entries; at most {} are read", map.len(), limits::PATTERNS_MAX);
            return Err(AdapterError::Config(reason));
        }
        let pairs: Result<Vec<_>, _> = map.iter().map(|(name, value)| pair(key, name, value)).collect();
        Ok(Pattern(pairs?))
    }

    /// The value for a module: of the first entry that is the module's name or its last parts; `^` marks a whole name.
    pub fn of(&self, module: &str) -> Option<f64> {
        let ends = |name: &str| match name.strip_prefix('^') {
            Some(whole) => module == whole,
            None => module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        };
        self.0.iter().find(|(name, _)| ends(name)).map(|(_, value)| *value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn pair(key: &str, name: &str, value: &Value) -> Result<(String, f64), AdapterError> {
    let plain = name.strip_prefix('^').unwrap_or(name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if plain.is_empty() || !plain.chars().all(is_plain) {
        let reason = format!("`{key}` names {name:?}, a regular expression; write whole names of modules instead");
        return Err(AdapterError::Unsupported(reason));
    }
    match value.as_f64() {
        Some(number) if number.is_finite() => Ok((name.to_owned(), number)),
        _ => Err(AdapterError::Config(format!("`{key}` gives {name:?} the value {value}, which is no number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_entry_that_ends_a_name_counts() {
        let map = json!({"^model.layers.2.q_proj": 1, "layers.1.q_proj": 2, "q_proj": 3});
        let pattern = Pattern::parse("rank_pattern", map.as_object().unwrap()).unwrap();
        assert_eq!(pattern.of("model.layers.1.q_proj"), Some(2.0));
        assert_eq!(pattern.of("model.layers.11.q_proj"), Some(3.0));
        assert_eq!(pattern.of("q_proj"), Some(3.0));
        assert_eq!(pattern.of("model.layers.2.q_proj"), Some(1.0));
        assert_eq!(pattern.of("x.model.layers.2.q_proj"), Some(3.0));
        assert_eq!(pattern.of("model.aq_proj"), None);
    }

    #[test]
    fn a_regular_expression_is_refused_by_name() {
        for name in [".*q_proj", "layers.[0-9].q", "", "^"] {
            let error = Pattern::parse("rank_pattern", json!({name: 2}).as_object().unwrap()).unwrap_err();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }
}
