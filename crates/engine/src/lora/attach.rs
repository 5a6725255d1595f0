//! An adapter laid over its model: which tensors it changes, and how.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use adapter::{Adapter, AdapterError, Module, ModuleKind};
use checkpoint::{Access, Checkpoint, TensorPlace, is_mergeable};
use serde_json::{Value, json};

use super::delta::{Delta, Factor, Factors};
use crate::ExecuteError;
use crate::architecture::FAMILIES;
use crate::layers;

/// Attributes of model classes that checkpoints of the bare model leave out.
const OUTER_NAMES: &[&str] = &["transformer.", "model."];

/// A tensor by where it begins: no two that have elements begin alike.
type Start = (usize, u64);

/// What an adapter makes of its model's tensors.
#[derive(Debug)]
pub(crate) struct Applied {
    deltas: BTreeMap<Start, Delta>,
    /// Factors of the tensors in work, last used last.
    held: Mutex<VecDeque<(Start, Arc<Factors>)>>,
    /// The adapter's file among its model's.
    pub file: usize,
    /// SHA-256 of its config.
    pub config_digest: String,
    /// The model that the adapter says it was trained on.
    pub trained_on: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error("{0}")]
    DoesNotFit(String),
}

/// Opens the adapter in `dir` and lays it over the model: tensors saved whole replace the model's, in `checkpoint`.
pub(crate) fn open(dir: &Path, access: &Access, checkpoint: &mut Checkpoint) -> Result<Applied, AttachError> {
    let (Adapter { config, modules, saved }, own) = Adapter::open(dir, access)?;
    let config_digest = checkpoint::digest_bytes(own.config.to_string().as_bytes());
    let file = checkpoint.adopt(own);
    for (name, place) in saved {
        replace(checkpoint, &name, moved(&place, file))?;
    }
    let mut deltas = BTreeMap::new();
    for (name, module) in &modules {
        let target = target(checkpoint, name, "weight")?;
        let delta = weight_delta(name, module, target, file, config.fan_in_fan_out)?;
        add(&mut deltas, name, target, delta)?;
        if let Some(bias) = &module.bias {
            let target = self::target(checkpoint, name, "bias")?;
            add(&mut deltas, name, target, bias_delta(name, module, bias, target, file)?)?;
        }
    }
    let held = Mutex::default();
    Ok(Applied { deltas, held, file, config_digest, trained_on: config.base_model })
}

impl Applied {
    pub fn concerns(&self, place: &TensorPlace) -> bool {
        self.deltas.contains_key(&start(place))
    }

    /// What is added to a tensor, with its factors in memory.
    fn of(&self, checkpoint: &Checkpoint, place: &TensorPlace) -> Result<Option<(&Delta, Arc<Factors>)>, ExecuteError> {
        let Some(delta) = self.deltas.get(&start(place)) else { return Ok(None) };
        Ok(Some((delta, self.factors(delta, checkpoint, place)?)))
    }

    /// Fills `buffer` with f32 values of an adapted tensor, from element `at` on; gives whether it is one.
    pub fn read(
        &self,
        checkpoint: &Checkpoint,
        place: &TensorPlace,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<bool, ExecuteError> {
        let Some((delta, factors)) = self.of(checkpoint, place)? else { return Ok(false) };
        delta.read(checkpoint, place, &factors, at, buffer)?;
        Ok(true)
    }

    /// The same as values.
    pub fn read_values(
        &self,
        checkpoint: &Checkpoint,
        place: &TensorPlace,
        at: u64,
        values: &mut [f32],
    ) -> Result<bool, ExecuteError> {
        let Some((delta, factors)) = self.of(checkpoint, place)? else { return Ok(false) };
        delta.read_values(checkpoint, place, &factors, at, values)?;
        Ok(true)
    }

    /// Bytes of factors that may be held at once: of as many tensors as there are threads.
    pub fn factor_bytes(&self, threads: usize) -> u64 {
        let mut bytes: Vec<u64> = self.deltas.values().map(Delta::factor_bytes).collect();
        bytes.sort_unstable_by(|a, b| b.cmp(a));
        bytes.iter().take(threads).sum()
    }

    /// What of it decides the output's bytes, beside its file.
    pub fn identity(&self) -> Value {
        json!(self.config_digest)
    }

    /// One thread reads at a time: factors are small, and what is read is held for the next tiles.
    fn factors(
        &self,
        delta: &Delta,
        checkpoint: &Checkpoint,
        place: &TensorPlace,
    ) -> Result<Arc<Factors>, ExecuteError> {
        let key = start(place);
        let mut held = self.held.lock().expect("no code panics while it holds the factors");
        let found = held.iter().position(|(other, _)| *other == key).and_then(|at| held.remove(at));
        let factors = match found {
            Some((_, factors)) => factors,
            None => Arc::new(delta.load(checkpoint, place)?),
        };
        held.push_back((key, factors.clone()));
        while held.len() > rayon::current_num_threads() {
            held.pop_front();
        }
        Ok(factors)
    }
}

/// Two names of the adapter may lead to one tensor, of which only one can be meant.
fn add(
    deltas: &mut BTreeMap<Start, Delta>,
    module: &str,
    target: &TensorPlace,
    delta: Delta,
) -> Result<(), AttachError> {
    match deltas.insert(start(target), delta) {
        None => Ok(()),
        Some(_) => Err(AttachError::DoesNotFit(format!("it adapts the tensor of module {module:?} twice"))),
    }
}

fn start(place: &TensorPlace) -> Start {
    (place.file, place.info.start)
}

/// A place of the adapter's only file, among the model's files.
fn moved(place: &TensorPlace, file: usize) -> TensorPlace {
    TensorPlace { file, info: place.info.clone() }
}

/// The name under which the model has a tensor: its checkpoint may leave out what its class puts around it, or be written by
/// names that the class has no more.
fn name_of<'a>(checkpoint: &'a Checkpoint, wanted: &str) -> Option<&'a String> {
    let shorter = OUTER_NAMES.iter().filter_map(|outer| wanted.strip_prefix(outer));
    let known = |name: &str| checkpoint.tensors.get_key_value(name).map(|(name, _)| name);
    let renamed = || FAMILIES.on_disk(wanted).find_map(|name| known(&name));
    std::iter::once(wanted).chain(shorter).find_map(known).or_else(renamed)
}

fn target<'a>(checkpoint: &'a Checkpoint, module: &str, what: &str) -> Result<&'a TensorPlace, AttachError> {
    let wanted = format!("{module}.{what}");
    match name_of(checkpoint, &wanted) {
        Some(name) => Ok(&checkpoint.tensors[name]),
        None => Err(AttachError::DoesNotFit(format!(
            "it adapts module {module:?}, and the model has no tensor {wanted:?}; the adapter belongs to another model, or to its class under other names than those of the file: save the model with the library that trained the adapter"
        ))),
    }
}

/// A head that was tied to an embedding stays as it was when an adapter has trained a copy of the embedding: PEFT puts the
/// copy in the embedding's place alone.
fn keep_head(checkpoint: &mut Checkpoint, embedding: &str, before: Option<TensorPlace>) {
    let has_head = checkpoint.tensors.keys().any(|name| layers::is_head(name));
    let model_type = checkpoint.config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(head) =
        FAMILIES.head_of(model_type, embedding).filter(|_| !has_head && !layers::is_untied(&checkpoint.config))
    else {
        return;
    };
    checkpoint.tensors.extend(before.map(|place| (head.to_owned(), place)));
    untie(&mut checkpoint.config);
    layers::share_out(checkpoint);
}

fn untie(config: &mut Value) {
    for flag in layers::TIE_FLAGS {
        if let Some(value) = config.pointer_mut(flag) {
            *value = json!(false);
        }
    }
    config["tie_word_embeddings"] = json!(false);
}

/// The model's tensor becomes the one that the adapter has saved.
fn replace(checkpoint: &mut Checkpoint, name: &str, place: TensorPlace) -> Result<(), AttachError> {
    if let Some(own) = name_of(checkpoint, name).cloned() {
        let shape = &checkpoint.tensors[&own].info.shape;
        if *shape != place.info.shape {
            return Err(AttachError::DoesNotFit(format!(
                "it replaces tensor {name:?} by one of the shape {:?}, and the model's has {shape:?}; resize the model first (transformers: resize_token_embeddings) and save it",
                place.info.shape
            )));
        }
        let before = checkpoint.tensors.insert(own.clone(), place);
        keep_head(checkpoint, &own, before);
        return Ok(());
    }
    let tied = !layers::is_untied(&checkpoint.config);
    if FAMILIES.tied_to(name).is_some() && tied {
        // a head of its own ends the tie
        untie(&mut checkpoint.config);
        layers::share_out(checkpoint);
        checkpoint.tensors.insert(name.to_owned(), place);
        return Ok(());
    }
    Err(AttachError::DoesNotFit(format!(
        "it replaces tensor {name:?}, which the model does not have; the adapter belongs to another model, or to its class under other names than those of the file: save the model with the library that trained the adapter"
    )))
}

fn weight_delta(
    name: &str,
    module: &Module,
    target: &TensorPlace,
    file: usize,
    fan_in_fan_out: bool,
) -> Result<Delta, AttachError> {
    let (a, b) = (moved(&module.factors.a, file), moved(&module.factors.b, file));
    let (height, width) = (module.factors.height(), module.factors.width());
    let shape = target.info.shape.as_slice();
    let turned = match module.kind {
        ModuleKind::Embedding => true,
        // a layer that is square is what the config says; others show which they are
        ModuleKind::Linear => fan_in_fan_out && shape == [width, height],
    };
    let (rows, columns) = if turned { (width, height) } else { (height, width) };
    if shape != [rows, columns] {
        let hint = if shape == [width, height] {
            "; for weights that lie as [in, out] the adapter's config must say `\"fan_in_fan_out\": true`"
        } else {
            ""
        };
        return Err(AttachError::DoesNotFit(format!(
            "module {name:?} is adapted as [{rows}, {columns}], and the model's weight has the shape {shape:?}{hint}"
        )));
    }
    mergeable(name, target)?;
    if turned && module.magnitude.is_some() {
        return Err(AttachError::DoesNotFit(format!(
            "module {name:?} is a DoRA of a weight that lies as [in, out], which is not supported"
        )));
    }
    let (left, right) = if turned {
        (Factor::Transposed(a), Factor::Transposed(b))
    } else {
        (Factor::AsStored(b), Factor::AsStored(a))
    };
    Ok(Delta {
        rows: rows as usize,
        columns: columns as usize,
        rank: module.rank as usize,
        scale: module.scale as f32,
        left,
        right,
        magnitude: module.magnitude.as_ref().map(|m| moved(m, file)),
    })
}

fn bias_delta(
    name: &str,
    module: &Module,
    bias: &TensorPlace,
    target: &TensorPlace,
    file: usize,
) -> Result<Delta, AttachError> {
    mergeable(name, target)?;
    if target.info.elements() != bias.info.elements() {
        let shape = &target.info.shape;
        return Err(AttachError::DoesNotFit(format!(
            "module {name:?} has a bias of the shape {shape:?} in the model, and another in the adapter"
        )));
    }
    Ok(Delta {
        rows: bias.info.elements() as usize,
        columns: 1,
        rank: 1,
        scale: module.scale as f32,
        left: Factor::AsStored(moved(bias, file)),
        right: Factor::One,
        magnitude: None,
    })
}

fn mergeable(name: &str, target: &TensorPlace) -> Result<(), AttachError> {
    match target.info.dtype {
        dtype if is_mergeable(dtype) => Ok(()),
        dtype => Err(AttachError::DoesNotFit(format!(
            "module {name:?} has unsupported dtype {dtype:?} in the model; adapters are applied to BF16, F16 and F32"
        ))),
    }
}
