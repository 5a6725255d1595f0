//! The models of a recipe, opened: every header read, no tensor data.

use checkpoint::{Access, Checkpoint, CheckpointError};
use recipe::{ModelRef, Recipe, Refusal};

use crate::architecture::{Architecture, spell_alike};

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
    pub(crate) architecture: Architecture,
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
        if !problems.is_empty() {
            return Err(Refusal { problems, warnings: Vec::new() });
        }
        let donor = recipe.base_model.as_ref().and_then(|base| list.iter().position(|s: &Source| s.model == *base));
        spell_as(&mut list, donor.unwrap_or(0));
        Ok(Sources { list, access: access.clone() })
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

/// Spells the tensors of every source as the donor's are.
fn spell_as(list: &mut [Source], donor: usize) {
    let Some((before, rest)) = list.split_at_mut_checked(donor) else { return };
    let Some((donor, after)) = rest.split_first_mut() else { return };
    for source in before.iter_mut().chain(after) {
        spell_alike(&mut source.checkpoint, &donor.checkpoint);
        source.architecture = architecture(&source.model, &source.checkpoint);
    }
}

fn architecture(model: &ModelRef, checkpoint: &Checkpoint) -> Architecture {
    Architecture::of(checkpoint, model.override_architecture.as_deref())
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
    let architecture = architecture(model, &checkpoint);
    Ok(Source { model: model.clone(), checkpoint, architecture })
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
