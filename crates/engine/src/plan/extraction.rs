//! The plan of an extraction: which modules are decomposed, which tensors are saved whole, and how large they can be.

use std::collections::{HashMap, HashSet};

use checkpoint::{Dtype, ShardLayout, is_floating, is_mergeable, layout_shards};
use recipe::{Content, Refusal};
use serde_json::{Value, json};

use super::drafts::{Draft, drafts};
use super::{Plan, Planner, Product, Settings, TaskInput, TensorTask, Work, digest, dtype_of, promote};
use crate::check::base_of;
use crate::layers;
use crate::lora::peft::WRAPPER;
use crate::lora::spectrum;
use crate::methods::{Resolved, TaskParameters};
use crate::parameters::{self, Place};

/// Model types whose linear layers lie as [in, out].
const TURNED_TYPES: &[&str] = &["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// What model classes call a head that is tied to the embedding.
const TIED_HEAD: &str = "lm_head";

/// What is to be taken from a fine-tuned model and its base.
#[derive(Debug)]
pub(crate) struct Extraction {
    pub items: Vec<Item>,
    /// Weights of linear layers lie as [in, out].
    pub fan_in_fan_out: bool,
    /// Modules that are neither decomposed nor saved.
    pub others: Vec<String>,
}

/// One thing to be made, by its tasks among the plan's.
#[derive(Debug)]
pub(crate) enum Item {
    Decompose(Decompose),
    Whole(Whole),
    /// The bias of a decomposed module.
    Bias(Whole),
}

#[derive(Debug)]
pub(crate) struct Decompose {
    pub module: String,
    /// Tasks of the two factors.
    pub a: usize,
    pub b: usize,
    /// The weight lies as [in, out], or is an embedding: A belongs to its rows.
    pub turned: bool,
    pub rank: usize,
    /// The share of the squared difference that is enough.
    pub energy: Option<f64>,
}

#[derive(Debug)]
pub(crate) struct Whole {
    pub module: String,
    pub task: usize,
}

impl Plan {
    /// Where loaders find the base of an adapter; `None` where it is nowhere by itself.
    pub(crate) fn base_name(&self, base: &crate::Source) -> Option<String> {
        (base.stage.is_none() && base.model.lora.is_none()).then(|| base.model.path.clone())
    }
}

impl Item {
    /// The module, and whether it is decomposed.
    fn of_module(&self) -> (String, bool) {
        match self {
            Item::Decompose(d) => (d.module.clone(), true),
            Item::Whole(w) | Item::Bias(w) => (w.module.clone(), false),
        }
    }
}

/// A tensor of both models, and what the recipe wants of it.
struct Candidate {
    name: String,
    finetuned: TaskInput,
    base: Option<TaskInput>,
    parameters: TaskParameters,
}

impl Planner<'_> {
    pub(super) fn extraction(mut self, text: Value, settings: &Settings) -> Result<Plan, Refusal> {
        let other_form = match &self.recipe.content {
            Content::Models(_) => None,
            Content::Slices(_) => Some("/slices"),
            Content::Modules(_) => Some("/modules"),
        };
        if let Some(pointer) = other_form {
            self.error(pointer, "conflict", "an adapter is extracted from a whole model; write `models`");
        }
        if self.recipe.tokenizer.is_some() {
            self.error(self.recipe.tokenizer_pointer(), "conflict", "an adapter has no vocabulary; remove `tokenizer`");
        }
        self.refuse_if_any()?;
        let drafts = drafts(&mut self);
        self.refuse_if_any()?;
        let mut making = Making { tasks: Vec::new(), items: Vec::new(), others: Vec::new(), peak: 0, tied: false };
        let candidates: Vec<Candidate> = drafts.iter().filter_map(|draft| self.candidate(draft)).collect();
        making.tied = self.is_tied() && !candidates.iter().any(|c| layers::is_head(&c.name));
        for candidate in &candidates {
            self.place(candidate, &mut making, settings);
        }
        self.biases(&candidates, &mut making);
        if making.items.is_empty() {
            self.error("", "no_effect", "nothing is left to extract; see `rank` and `save`");
        }
        self.filters(&making.tasks);
        self.refuse_if_any()?;
        let shards = vec![of_adapter(&making.tasks)];
        let extraction = Extraction { items: making.items, fan_in_fan_out: self.turned(), others: making.others };
        let sources = self.sources;
        let plan = self.finish(making.tasks, shards, json!({}), (None, None), text, settings);
        let plan = Plan { held_bytes: plan.held_bytes + making.peak, product: Product::Extraction(extraction), ..plan };
        Ok(Plan { digest: digest(&plan, sources), ..plan })
    }

    fn is_tied(&self) -> bool {
        let config = &self.sources.list[self.donor()].checkpoint.config;
        config.get("tie_word_embeddings") == Some(&Value::Bool(true))
    }

    fn turned(&self) -> bool {
        let model_type = self.sources.list[self.donor()].checkpoint.config.get("model_type").and_then(Value::as_str);
        model_type.is_some_and(|t| TURNED_TYPES.contains(&t))
    }

    fn candidate(&mut self, draft: &Draft) -> Option<Candidate> {
        let slice = &self.slices[draft.slice].of_sources(&draft.present);
        let at = |wanted: bool| (0..draft.inputs.len()).find(|i| (slice.base == Some(*i)) == wanted);
        // what only the base has is no part of the fine-tuned model
        let finetuned = draft.inputs[at(false)?].clone();
        let base = at(true).map(|i| draft.inputs[i].clone());
        let names: Vec<&str> = draft.inputs.iter().map(|i| i.name.as_str()).collect();
        let place = Place {
            name: &draft.name,
            input_names: &names,
            t: draft.t,
            depth: draft.depth,
            shape: &finetuned.place.info.shape,
            seed: self.seed,
        };
        let base_index = base_of(&self.about, slice);
        let resolved = parameters::resolve(self.recipe, &self.about, &self.names_set, slice, base_index, &place);
        let parameters = resolved.map_err(|problem| self.found(problem)).ok()?;
        Some(Candidate { name: draft.name.clone(), finetuned, base, parameters })
    }

    /// Decides what becomes of a tensor. Biases are looked at when it is known which modules are decomposed.
    fn place(&mut self, candidate: &Candidate, making: &mut Making, settings: &Settings) {
        let name = &candidate.name;
        let dtypes = candidate.dtypes();
        if dtypes.iter().all(|d| !is_floating(*d)) {
            return;
        }
        if let Some(other) = dtypes.iter().find(|d| !is_mergeable(**d)) {
            let detail = format!("tensor {name:?} has unsupported dtype {other:?}; BF16, F16 and F32 are read");
            return self.error("/models", "unsupported_dtype", detail);
        }
        if name.ends_with(".bias") {
            return;
        }
        let Some(module) = name.strip_suffix(".weight") else {
            let detail = format!(
                "tensor {name:?} is no weight or bias of a module, which is all that an adapter can carry; it is left out"
            );
            return self.warn("/models", "left_out", detail);
        };
        if candidate.is_matrix() && candidate.rank() == Some(0) {
            return making.others.push(self.outer_name(module));
        }
        if candidate.is_matrix() && !is_router(module) && (!is_outside(name) || candidate.flag("embeddings")) {
            return self.decompose(candidate, module, making, settings);
        }
        self.save(candidate, module, making);
    }

    fn decompose(&mut self, candidate: &Candidate, module: &str, making: &mut Making, settings: &Settings) {
        let (rows, columns) = candidate.matrix();
        let rank = candidate.rank().unwrap_or(u64::MAX).min(rows).min(columns);
        let peak = spectrum::peak_bytes(rows, columns, rank);
        if peak > settings.memory {
            let detail = format!(
                "the difference of tensor {:?} takes {peak} bytes to decompose and the merge may use {}; raise --memory, or leave the tensor out by a `rank` of 0 for it",
                candidate.name, settings.memory
            );
            return self.error("/parameters", "too_large", detail);
        }
        making.peak = making.peak.max(peak);
        let embedding = layers::is_before_layers(&candidate.name);
        // Conv1D stands in layers alone
        let turned = embedding || (self.turned() && layers::split(&candidate.name).is_some());
        let (a_side, b_side) = if turned { (rows, columns) } else { (columns, rows) };
        let ends =
            if embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
        if making.tied && is_embedding_of_tokens(&candidate.name) {
            let detail = "the head is tied to the embedding, which PEFT decomposes alone: the head follows once the adapter is merged into the model, not before";
            self.warn("/parameters/embeddings", "tied_head", detail);
        }
        let outer = self.outer_name(module);
        let energy = match candidate.parameters.shared.get("energy") {
            Some(Resolved::Number(energy)) => Some(*energy),
            _ => None,
        };
        let dtype = self.dtype(candidate);
        let [a, b] = [[rank, a_side], [b_side, rank]];
        let a = making.task(candidate, format!("{WRAPPER}{outer}.{}", ends[0]), dtype, a.to_vec());
        let b = making.task(candidate, format!("{WRAPPER}{outer}.{}", ends[1]), dtype, b.to_vec());
        making.items.push(Item::Decompose(Decompose { module: outer, a, b, turned, rank: rank as usize, energy }));
    }

    fn save(&mut self, candidate: &Candidate, module: &str, making: &mut Making) {
        let outer = self.outer_name(module);
        if !candidate.flag("save") {
            return making.others.push(outer);
        }
        let shape = candidate.finetuned.place.info.shape.clone();
        let base = candidate.base.as_ref().map(|base| &base.place.info.shape);
        match base.filter(|base| **base != shape) {
            Some(_) if layers::is_vocabulary(&candidate.name) => {
                let detail = format!(
                    "tensor {:?} has more or fewer tokens than in the base; it is saved whole, and the base must be resized before the adapter is loaded",
                    candidate.name
                );
                self.warn("/models", "shape_mismatch", detail);
            }
            Some(base) => {
                let detail = format!(
                    "tensor {:?} has the shape {shape:?} and in the base {base:?}; only models of one shape differ by an adapter",
                    candidate.name
                );
                return self.error("/models", "shape_mismatch", detail);
            }
            None => {}
        }
        let dtype = self.dtype(candidate);
        let task = making.task(candidate, format!("{WRAPPER}{outer}.weight"), dtype, shape);
        making.items.push(Item::Whole(Whole { module: outer, task }));
        if making.tied && is_embedding_of_tokens(&candidate.name) {
            // PEFT replaces the embedding alone, and the head would stay the base's
            let shape = candidate.finetuned.place.info.shape.clone();
            let task = making.task(candidate, format!("{WRAPPER}{TIED_HEAD}.weight"), dtype, shape);
            making.items.push(Item::Whole(Whole { module: TIED_HEAD.to_owned(), task }));
        }
    }

    /// Of a decomposed module the bias beneath the factors, of one that is saved its own.
    fn biases(&mut self, candidates: &[Candidate], making: &mut Making) {
        let of_modules: HashMap<String, bool> = making.items.iter().map(Item::of_module).collect();
        let others: HashSet<String> = making.others.iter().cloned().collect();
        for candidate in candidates {
            let Some(module) = candidate.name.strip_suffix(".bias") else { continue };
            let outer = self.outer_name(module);
            match of_modules.get(&outer) {
                Some(decomposed) if !decomposed || candidate.flag("save") => {
                    self.bias(candidate, outer, *decomposed, making);
                }
                None if !others.contains(&outer) => {
                    let detail =
                        format!("tensor {:?} belongs to no module with a weight; it is left out", candidate.name);
                    self.warn("/models", "left_out", detail);
                }
                _ => {}
            }
        }
    }

    fn bias(&mut self, candidate: &Candidate, module: String, decomposed: bool, making: &mut Making) {
        let shape = candidate.finetuned.place.info.shape.clone();
        let base = candidate.base.as_ref().map(|base| &base.place.info.shape);
        if let Some(base) = base.filter(|base| **base != shape) {
            let detail = format!(
                "tensor {:?} has the shape {shape:?} and in the base {base:?}; only models of one shape differ by an adapter",
                candidate.name
            );
            return self.error("/models", "shape_mismatch", detail);
        }
        let name = if decomposed { "base_layer.bias" } else { "bias" };
        let dtype = self.dtype(candidate);
        let task = making.task(candidate, format!("{WRAPPER}{module}.{name}"), dtype, shape);
        let whole = Whole { module, task };
        making.items.push(if decomposed { Item::Bias(whole) } else { Item::Whole(whole) });
    }

    fn dtype(&self, candidate: &Candidate) -> Dtype {
        let wanted = self.recipe.out_dtype.or(self.recipe.dtype).map(dtype_of);
        wanted.unwrap_or_else(|| promote(&candidate.dtypes()))
    }

    /// The module as the model's class names it: checkpoints of GPT-2 leave out what is around the layers.
    fn outer_name(&self, module: &str) -> String {
        let model = &self.sources.list[self.donor()].checkpoint;
        let is_bare = || !model.tensors.keys().any(|name| name.starts_with("transformer."));
        if self.turned() && !module.starts_with("lm_head") && is_bare() {
            format!("transformer.{module}")
        } else {
            module.to_owned()
        }
    }
}

/// Routers of experts are no linear modules to PEFT, and small.
fn is_router(module: &str) -> bool {
    module.rsplit('.').next().is_some_and(|last| ["gate", "router", "wg"].contains(&last))
}

fn is_embedding_of_tokens(name: &str) -> bool {
    layers::is_vocabulary(name) && layers::is_before_layers(name)
}

/// Embeddings and head, which belong to tokens or positions.
fn is_outside(name: &str) -> bool {
    layers::split(name).is_none() && (layers::is_before_layers(name) || layers::is_vocabulary(name))
}

/// All in one file, as adapters have it.
pub(super) fn of_adapter(tasks: &[TensorTask]) -> ShardLayout {
    let outputs = tasks.iter().map(|t| (t.name.clone(), t.dtype, t.parameters.shape.clone())).collect();
    let mut layout = layout_shards(outputs, u64::MAX).pop().expect("there is a task, so there is a shard");
    layout.file_name = adapter::files::WEIGHTS.to_owned();
    layout
}

struct Making {
    tasks: Vec<TensorTask>,
    items: Vec<Item>,
    others: Vec<String>,
    /// Bytes that the largest decomposition takes.
    peak: u64,
    /// The head is the embedding.
    tied: bool,
}

impl Making {
    fn task(&mut self, candidate: &Candidate, name: String, dtype: Dtype, shape: Vec<u64>) -> usize {
        let inputs = std::iter::once(&candidate.finetuned).chain(&candidate.base).cloned().collect();
        let parameters = TaskParameters { shape, ..candidate.parameters.clone() };
        self.tasks.push(TensorTask { name, dtype, inputs, parameters, work: Work::OfAdapter, shard: 0, start: 0 });
        self.tasks.len() - 1
    }
}

impl Candidate {
    fn dtypes(&self) -> Vec<Dtype> {
        std::iter::once(&self.finetuned).chain(&self.base).map(|input| input.place.info.dtype).collect()
    }

    /// A matrix that both have alike.
    fn is_matrix(&self) -> bool {
        let shape = &self.finetuned.place.info.shape;
        let alike = self.base.as_ref().is_some_and(|base| base.place.info.shape == *shape);
        alike && shape.len() == 2 && shape.iter().all(|n| *n > 0)
    }

    fn matrix(&self) -> (u64, u64) {
        (self.finetuned.place.info.shape[0], self.finetuned.place.info.shape[1])
    }

    /// The most that the recipe gives the module.
    fn rank(&self) -> Option<u64> {
        let number = |name: &str| match self.parameters.shared.get(name) {
            Some(Resolved::Number(number)) => Some(*number as u64),
            _ => None,
        };
        match (number("rank"), number("max_rank")) {
            (Some(rank), Some(max)) => Some(rank.min(max)),
            (rank, max) => rank.or(max),
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.parameters.shared.get(name) == Some(&Resolved::Boolean(true))
    }
}
