//! The merges that are measured: each method with as many models as one would give it.

use std::path::PathBuf;

use serde_json::{Value, json};

/// How a method takes its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// So many models, no base.
    Models(usize),
    /// The base, and so many fine-tunes.
    Base(usize),
}

pub struct Measured {
    pub name: &'static str,
    takes: Takes,
    of_model: &'static [(&'static str, f64)],
    of_all: &'static [(&'static str, f64)],
    /// The ratio to the floor that is aimed at.
    pub target: f64,
}

const ELEMENTWISE: f64 = 1.25;
const SELECTION: f64 = 1.6;
const WEIGHT: &[(&str, f64)] = &[("weight", 0.4)];
const TRIMMED: &[(&str, f64)] = &[("weight", 0.4), ("density", 0.5)];

pub const METHODS: &[Measured] = &[
    of("passthrough", Takes::Models(1), &[], &[], ELEMENTWISE),
    of("linear", Takes::Models(2), WEIGHT, &[], ELEMENTWISE),
    of("slerp", Takes::Base(1), &[], &[("t", 0.4)], ELEMENTWISE),
    of("nuslerp", Takes::Models(2), WEIGHT, &[], ELEMENTWISE),
    of("task_arithmetic", Takes::Base(3), WEIGHT, &[], ELEMENTWISE),
    of("model_stock", Takes::Base(3), &[], &[], ELEMENTWISE),
    of("karcher", Takes::Models(3), &[], &[], ELEMENTWISE),
    of("dare_linear", Takes::Base(3), TRIMMED, &[], ELEMENTWISE),
    of("ties", Takes::Base(3), TRIMMED, &[], SELECTION),
    of("dare_ties", Takes::Base(3), TRIMMED, &[], SELECTION),
    of("breadcrumbs", Takes::Base(3), TRIMMED, &[], SELECTION),
    of("della", Takes::Base(3), TRIMMED, &[], SELECTION),
    of("sce", Takes::Base(3), &[], &[("select_topk", 0.5)], SELECTION),
    of("ram", Takes::Base(3), &[], &[], SELECTION),
    of("arcee_fusion", Takes::Base(1), &[], &[], SELECTION),
];

const fn of(
    name: &'static str,
    takes: Takes,
    of_model: &'static [(&'static str, f64)],
    of_all: &'static [(&'static str, f64)],
    target: f64,
) -> Measured {
    Measured { name, takes, of_model, of_all, target }
}

impl Measured {
    /// Models that it reads, the base counted.
    pub fn models(&self) -> usize {
        match self.takes {
            Takes::Models(models) => models,
            Takes::Base(models) => models + 1,
        }
    }

    /// A recipe on the first of these models.
    pub fn recipe(&self, models: &[PathBuf]) -> Value {
        let parameters =
            |list: &[(&str, f64)]| -> Value { list.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect() };
        let first = usize::from(matches!(self.takes, Takes::Base(_)));
        let entry = |model: &PathBuf| json!({"model": model, "parameters": parameters(self.of_model)});
        let list: Vec<Value> = models[first..self.models()].iter().map(entry).collect();
        let mut recipe = json!({"merge_method": self.name, "models": list, "parameters": parameters(self.of_all)});
        if first == 1 {
            recipe["base_model"] = json!(models[0]);
        }
        recipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_one_that_the_engine_accepts() {
        let models: Vec<PathBuf> = (0..4).map(|i| PathBuf::from(format!("/models/m{i}"))).collect();
        for method in METHODS {
            let text = method.recipe(&models).to_string();
            let recipe = recipe::Recipe::parse(&text, false).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
            engine::check(&recipe).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        }
    }
}
