//! Parameters of any level: scalars, gradients and conditions.

use super::Decoder;
use crate::node::{Kind, Node};
use crate::problem::escape;
use crate::{Condition, Parameters, Scalar, Setting, Value, limits};

impl Decoder {
    pub(super) fn parameters(&mut self, node: &Node, pointer: &str) -> Option<Parameters> {
        let Kind::Map(entries) = &node.kind else {
            self.wrong_type(pointer, node, "a map of parameters");
            return None;
        };
        let mut parameters = Parameters::new();
        for (key, value) in entries.iter().filter(|(_, value)| value.kind != Kind::Null) {
            let at = format!("{pointer}/{}", escape(&key.name));
            self.positions.insert_key(at.clone(), key.at);
            if key.name == "dare" && matches!(value.kind, Kind::Map(_)) {
                // `dare: {drop_rate: 0.9}` as guides write it
                parameters.extend(self.parameters(value, &at).unwrap_or_default());
                continue;
            }
            if let Some(Some(setting)) = self.setting(value, &at) {
                parameters.insert(key.name.clone(), setting);
            }
        }
        Some(parameters)
    }

    /// `Some(None)` is an empty list: not set.
    fn setting(&mut self, node: &Node, pointer: &str) -> Option<Option<Setting>> {
        match &node.kind {
            Kind::List(items) if items.is_empty() => Some(None),
            Kind::List(items) if items.iter().any(|i| matches!(i.kind, Kind::Map(_))) => {
                self.conditions += items.len();
                if items.len() > limits::CONDITIONS_MAX || self.conditions > limits::CONDITIONS_TOTAL_MAX {
                    let detail = format!(
                        "more than {} conditions in one setting, or {} in the recipe",
                        limits::CONDITIONS_MAX,
                        limits::CONDITIONS_TOTAL_MAX
                    );
                    self.error(pointer, "too_many", detail);
                    return None;
                }
                let conditions: Vec<_> =
                    items.iter().enumerate().map(|(i, item)| self.condition(item, &format!("{pointer}/{i}"))).collect();
                Some(Some(Setting::Conditional(conditions.into_iter().collect::<Option<_>>()?)))
            }
            Kind::Map(_) => Some(Some(Setting::Conditional(vec![self.condition(node, pointer)?]))),
            _ => Some(Some(Setting::Plain(self.value(node, pointer)?))),
        }
    }

    fn condition(&mut self, node: &Node, pointer: &str) -> Option<Condition> {
        let object = self.object(
            node,
            pointer,
            &["filter", "value"],
            "`{filter: NAME, value: NUMBER}`: a list holds either conditions or numbers",
        )?;
        let filter = self.optional(&object, "filter", Decoder::text);
        let Some((value, at)) = object.get("value") else {
            self.error(pointer, "missing", "`value` is missing in this condition");
            return None;
        };
        Some(Condition { filter, value: self.value(value, &at)? })
    }

    fn value(&mut self, node: &Node, pointer: &str) -> Option<Value> {
        match &node.kind {
            Kind::List(items) => {
                let points: Vec<_> =
                    items.iter().enumerate().map(|(i, item)| self.scalar(item, &format!("{pointer}/{i}"))).collect();
                Some(Value::Gradient(points.into_iter().collect::<Option<_>>()?))
            }
            _ => self.scalar(node, pointer).map(Value::Scalar),
        }
    }

    fn scalar(&mut self, node: &Node, pointer: &str) -> Option<Scalar> {
        match &node.kind {
            Kind::Bool(b) => Some(Scalar::Bool(*b)),
            Kind::Number(n) if n.is_finite() => Some(Scalar::Number(*n)),
            Kind::Text(s) => Some(Scalar::Text(s.clone())),
            _ => {
                self.wrong_type(
                    pointer,
                    node,
                    "a number, a boolean, a list of numbers, or a list of `{filter, value}`",
                );
                None
            }
        }
    }
}
