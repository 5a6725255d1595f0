//! The models of a recipe, opened: every header read, no tensor data.

use checkpoint::{Access, Checkpoint, CheckpointError};
use recipe::{ModelRef, Recipe, Refusal};

use crate::layers::Stacks;

/// Every model of a recipe, each once, in the recipe's order.
#[derive(Debug)]
pub struct Sources {
    pub(crate) list: Vec<Source>,
    pub(crate) access: Access,
}

#[derive(Debug)]
pub struct Source {
    pub model: ModelRef,
    pub checkpoint: Checkpoint,
    pub(crate) stacks: Stacks,
}

impl Sources {
    /// Opens all models, reporting every one that cannot be.
    pub fn open(recipe: &Recipe, access: &Access) -> Result<Sources, Refusal> {
        Sources::open_but(&[], recipe, access)
    }

    /// [`Sources::open`] without some, for what can be said of a recipe that names models of elsewhere.
    pub fn open_but(elsewhere: &[&ModelRef], recipe: &Recipe, access: &Access) -> Result<Sources, Refusal> {
        let mut list = Vec::new();
        let mut problems = Vec::new();
        for (pointer, model) in recipe.models().into_iter().filter(|(_, model)| !elsewhere.contains(model)) {
            match open(model, access) {
                Ok(source) => list.push(source),
                Err((code, detail)) => problems.push(recipe.positions.problem(&pointer, code, detail)),
            }
        }
        if problems.is_empty() {
            Ok(Sources { list, access: access.clone() })
        } else {
            Err(Refusal { problems, warnings: Vec::new() })
        }
    }

    /// Models that are not on this machine but could be on the Hub; what they hold is not known here.
    pub fn elsewhere<'a>(recipe: &'a Recipe, access: &Access) -> Vec<&'a ModelRef> {
        let models = recipe.models().into_iter().map(|(_, model)| model);
        models.filter(|m| m.is_hub_like() && access.resolve_dir(&m.path).is_err()).collect()
    }

    pub(crate) fn index_of(&self, model: &ModelRef) -> usize {
        self.list.iter().position(|s| s.model == *model).expect("every model of the recipe was opened")
    }

    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.list.iter()
    }
}

type Reason = (&'static str, String);

fn open(model: &ModelRef, access: &Access) -> Result<Source, Reason> {
    if model.lora.is_some() {
        return Err((
            "not_yet",
            format!("model {:?} names a LoRA adapter; adapters are not supported yet", model.to_string()),
        ));
    }
    let dir = access.resolve_dir(&model.path).map_err(|error| not_here(model, &error))?;
    if let Some(revision) = &model.revision {
        return Err((
            "invalid_value",
            format!(
                "model {:?} is a directory here, which has no revision {revision:?}; write the path alone",
                model.path
            ),
        ));
    }
    let checkpoint = Checkpoint::open(&dir, access)
        .map_err(|error| ("invalid_checkpoint", format!("model {:?}: {error}", model.path)))?;
    let stacks = Stacks::of(&checkpoint);
    Ok(Source { model: model.clone(), checkpoint, stacks })
}

fn not_here(model: &ModelRef, error: &CheckpointError) -> Reason {
    if model.is_hub_like() {
        let detail = format!(
            "model {:?}: {error}, and fetching from the Hub is not supported yet; download it and put it at {} below a source root",
            model.to_string(),
            model.path
        );
        return ("model_not_found", detail);
    }
    ("model_not_found", format!("model {:?}: {error}", model.path))
}
