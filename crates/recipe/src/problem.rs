//! What is wrong with a recipe, and where.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::limits;

/// One finding: an error when it stands in a [`Refusal`], else a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// JSON pointer into the recipe, `""` for the whole.
    pub pointer: String,
    /// Line in the text, from 1; absent when the recipe came as a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Stable word for programs: `unknown_key`, `missing`, `shape_mismatch`, ...
    pub code: String,
    /// What was found and what to write instead.
    pub detail: String,
}

impl Problem {
    /// A finding about the whole text, without a place in it.
    pub(crate) fn of_whole(code: &str, detail: impl Into<String>) -> Problem {
        Problem { pointer: String::new(), line: None, column: None, code: code.into(), detail: detail.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.detail)
    }
}

/// A recipe that cannot be merged: every error found, and the warnings found beside them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal { problems: vec![problem], warnings: Vec::new() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Pointer to (line, column), for findings made long after the text was parsed. What came as JSON is known and has no place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Positions {
    values: HashMap<String, Option<(u32, u32)>>,
    /// Of names that may be wrong themselves.
    keys: HashMap<String, (u32, u32)>,
}

impl Positions {
    pub(crate) fn insert(&mut self, pointer: String, at: Option<(u32, u32)>) {
        self.values.insert(pointer, at);
    }

    pub(crate) fn insert_key(&mut self, pointer: String, at: Option<(u32, u32)>) {
        self.keys.extend(at.map(|at| (pointer, at)));
    }

    /// A problem at `pointer`, placed at that value or at the nearest parent that the recipe has.
    pub fn problem(&self, pointer: &str, code: &str, detail: impl Into<String>) -> Problem {
        Positions::at(self.nearest_parent(pointer), pointer, code, detail)
    }

    /// The same of the name at `pointer`, which need not stand on the line of its value.
    pub fn problem_of_name(&self, pointer: &str, code: &str, detail: impl Into<String>) -> Problem {
        let place = self.keys.get(pointer).copied().or_else(|| self.nearest_parent(pointer));
        Positions::at(place, pointer, code, detail)
    }

    fn at(place: Option<(u32, u32)>, pointer: &str, code: &str, detail: impl Into<String>) -> Problem {
        Problem {
            pointer: pointer.to_owned(),
            line: place.map(|p| p.0),
            column: place.map(|p| p.1),
            code: code.to_owned(),
            detail: detail.into(),
        }
    }

    /// Whether the recipe has a value there.
    pub(crate) fn contains(&self, pointer: &str) -> bool {
        self.values.contains_key(pointer)
    }

    fn nearest_parent(&self, pointer: &str) -> Option<(u32, u32)> {
        let mut at = pointer;
        loop {
            if let Some(place) = self.values.get(at) {
                return *place;
            }
            at = &at[..at.rfind('/')?];
        }
    }
}

/// The known name most like `name`, when it is like enough to be what was meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > limits::KEY_BYTES_MAX {
        return None;
    }
    let allowed = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// One key of a JSON pointer, escaped as RFC 6901 asks.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_name_meant() {
        let known = ["weight", "density", "normalize", "t"];
        assert_eq!(nearest("wieght", known), Some("weight"));
        assert_eq!(nearest("normalise", known), Some("normalize"));
        assert_eq!(nearest("Weight", known), Some("weight"));
        assert_eq!(nearest("temperature", known), None);
    }

    #[test]
    fn a_problem_is_placed_at_the_nearest_parent() {
        let mut positions = Positions::default();
        positions.insert(String::new(), Some((1, 1)));
        positions.insert("/models/0".into(), Some((3, 5)));
        let problem = positions.problem("/models/0/parameters/weight", "missing", "no weight");
        assert_eq!((problem.line, problem.column), (Some(3), Some(5)));
        assert_eq!(problem.to_string(), "line 3, column 5: /models/0/parameters/weight: no weight");
    }
}
