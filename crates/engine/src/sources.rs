//! The models of a recipe, opened: every header read, no tensor data.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use adapter::Adapter;
use checkpoint::{Access, Checkpoint, CheckpointError, TensorPlace};
use recipe::{Content, ModelRef, Recipe, Refusal};

use crate::architecture::{Architecture, spell_alike};
use crate::layers;
use crate::lora::{self, Applied};

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
    /// Where the model is what an earlier stage makes.
    pub(crate) stage: Option<StageSource>,
    /// What an adapter makes of the checkpoint's tensors; its file is among the checkpoint's.
    pub(crate) applied: Option<Applied>,
    /// Where the source is an adapter itself, and its checkpoint the adapter's only file.
    pub(crate) adapter: Option<Adapter>,
}

/// What is known of the stage that a source is made by.
#[derive(Debug, Clone)]
pub(crate) struct StageSource {
    /// Stands for the bytes that the stage will write.
    pub plan_digest: String,
    /// Models that it is made of, through all stages before it.
    pub made_of: Vec<String>,
}

impl Source {
    /// Whether an adapter changes the tensor while it is read.
    pub(crate) fn adapts(&self, place: &TensorPlace) -> bool {
        self.applied.as_ref().is_some_and(|applied| applied.concerns(place))
    }

    /// An adapter that says it was trained on another model, by the names of both.
    pub(crate) fn other_base(&self) -> Option<String> {
        let trained_on = self.applied.as_ref()?.trained_on.as_deref()?;
        let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
        (last(trained_on) != last(&self.model.path)).then(|| trained_on.to_owned())
    }
}

impl Sources {
    /// Opens all models, reporting every one that cannot be.
    pub fn open(recipe: &Recipe, access: &Access) -> Result<Sources, Refusal> {
        Sources::open_but(&[], recipe, access)
    }

    /// [`Sources::open`] without some, for what can be said of a recipe that names models of elsewhere.
    pub fn open_but(elsewhere: &[&ModelRef], recipe: &Recipe, access: &Access) -> Result<Sources, Refusal> {
        let open = if Sources::are_adapters(recipe, access) { open_as_adapter } else { open };
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
        Ok(Sources { list, access: access.clone() }.spelled_alike(recipe))
    }

    /// Whether all that a recipe merges are adapters and none a model.
    pub(crate) fn are_adapters(recipe: &Recipe, access: &Access) -> bool {
        let Content::Models(models) = &recipe.content else { return false };
        models.iter().all(|input| is_adapter(&input.model, access))
    }

    /// A model that is an adapter, with where the recipe names it.
    pub(crate) fn first_adapter<'a>(recipe: &'a Recipe, access: &Access) -> Option<(String, &'a ModelRef)> {
        recipe.models().into_iter().find(|(_, model)| is_adapter(model, access))
    }

    /// Models that are not on this machine but could be on the Hub; what they hold is not known here.
    pub fn elsewhere<'a>(recipe: &'a Recipe, access: &Access) -> Vec<&'a ModelRef> {
        let is_elsewhere = |m: &ModelRef| m.is_hub_like() && access.resolve_dir(&m.path).is_err();
        let models = recipe.models().into_iter().map(|(_, model)| model);
        models.filter(|m| is_elsewhere(m) || m.lora.as_deref().is_some_and(is_elsewhere)).collect()
    }

    pub(crate) fn index_of(&self, model: &ModelRef) -> usize {
        self.list.iter().position(|s| s.model == *model).expect("every model of the recipe was opened")
    }

    /// Adds the models that earlier stages make, each at its place in the recipe.
    pub(crate) fn with_stages(mut self, recipe: &Recipe, stages: Vec<Source>) -> Sources {
        let models: Vec<&ModelRef> = recipe.models().into_iter().map(|(_, model)| model).collect();
        self.list.extend(stages);
        // what is no model of the recipe keeps its place after them
        self.list.sort_by_key(|source| models.iter().position(|m| **m == source.model).unwrap_or(models.len()));
        self.spelled_alike(recipe)
    }

    /// The tensors of every source spelled as the donor's are.
    fn spelled_alike(mut self, recipe: &Recipe) -> Sources {
        let base = recipe.base_model.as_ref();
        let donor = base.and_then(|base| self.list.iter().position(|s| s.model == *base)).unwrap_or(0);
        let Some((before, rest)) = self.list.split_at_mut_checked(donor) else { return self };
        let Some((donor, after)) = rest.split_first_mut() else { return self };
        for source in before.iter_mut().chain(after) {
            if spell_alike(&mut source.checkpoint, &donor.checkpoint) {
                source.architecture = architecture(&source.model, &source.checkpoint);
            }
        }
        self.share_out_where_a_tie_ends();
        self
    }

    /// Where some models have a head and others tie theirs, the output has one, and ties nothing.
    fn share_out_where_a_tie_ends(&mut self) {
        let has_head = |s: &Source| s.checkpoint.tensors.keys().any(|name| layers::is_head(name));
        let (with, tied) =
            (self.list.iter().any(has_head), self.list.iter().any(|s| !layers::is_untied(&s.checkpoint.config)));
        if with && tied && !self.list.iter().all(has_head) {
            self.list.iter_mut().for_each(|source| layers::share_out(&mut source.checkpoint));
        }
    }

    /// Makes the model of an earlier stage readable, once it has been written to `dir`.
    pub(crate) fn open_stage(&mut self, model: &ModelRef, dir: &Path) -> Result<(), CheckpointError> {
        let mut of_model = self.list.iter_mut().filter(|source| source.model == *model);
        of_model.try_for_each(|source| source.checkpoint.open_written(dir))
    }

    /// Models that no stage makes: those of the recipe, and those that its stages are made of.
    pub(crate) fn made_of(&self) -> Vec<String> {
        let mut names = Vec::new();
        for source in &self.list {
            let of = source.stage.as_ref().map_or_else(|| vec![source.model.to_string()], |s| s.made_of.clone());
            names.extend(of);
        }
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.list.iter()
    }
}

pub(crate) fn architecture(model: &ModelRef, checkpoint: &Checkpoint) -> Architecture {
    Architecture::of(checkpoint, model.override_architecture.as_deref())
}

fn is_adapter(model: &ModelRef, access: &Access) -> bool {
    model.lora.is_none() && access.resolve_dir(&model.path).is_ok_and(|dir| adapter::is_adapter(&dir))
}

type Reason = (&'static str, String);

fn open(model: &ModelRef, access: &Access) -> Result<Source, Reason> {
    let dir = directory(model, access)?;
    if adapter::is_adapter(&dir) {
        let path = &model.path;
        let detail = format!(
            "model {path:?} is a LoRA adapter; write `model: MODEL+{path}` to merge a model with it, or merge adapters with adapters alone"
        );
        return Err(("invalid_checkpoint", detail));
    }
    let mut checkpoint = Checkpoint::open(&dir, access)
        .map_err(|error| ("invalid_checkpoint", format!("model {:?}: {error}", model.path)))?;
    let applied = model.lora.as_deref().map(|lora| open_adapter(lora, access, &mut checkpoint)).transpose()?;
    let architecture = architecture(model, &checkpoint);
    Ok(Source { model: model.clone(), checkpoint, architecture, stage: None, applied, adapter: None })
}

fn open_as_adapter(model: &ModelRef, access: &Access) -> Result<Source, Reason> {
    let dir = directory(model, access)?;
    let (adapter, checkpoint) = Adapter::open(&dir, access)
        .map_err(|error| ("invalid_checkpoint", format!("adapter {:?}: {error}", model.path)))?;
    let architecture = architecture(model, &checkpoint);
    Ok(Source { model: model.clone(), checkpoint, architecture, stage: None, applied: None, adapter: Some(adapter) })
}

fn open_adapter(lora: &ModelRef, access: &Access, checkpoint: &mut Checkpoint) -> Result<Applied, Reason> {
    let dir = directory(lora, access)?;
    lora::open(&dir, access, checkpoint)
        .map_err(|error| ("invalid_checkpoint", format!("adapter {:?}: {error}", lora.path)))
}

fn directory(model: &ModelRef, access: &Access) -> Result<PathBuf, Reason> {
    let dir = access.resolve_dir(&model.path).map_err(|error| not_here(model, &error))?;
    match &model.revision {
        None => Ok(dir),
        Some(revision) => {
            let path = &model.path;
            let detail =
                format!("model {path:?} is a directory here, which has no revision {revision:?}; write the path alone");
            Err(("invalid_value", detail))
        }
    }
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
