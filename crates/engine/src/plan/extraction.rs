//! The plan of an extraction: which modules are decomposed, which tensors are saved whole, and how large they can be.

mod candidate;
mod model_class;

use std::collections::{BTreeSet, HashMap};

use checkpoint::{Dtype, ShardLayout, is_floating, is_mergeable, layout_shards};
use recipe::{Content, Refusal};
use serde_json::{Value, json};

use self::candidate::Candidate;
use self::model_class::{Kind, ModelClass};
use super::drafts::drafts;
use super::missing::listed;
use super::{Plan, Planner, Product, Settings, TensorTask, Work, digest, dtype_of, promote};
use crate::layers;
use crate::lora::peft::WRAPPER;
use crate::lora::spectrum;
use crate::methods::{Resolved, TaskParameters};

/// What is to be taken from a fine-tuned model and its base.
#[derive(Debug)]
pub(crate) struct Extraction {
    pub items: Vec<Item>,
    /// Weights of linear layers lie as [in, out].
    pub fan_in_fan_out: bool,
    /// Modules that are neither decomposed nor saved.
    pub others: BTreeSet<String>,
    /// Tensors of the fine-tuned model that an adapter cannot carry, as the model's class names them.
    pub left_out: Vec<String>,
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
    /// PEFT looks for it even where it does not differ.
    pub always: bool,
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
        let donor = &self.sources.list[self.donor()].checkpoint;
        let mut making = Making::new(ModelClass::of(&donor.config, donor.tensors.keys()));
        let candidates: Vec<Candidate> = drafts.iter().filter_map(|draft| self.candidate(draft)).collect();
        for candidate in &candidates {
            self.place(candidate, &mut making, settings);
        }
        self.beside_weights(&candidates, &mut making);
        self.tell_left_out(&mut making);
        if making.items.is_empty() {
            self.error("", "no_effect", "nothing is left to extract; see `rank` and `save`");
        }
        self.filters(&making.tasks);
        self.refuse_if_any()?;
        let shards = vec![of_adapter(&making.tasks)];
        let (peak, fan_in_fan_out) = (making.peak, making.class.is_turned());
        let left_out = making.left_out.into_iter().flat_map(|(_, names)| names).collect();
        let extraction = Extraction { items: making.items, fan_in_fan_out, others: making.others, left_out };
        let sources = self.sources;
        let plan = self.finish(making.tasks, shards, json!({}), (None, None), text, settings);
        let plan = Plan { held_bytes: plan.held_bytes + peak, product: Product::Extraction(extraction), ..plan };
        Ok(Plan { digest: digest(&plan, sources), ..plan })
    }

    /// Decides what becomes of a weight. What a module has beside it follows when it is known what became of the module.
    fn place(&mut self, candidate: &Candidate, making: &mut Making, settings: &Settings) {
        let dtypes = candidate.dtypes();
        if dtypes.iter().all(|d| !is_floating(*d)) {
            return;
        }
        if let Some(other) = dtypes.iter().find(|d| !is_mergeable(**d)) {
            let name = &candidate.name;
            let detail = format!("tensor {name:?} has unsupported dtype {other:?}; BF16, F16 and F32 are read");
            return self.error("/models", "unsupported_dtype", detail);
        }
        let class_name = making.class.name(&candidate.name);
        let Some(module) = class_name.strip_suffix(".weight").map(str::to_owned) else { return };
        let experts = candidate.flag("experts");
        let kind = making.class.kind(&module, experts);
        match kind {
            Kind::Absent => return making.leave_out(LeftOut::NoModule, candidate, module),
            Kind::Expert if !experts || !candidate.is_matrix() => {
                return making.leave_out(LeftOut::Expert, candidate, module);
            }
            Kind::Linear | Kind::Outside | Kind::Whole | Kind::Expert => {}
        }
        if candidate.is_matrix() && kind != Kind::Whole && candidate.rank() == Some(0) {
            making.others.insert(module);
            return;
        }
        let takes_factors = match kind {
            Kind::Linear | Kind::Expert => true,
            Kind::Outside => candidate.flag("embeddings"),
            Kind::Whole | Kind::Absent => false,
        };
        if candidate.is_matrix() && takes_factors {
            return self.decompose(candidate, module, making, settings);
        }
        self.save(candidate, module, making);
    }

    fn decompose(&mut self, candidate: &Candidate, module: String, making: &mut Making, settings: &Settings) {
        let (rows, columns) = candidate.matrix();
        let rank = candidate.rank().unwrap_or(u64::MAX).min(rows).min(columns);
        let peak = spectrum::peak_bytes(rows, columns, rank);
        if peak > settings.held_memory {
            let detail = format!(
                "the difference of tensor {:?} takes {peak} bytes to decompose and the merge may use {}; raise --memory, or leave the tensor out by a `rank` of 0 for it",
                candidate.name, settings.held_memory
            );
            return self.error("/parameters", "too_large", detail);
        }
        making.peak = making.peak.max(peak);
        let embedding = making.class.kind(&module, true) == Kind::Outside && !layers::is_head(&candidate.name);
        // Conv1D stands in layers alone
        let turned = embedding || (making.class.is_turned() && layers::split(&candidate.name).is_some());
        let (a_side, b_side) = if turned { (rows, columns) } else { (columns, rows) };
        let ends =
            if embedding { ["lora_embedding_A", "lora_embedding_B"] } else { ["lora_A.weight", "lora_B.weight"] };
        if !making.class.ties_of(&candidate.name).is_empty() {
            let detail = "the head is tied to the embedding, which PEFT decomposes alone: the head follows once the adapter is merged into the model, not before";
            self.warn("/parameters/embeddings", "tied_head", detail);
        }
        let energy = match candidate.parameters.shared.get("energy") {
            Some(Resolved::Number(energy)) => Some(*energy),
            _ => None,
        };
        let dtype = self.dtype(candidate);
        let [a, b] = [[rank, a_side], [b_side, rank]];
        let a = making.task(candidate, format!("{WRAPPER}{module}.{}", ends[0]), dtype, a.to_vec());
        let b = making.task(candidate, format!("{WRAPPER}{module}.{}", ends[1]), dtype, b.to_vec());
        making.items.push(Item::Decompose(Decompose { module, a, b, turned, rank: rank as usize, energy }));
    }

    fn save(&mut self, candidate: &Candidate, module: String, making: &mut Making) {
        if !candidate.flag("save") {
            making.others.insert(module);
            return;
        }
        let has_other_shape = candidate.has_other_shape();
        if has_other_shape && layers::is_vocabulary(&candidate.name) {
            let detail = format!(
                "tensor {:?} has more or fewer tokens than in the base; it is saved whole, and the base must be resized before the adapter is loaded",
                candidate.name
            );
            self.warn("/models", "shape_mismatch", detail);
        } else if has_other_shape {
            return self.other_shape(candidate);
        }
        let dtype = self.dtype(candidate);
        let head = making.class.task_head(&module).map(str::to_owned);
        let always = head.is_some();
        making.whole(candidate, format!("{module}.weight"), head.unwrap_or(module), dtype, always);
        // PEFT replaces the embedding alone, and the others would stay the base's
        for tie in making.class.ties_of(&candidate.name) {
            let module = tie.trim_end_matches(".weight").to_owned();
            making.whole(candidate, tie, module, dtype, false);
        }
    }

    /// Biases and what else modules have: of a decomposed module the bias beneath the factors, of one that is saved all.
    fn beside_weights(&mut self, candidates: &[Candidate], making: &mut Making) {
        let mut of_modules: HashMap<String, bool> = making.items.iter().map(Item::of_module).collect();
        let names: Vec<String> = candidates.iter().map(|candidate| making.class.name(&candidate.name)).collect();
        let all_holders: BTreeSet<&str> = names.iter().flat_map(|name| holders(holder(name)).skip(1)).collect();
        for (candidate, name) in candidates.iter().zip(&names) {
            if name.ends_with(".weight") || candidate.dtypes().iter().any(|dtype| !is_mergeable(*dtype)) {
                continue;
            }
            // a module that holds numbers and no other module can be saved whole
            let is_saved = holders(holder(name)).any(|module| of_modules.get(module) == Some(&false));
            let is_leaf = !all_holders.contains(holder(name)) && making.class.kind(name, false) != Kind::Expert;
            if is_leaf && !is_saved && !name.ends_with(".bias") && candidate.flag("save") {
                of_modules.entry(holder(name).to_owned()).or_insert(false);
            }
            let ties: Vec<String> = making.class.ties_of(&candidate.name);
            for tie in &ties {
                self.go_along(candidate, tie, &of_modules, making);
            }
            if !self.go_along(candidate, name, &of_modules, making) && ties.is_empty() {
                making.leave_out(LeftOut::NoWeight, candidate, holder(name).to_owned());
            }
        }
    }

    /// Whether the tensor goes with its module, or stays with it.
    fn go_along(
        &mut self,
        candidate: &Candidate,
        name: &str,
        of_modules: &HashMap<String, bool>,
        making: &mut Making,
    ) -> bool {
        let saved = holders(holder(name)).find(|module| of_modules.get(*module) == Some(&false));
        let is_bias = name.ends_with(".bias");
        let is_decomposed = is_bias && of_modules.get(holder(name)) == Some(&true);
        if is_decomposed && !candidate.flag("save") {
            return true;
        }
        if candidate.has_other_shape() && (is_decomposed || saved.is_some()) {
            self.other_shape(candidate);
            return true;
        }
        let dtype = self.dtype(candidate);
        if is_decomposed {
            let shape = candidate.shape().to_vec();
            let module = holder(name).to_owned();
            let task = making.task(candidate, format!("{WRAPPER}{module}.base_layer.bias"), dtype, shape);
            making.items.push(Item::Bias(Whole { module, task, always: false }));
        } else if let Some(module) = saved {
            let always = making.class.task_head(module).is_some();
            making.whole(candidate, name.to_owned(), module.to_owned(), dtype, always);
        } else {
            return is_bias && making.others.contains(holder(name));
        }
        true
    }

    fn other_shape(&mut self, candidate: &Candidate) {
        let base = candidate.base.as_ref().map(|base| &base.place.info.shape);
        let detail = format!(
            "tensor {:?} has the shape {:?} and in the base {:?}; only models of one shape differ by an adapter",
            candidate.name,
            candidate.shape(),
            base.unwrap_or(&Vec::new()),
        );
        self.error("/models", "shape_mismatch", detail);
    }

    fn tell_left_out(&mut self, making: &mut Making) {
        making.left_out.sort();
        for (why, names) in &making.left_out {
            let detail = format!("{}: {}; left out", listed(names), why.told());
            self.warn("/models", "left_out", detail);
        }
    }

    fn dtype(&self, candidate: &Candidate) -> Dtype {
        let wanted = self.recipe.out_dtype.or(self.recipe.dtype).map(dtype_of);
        wanted.unwrap_or_else(|| promote(&candidate.dtypes()))
    }
}

/// The module that a tensor is in.
fn holder(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

/// All in one file, as adapters have it.
pub(super) fn of_adapter(tasks: &[TensorTask]) -> ShardLayout {
    let outputs = tasks.iter().map(|t| (t.name.clone(), t.dtype, t.parameters.shape.clone())).collect();
    let mut layout = layout_shards(outputs, u64::MAX).pop().expect("there is a task, so there is a shard");
    layout.file_name = adapter::files::WEIGHTS.to_owned();
    layout
}

/// A module, and all that hold it.
fn holders(module: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(module), |name| (!name.is_empty()).then(|| holder(name)))
}

/// Why an adapter cannot carry a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LeftOut {
    NoWeight,
    NoModule,
    Expert,
}

impl LeftOut {
    fn told(self) -> &'static str {
        match self {
            LeftOut::NoWeight => "an adapter carries weights and biases of modules alone, and these are neither",
            LeftOut::NoModule => "their class joins them with others, where PEFT does not find them",
            LeftOut::Expert => {
                "experts are one tensor in transformers 5, where PEFT seldom adapts them; `experts: true` decomposes each that is a matrix, for transformers 4 and for `model+adapter`"
            }
        }
    }
}

struct Making {
    class: ModelClass,
    tasks: Vec<TensorTask>,
    items: Vec<Item>,
    others: BTreeSet<String>,
    left_out: Vec<(LeftOut, Vec<String>)>,
    /// Bytes that the largest decomposition takes.
    peak: u64,
}

impl Making {
    fn new(class: ModelClass) -> Making {
        Making { class, tasks: Vec::new(), items: Vec::new(), others: BTreeSet::new(), left_out: Vec::new(), peak: 0 }
    }

    fn task(&mut self, candidate: &Candidate, name: String, dtype: Dtype, shape: Vec<u64>) -> usize {
        let inputs = std::iter::once(&candidate.finetuned).chain(&candidate.base).cloned().collect();
        let parameters = TaskParameters { shape, ..candidate.parameters.clone() };
        self.tasks.push(TensorTask { name, dtype, inputs, parameters, work: Work::OfAdapter, shard: 0, start: 0 });
        self.tasks.len() - 1
    }

    /// A tensor saved as `name` with its module.
    fn whole(&mut self, candidate: &Candidate, name: String, module: String, dtype: Dtype, always: bool) {
        let task = self.task(candidate, format!("{WRAPPER}{name}"), dtype, candidate.shape().to_vec());
        self.items.push(Item::Whole(Whole { module, task, always }));
    }

    fn leave_out(&mut self, why: LeftOut, candidate: &Candidate, module: String) {
        let name = self.class.name(&candidate.name);
        match self.left_out.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(name),
            None => self.left_out.push((why, vec![name])),
        }
        self.others.insert(module);
    }
}
