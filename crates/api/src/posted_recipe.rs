//! The recipe of a request, with what came beside it and belongs into it.

use jobs::RecipeFormat;
use recipe::{Draft, Refusal, Variant};
use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PostedRecipe {
    pub(crate) posted: Posted,
    pub(crate) options: Map<String, Value>,
    pub(crate) variants: Option<Value>,
    pub(crate) grid: Option<Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Posted {
    Yaml(String),
    Json(Value),
}

impl PostedRecipe {
    /// The merges that are asked for; one without a name where there are no variants.
    pub(crate) fn variants(&self) -> Result<Vec<Variant>, Refusal> {
        let mut draft = match &self.posted {
            Posted::Yaml(text) => Draft::from_yaml(text)?,
            Posted::Json(value) => Draft::from_json(value)?,
        };
        draft.set_options(&self.options)?;
        for (key, value) in [("variants", &self.variants), ("grid", &self.grid)] {
            if let Some(value) = value {
                draft.set_variants(key, value)?;
            }
        }
        draft.variants()
    }

    pub(crate) fn format(&self) -> RecipeFormat {
        match self.posted {
            Posted::Yaml(_) => RecipeFormat::Yaml,
            Posted::Json(_) => RecipeFormat::Json,
        }
    }
}
