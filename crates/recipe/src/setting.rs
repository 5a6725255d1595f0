//! Parameter settings: scalars, gradients over layers, and conditionals by tensor name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Parameters of one level: name to setting.
pub type Parameters = BTreeMap<String, Setting>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Bool(bool),
    Number(f64),
    Text(String),
}

/// A scalar, or a gradient: numbers spread evenly over the layers of a slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Scalar(Scalar),
    Gradient(Vec<Scalar>),
}

/// `{filter, value}`: applies where `filter` is part of the tensor's name; without one, or with `*`, everywhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    Plain(Value),
    Conditional(Vec<Condition>),
}

impl Scalar {
    /// The number meant: `"1e-3"` in quotes counts, a boolean does not.
    pub fn number(&self) -> Option<f64> {
        match self {
            Scalar::Number(n) => Some(*n),
            Scalar::Text(s) => s.trim().parse().ok().filter(|n: &f64| n.is_finite()),
            Scalar::Bool(_) => None,
        }
    }

    /// The boolean meant: YAML 1.1's `yes` and `off` count, and 0 and 1.
    pub fn boolean(&self) -> Option<bool> {
        match self {
            Scalar::Bool(b) => Some(*b),
            Scalar::Number(n) if *n == 0.0 => Some(false),
            Scalar::Number(n) if *n == 1.0 => Some(true),
            Scalar::Number(_) => None,
            Scalar::Text(s) => match s.trim().to_lowercase().as_str() {
                "true" | "yes" | "on" | "y" | "1" => Some(true),
                "false" | "no" | "off" | "n" | "0" => Some(false),
                _ => None,
            },
        }
    }
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scalar::Bool(b) => write!(f, "{b}"),
            Scalar::Number(n) => write!(f, "{n}"),
            Scalar::Text(s) => write!(f, "{s:?}"),
        }
    }
}

impl Setting {
    /// The value for a tensor called `name` at position `t` in 0..=1 of its slice; `None` when no condition matches.
    pub fn at(&self, name: &str, t: f64) -> Option<Scalar> {
        match self {
            Setting::Plain(value) => value.at(t),
            Setting::Conditional(conditions) => conditions.iter().find(|c| c.matches(name)).and_then(|c| c.value.at(t)),
        }
    }

    /// Every filter written in this setting.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        let conditions = match self {
            Setting::Plain(_) => &[],
            Setting::Conditional(conditions) => conditions.as_slice(),
        };
        conditions.iter().filter_map(|c| c.filter.as_deref())
    }

    /// Every scalar written in this setting, for checks that need no tensor.
    pub fn scalars(&self) -> impl Iterator<Item = &Scalar> {
        let values: Vec<&Value> = match self {
            Setting::Plain(value) => vec![value],
            Setting::Conditional(conditions) => conditions.iter().map(|c| &c.value).collect(),
        };
        values.into_iter().flat_map(|value| match value {
            Value::Scalar(scalar) => std::slice::from_ref(scalar),
            Value::Gradient(points) => points.as_slice(),
        })
    }
}

impl Condition {
    fn matches(&self, name: &str) -> bool {
        match self.filter.as_deref() {
            None | Some("*") => true,
            Some(part) => name.contains(part),
        }
    }
}

impl Value {
    fn at(&self, t: f64) -> Option<Scalar> {
        match self {
            Value::Scalar(scalar) => Some(scalar.clone()),
            Value::Gradient(points) => gradient(points, t),
        }
    }
}

/// Linear between the two points around `t`; a step for what is no number.
fn gradient(points: &[Scalar], t: f64) -> Option<Scalar> {
    let last = points.len().checked_sub(1)?;
    let place = t.clamp(0.0, 1.0) * last as f64;
    let low = (place.floor() as usize).min(last);
    let high = (low + 1).min(last);
    match (points[low].number(), points[high].number()) {
        (Some(a), Some(b)) => {
            let fraction = place - low as f64;
            Some(Scalar::Number((1.0 - fraction) * a + fraction * b))
        }
        _ => Some(points[low].clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64]) -> Setting {
        Setting::Plain(Value::Gradient(values.iter().map(|n| Scalar::Number(*n)).collect()))
    }

    #[test]
    fn a_gradient_is_linear_between_its_points() {
        let setting = numbers(&[1.0, 2.0, 3.0]);
        for (t, expected) in [(0.0, 1.0), (1.0 / 3.0, 5.0 / 3.0), (0.5, 2.0), (1.0, 3.0)] {
            let Some(Scalar::Number(n)) = setting.at("x", t) else { panic!("no number") };
            assert!((n - expected).abs() < 1e-12, "{t}: {n}");
        }
        assert_eq!(numbers(&[0.7]).at("x", 0.4), Some(Scalar::Number(0.7)));
        assert_eq!(numbers(&[]).at("x", 0.4), None);
    }

    #[test]
    fn a_boolean_gradient_is_a_step() {
        let setting = Setting::Plain(Value::Gradient(vec![Scalar::Bool(true), Scalar::Bool(false)]));
        assert_eq!(setting.at("x", 0.9), Some(Scalar::Bool(true)));
        assert_eq!(setting.at("x", 1.0), Some(Scalar::Bool(false)));
    }

    #[test]
    fn the_first_matching_condition_wins_and_none_falls_through() {
        let condition = |filter: Option<&str>, n: f64| Condition {
            filter: filter.map(str::to_owned),
            value: Value::Scalar(Scalar::Number(n)),
        };
        let setting = Setting::Conditional(vec![
            condition(Some("mlp"), 1.0),
            condition(Some("mlp.up"), 2.0),
            condition(Some("*"), 3.0),
        ]);
        assert_eq!(setting.at("layers.0.mlp.up", 0.0), Some(Scalar::Number(1.0)));
        assert_eq!(setting.at("layers.0.attn", 0.0), Some(Scalar::Number(3.0)));
        assert_eq!(Setting::Conditional(vec![condition(Some("mlp"), 1.0)]).at("attn", 0.0), None);
    }

    #[test]
    fn quoted_numbers_and_yaml_1_1_booleans_count() {
        assert_eq!(Scalar::Text("1e-3".into()).number(), Some(0.001));
        assert_eq!(Scalar::Text("nan".into()).number(), None);
        assert_eq!(Scalar::Text("no".into()).boolean(), Some(false));
        assert_eq!(Scalar::Number(2.0).boolean(), None);
    }
}
