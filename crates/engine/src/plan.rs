//! The plan of a merge: every output tensor with its inputs, method, parameters, shard and place, from headers alone.
//!
//! Invariant: a plan that exists can be executed; whatever is wrong with a recipe or its models is found here.

mod config;
mod drafts;
mod extraction;
mod findings;
mod missing;
mod mixture;
mod model;
mod summary;
mod template;
mod tokenizer_files;
mod tokens;
mod used;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::{Access, Dtype, ShardLayout, TensorPlace, is_floating, is_mergeable};
use recipe::{FloatDtype, Options, Problem, Recipe, Refusal};
use serde_json::{Value, json};

use crate::artifact::MadeFile;
use crate::check::{Making, base_of, check_adapters, check_making, check_with};
use crate::lora::Applied;
use crate::methods::{self, About, Merge, Method, TaskParameters, TooFew};
use crate::parameters::{self, Place};
use crate::rows::Gather;
use crate::slices::{Slice, slices};
use crate::{Sources, advice, layers};
use drafts::{Draft, drafts};
pub(crate) use extraction::{Decompose, Extraction, Item, Whole};
use missing::Missing;
pub(crate) use mixture::{MixedModule, Mixture, known as known_mixings};
pub(crate) use model::ModelStatistics;
pub use summary::{PlanSummary, PlannedShard, PlannedTensor};
use tokens::Tokens;
pub use used::PlannedModel;

/// What the operator sets, not the recipe.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes that buffers may take.
    pub memory: u64,
    /// Threads that merge; all cores where 0.
    pub threads: usize,
    /// Bytes of an output shard, unless the recipe's options say otherwise.
    pub shard_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { memory: 1 << 30, threads: 0, shard_bytes: 5_000_000_000 }
    }
}

impl Settings {
    pub fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }
}

#[derive(Debug)]
pub struct Plan {
    pub about: About,
    pub tasks: Vec<TensorTask>,
    pub shards: Vec<ShardLayout>,
    /// Recorded; drawn from the recipe when it names none, so that equal recipes stay equal.
    pub seed: u64,
    pub warnings: Vec<Problem>,
    /// SHA-256 over everything that decides the output's bytes.
    pub digest: String,
    /// Statistics that are taken over all tensors at once, where the method asks for them.
    pub(crate) over_model: Option<ModelStatistics>,
    /// Whether values that are not finite may come of finite ones.
    pub(crate) allow_non_finite: bool,
    /// The `config.json` of the output.
    pub config: Value,
    /// The source whose config, tokenizer and generation files the output takes.
    pub(crate) donor: usize,
    /// The source whose tokenizer files the output takes.
    pub(crate) tokenizer_donor: usize,
    /// Files of the tokenizer as the output has them; those of the donor that are not here are carried as they are.
    pub(crate) made: Vec<MadeFile>,
    /// SHA-256 of the tokenizers whose tokens rows were matched by.
    pub(crate) tokenizer_digests: Vec<String>,
    /// Bytes held at once beside the buffers: factors of adapters, a matrix that is decomposed.
    pub(crate) held_bytes: u64,
    pub(crate) product: Product,
    pub(crate) recipe: Value,
    /// Whether a README is written, and whether the tokenizer is carried along.
    pub(crate) options: Options,
    pub(crate) models: Vec<String>,
    /// As `models`, with those that earlier stages make replaced by what these are made of.
    pub(crate) made_of: Vec<String>,
    pub(crate) used: Vec<PlannedModel>,
    pub(crate) settings: Settings,
}

/// The making of one output tensor.
#[derive(Debug)]
pub struct TensorTask {
    pub name: String,
    pub dtype: Dtype,
    pub inputs: Vec<TaskInput>,
    pub parameters: TaskParameters,
    pub(crate) work: Work,
    pub(crate) shard: usize,
    /// Offset in the shard's file.
    pub(crate) start: u64,
}

#[derive(Debug, Clone)]
pub struct TaskInput {
    /// Index into the plan's sources.
    pub source: usize,
    pub name: String,
    pub place: TensorPlace,
    /// How rows are found where the models' vocabularies differ.
    pub rows: Option<Arc<Gather>>,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// The bytes of one input, unchanged.
    Copy(usize),
    /// A buffer that is no parameter: copied from the first input, and the others must hold the same.
    CopyEqual,
    Merge(Box<dyn Merge>),
    /// Made with others of its module, as the plan's product says.
    OfAdapter,
}

/// What comes out.
#[derive(Debug)]
pub(crate) enum Product {
    Model,
    Extraction(Extraction),
    Mixture(Mixture),
}

/// Checks a recipe, opens its models and plans the merge, or says everything that stands in its way.
pub fn open_and_plan(recipe: &Recipe, access: &Access, settings: &Settings) -> Result<(Plan, Sources), Refusal> {
    let (making, warnings) = check_with(recipe, access)?;
    let sources = Sources::open(recipe, access).map_err(|refusal| Refusal { warnings: warnings.clone(), ..refusal })?;
    let plan = plan_checked(recipe, &sources, settings, making, warnings)?;
    Ok((plan, sources))
}

/// Plans a merge of models that are open already.
pub fn plan(recipe: &Recipe, sources: &Sources, settings: &Settings) -> Result<Plan, Refusal> {
    let of_adapters = sources.iter().all(|source| source.adapter.is_some());
    let (making, warnings) = if of_adapters { check_adapters(recipe)? } else { check_making(recipe)? };
    plan_checked(recipe, sources, settings, making, warnings)
}

fn plan_checked(
    recipe: &Recipe,
    sources: &Sources,
    settings: &Settings,
    making: Making,
    warnings: Vec<Problem>,
) -> Result<Plan, Refusal> {
    let slices = slices(recipe);
    let text = serde_json::to_value(recipe).expect("a recipe is plain data");
    let mut planner = Planner {
        recipe,
        sources,
        about: making.about(),
        slices: &slices,
        names_set: parameters::names_set(recipe, &slices),
        seed: recipe.options.random_seed.unwrap_or_else(|| seed_of(&text)),
        problems: Vec::new(),
        inputs: 0,
        missing: Missing::default(),
        alike: BTreeMap::new(),
        alike_warnings: BTreeMap::new(),
        warnings,
    };
    planner.architectures();
    planner.adapters();
    planner.factors_fit(settings);
    planner.layers_and_files();
    match making {
        Making::Model(method) => planner.model(method, text, settings),
        Making::Extraction => planner.extraction(text, settings),
        Making::Mixture(mixing) => planner.mixture(mixing, text, settings),
    }
}

pub(crate) struct Planner<'a> {
    recipe: &'a Recipe,
    sources: &'a Sources,
    about: About,
    slices: &'a [Slice<'a>],
    /// Parameters that anything in the recipe sets.
    names_set: BTreeSet<&'a str>,
    seed: u64,
    problems: Vec<Problem>,
    /// Inputs of all drafts so far.
    inputs: usize,
    missing: Missing,
    /// How many findings of one kind there are at one place.
    alike: BTreeMap<(String, String), usize>,
    alike_warnings: BTreeMap<(String, String), usize>,
    warnings: Vec<Problem>,
}

impl Planner<'_> {
    fn model(mut self, method: &dyn Method, text: Value, settings: &Settings) -> Result<Plan, Refusal> {
        let drafts = drafts(&mut self);
        let tokens = self.merge_tokenizers();
        let template = self.chat_template();
        // shapes that differ because the vocabularies could not be merged would only hide why
        self.refuse_if_any()?;
        let tasks: Vec<TensorTask> =
            drafts.iter().filter_map(|draft| self.task(method, draft, tokens.as_ref())).collect();
        let over_model = self.model_statistics(method, &tasks);
        self.filters(&tasks);
        let shards = self.shards(&tasks, settings);
        let config = self.config(self.donor(), &tasks);
        self.refuse_if_any()?;
        let subject = advice::Subject { recipe: self.recipe, about: &self.about, slices: self.slices };
        let advice = advice::of_models(&subject, self.sources);
        self.warnings.extend(advice);
        Ok(Plan { over_model, ..self.finish(tasks, shards, config, (tokens, template), text, settings) })
    }

    fn task(&mut self, method: &dyn Method, draft: &Draft, tokens: Option<&Tokens>) -> Option<TensorTask> {
        let slice = &self.slices[draft.slice].of_sources(&draft.present);
        let of_tokens = tokens.filter(|tokens| tokens.concern(draft));
        if draft.copied {
            let (inputs, shape) = match of_tokens {
                Some(tokens) => self.gather(tokens, draft)?,
                None => (draft.inputs.clone(), draft.inputs[0].place.info.shape.clone()),
            };
            return self.copied(draft, inputs, shape);
        }
        if draft.present.len() < self.slices[draft.slice].sources.len() && self.too_few(slice) {
            if of_tokens.is_some() {
                let detail =
                    format!("tensor {:?} follows the merged vocabulary, so every model must have it", draft.name);
                self.error(&slice.pointer, "missing_tensor", detail);
                return None;
            }
            return self.few(method, draft, slice);
        }
        let (inputs, shape) = match of_tokens {
            Some(tokens) => self.gather(tokens, draft)?,
            None => self.of_one_shape(draft)?,
        };
        let names: Vec<&str> = draft.inputs.iter().map(|i| i.name.as_str()).collect();
        let place = Place {
            name: &draft.name,
            input_names: &names,
            t: draft.t,
            depth: draft.depth,
            shape: &shape,
            seed: self.seed,
        };
        let resolved =
            parameters::resolve(self.recipe, &self.about, &self.names_set, slice, base_of(&self.about, slice), &place);
        let parameters = resolved.map_err(|problem| self.found(problem)).ok()?;
        let merge = match method.prepare(&parameters) {
            Ok(merge) => merge,
            Err(detail) => {
                let pointer = slice.pointer.clone();
                self.error(&pointer, "invalid_value", format!("tensor {:?}: {detail}", draft.name));
                return None;
            }
        };
        let (dtype, work) = self.work(draft, &inputs, merge)?;
        Some(TensorTask { name: draft.name.clone(), dtype, inputs, parameters, work, shard: 0, start: 0 })
    }

    /// Whether the method cannot merge what is left of a slice.
    fn too_few(&self, slice: &Slice<'_>) -> bool {
        let base = base_of(&self.about, slice);
        let optional = usize::from(self.about.inputs.base == methods::Base::Optional && base.is_some());
        let needs_base = matches!(self.about.inputs.base, methods::Base::Required | methods::Base::FirstByDefault);
        slice.sources.len() - optional < self.about.inputs.min || (needs_base && base.is_none())
    }

    /// A tensor that too few models have: copied, left out or refused, as the method says.
    fn few(&mut self, method: &dyn Method, draft: &Draft, slice: &Slice<'_>) -> Option<TensorTask> {
        let base = slice.base;
        let copied = match (method.when_too_few(), base, slice.sources.len()) {
            (TooFew::CopyTheOne, _, 1) => Some(0),
            (TooFew::CopyTheBase, Some(base), 1) => Some(base),
            (TooFew::CopyTheBaseOrLeaveOut, Some(base), _) => Some(base),
            _ => None,
        };
        if let Some(input) = copied {
            let input = draft.inputs[input].clone();
            let shape = input.place.info.shape.clone();
            return self.copied(draft, vec![input], shape);
        }
        let models = slice.sources.iter().map(|s| format!("{:?}", s.model.to_string())).collect::<Vec<_>>().join(", ");
        let detail = format!("tensor {:?} is only in {models}, which is too few for {}", draft.name, self.about.name);
        if method.when_too_few() == TooFew::CopyTheBaseOrLeaveOut {
            self.warn(&slice.pointer, "left_out", format!("{detail}; it is left out"));
        } else {
            self.error(&slice.pointer, "missing_tensor", detail);
        }
        None
    }

    /// A task that takes one input as it is, in the dtype of the output.
    fn copied(&mut self, draft: &Draft, inputs: Vec<TaskInput>, shape: Vec<u64>) -> Option<TensorTask> {
        let parameters = TaskParameters {
            draws: methods::DrawSource::Philox { seed: self.seed, tensor: draft.name.clone() },
            shape,
            depth: draft.depth,
            inputs: 1,
            base: None,
            shared: BTreeMap::new(),
            each: vec![BTreeMap::new()],
        };
        let (dtype, work) = self.work(draft, &inputs, methods::copy())?;
        Some(TensorTask { name: draft.name.clone(), dtype, inputs, parameters, work, shard: 0, start: 0 })
    }

    /// The inputs with one shape: their own where all have it, or the rows that all have, where the recipe says so.
    fn of_one_shape(&mut self, draft: &Draft) -> Option<(Vec<TaskInput>, Vec<u64>)> {
        let first = &draft.inputs[0].place.info.shape;
        if draft.inputs.iter().all(|i| i.place.info.shape == *first) {
            return Some((draft.inputs.clone(), first.clone()));
        }
        let rows_only = layers::is_vocabulary(&draft.name)
            && !first.is_empty()
            && draft.inputs.iter().all(|i| i.place.info.shape.get(1..) == Some(&first[1..]));
        if rows_only && self.recipe.options.unsafe_truncate_embeddings && self.recipe.tokenizer.is_none() {
            return Some(self.truncated(draft));
        }
        let shapes: Vec<String> = draft
            .inputs
            .iter()
            .map(|i| format!("{:?} in {:?}", i.place.info.shape, self.sources.list[i.source].model.to_string()))
            .collect();
        let advice = if rows_only {
            "; the vocabularies differ: add `tokenizer: {source: base}` (or `union`) to align their rows"
        } else {
            "; only tensors of one shape can be merged"
        };
        let pointer = self.slices[draft.slice].pointer.clone();
        self.error(
            &pointer,
            "shape_mismatch",
            format!("tensor {:?} has the shapes {}{advice}", draft.name, shapes.join(", ")),
        );
        None
    }

    /// A vocabulary tensor cut to the fewest rows that a model has.
    fn truncated(&mut self, draft: &Draft) -> (Vec<TaskInput>, Vec<u64>) {
        let rows = draft.inputs.iter().map(|i| i.place.info.shape[0]).min().unwrap_or(0);
        let mut inputs = draft.inputs.clone();
        for input in &mut inputs {
            let info = &mut input.place.info;
            info.bytes = info.bytes / info.shape[0].max(1) * rows;
            info.shape[0] = rows;
        }
        let pointer = self.slices[draft.slice].pointer.clone();
        let detail = format!(
            "tensor {:?} is cut to its first {rows} rows, whatever tokens they belong to; a `tokenizer` section would align them",
            draft.name
        );
        self.warn(&pointer, "truncated", detail);
        let shape = inputs[0].place.info.shape.clone();
        (inputs, shape)
    }

    fn work(&mut self, draft: &Draft, inputs: &[TaskInput], merge: Box<dyn Merge>) -> Option<(Dtype, Work)> {
        let dtypes: Vec<Dtype> = inputs.iter().map(|i| i.place.info.dtype).collect();
        if dtypes.iter().all(|d| !is_floating(*d)) {
            if dtypes.iter().any(|d| *d != dtypes[0]) {
                self.dtype_error(draft, format!("has the dtypes {dtypes:?}; buffers must be the same in every model"));
                return None;
            }
            return Some((dtypes[0], Work::CopyEqual));
        }
        let wanted = self.recipe.out_dtype.or(self.recipe.dtype).map(dtype_of);
        if let Some(input) = merge.copies()
            && wanted.is_none_or(|dtype| dtype == dtypes[input])
            && inputs[input].rows.is_none()
            && !self.sources.list[inputs[input].source].adapts(&inputs[input].place)
        {
            return Some((dtypes[input], Work::Copy(input)));
        }
        if let Some(unsupported) = dtypes.iter().find(|d| !is_mergeable(**d)) {
            self.dtype_error(draft, format!("has unsupported dtype {unsupported:?}; merging reads BF16, F16 and F32"));
            return None;
        }
        Some((wanted.unwrap_or_else(|| promote(&dtypes)), Work::Merge(merge)))
    }

    fn dtype_error(&mut self, draft: &Draft, what: String) {
        let pointer = self.slices[draft.slice].pointer.clone();
        self.error(&pointer, "unsupported_dtype", format!("tensor {:?} {what}", draft.name));
    }

    fn finish(
        mut self,
        mut tasks: Vec<TensorTask>,
        shards: Vec<ShardLayout>,
        mut config: Value,
        (tokens, template): (Option<Tokens>, Option<String>),
        recipe: Value,
        settings: &Settings,
    ) -> Plan {
        place_tasks(&mut tasks, &shards);
        self.tell_alike_warnings();
        let donor = self.donor();
        let tokenizer_donor = tokens.as_ref().map_or(donor, |t| t.donor);
        let tokenizer_digests = tokens.as_ref().map_or(Vec::new(), |t| t.digests.clone());
        let made = self.tokenizer_files(&mut config, donor, tokens.as_ref(), template);
        let held_bytes = self.factor_bytes(settings);
        let mut plan = Plan {
            about: self.about,
            tasks,
            shards,
            seed: self.seed,
            warnings: self.warnings,
            digest: String::new(),
            over_model: None,
            allow_non_finite: self.recipe.options.allow_non_finite,
            config,
            donor,
            tokenizer_donor,
            tokenizer_digests,
            made,
            held_bytes,
            product: Product::Model,
            recipe,
            options: self.recipe.options.clone(),
            models: self.sources.list.iter().map(|s| s.model.to_string()).collect(),
            made_of: self.sources.made_of(),
            used: Vec::new(),
            settings: settings.clone(),
        };
        plan.used = used::models(&plan.tasks, self.sources);
        plan.digest = digest(&plan, self.sources);
        plan
    }
}

pub(crate) fn dtype_of(dtype: FloatDtype) -> Dtype {
    match dtype {
        FloatDtype::Float32 => Dtype::F32,
        FloatDtype::Float16 => Dtype::F16,
        FloatDtype::Bfloat16 => Dtype::BF16,
    }
}

/// What mixed inputs become: themselves when alike, f32 otherwise.
fn promote(dtypes: &[Dtype]) -> Dtype {
    if dtypes.iter().all(|d| *d == dtypes[0]) { dtypes[0] } else { Dtype::F32 }
}

fn place_tasks(tasks: &mut [TensorTask], shards: &[ShardLayout]) {
    let places: BTreeMap<&str, (usize, u64)> = shards
        .iter()
        .enumerate()
        .flat_map(|(i, shard)| shard.tensors.iter().map(move |t| (t.name.as_str(), (i, t.start))))
        .collect();
    for task in tasks {
        (task.shard, task.start) = places[task.name.as_str()];
    }
}

fn seed_of(recipe: &Value) -> u64 {
    let digest = checkpoint::digest_bytes(recipe.to_string().as_bytes());
    u64::from_str_radix(&digest[..16], 16).expect("16 hex digits are a u64") >> 11
}

fn digest(plan: &Plan, sources: &Sources) -> String {
    let files = |s: &crate::Source| -> Vec<Value> {
        s.checkpoint
            .files
            .iter()
            .map(|f| json!([f.name, f.bytes, f.header_digest, f.modified_ns.to_string()]))
            .collect()
    };
    // what a stage will have written says its plan; its files have no time yet
    let source = |s: &crate::Source| s.stage.as_ref().map_or_else(|| files(s), |stage| vec![json!(stage.plan_digest)]);
    let tasks: Vec<Value> = plan
        .tasks
        .iter()
        .map(|t| {
            let inputs: Vec<_> = t.inputs.iter().map(|i| json!([i.source, i.name])).collect();
            json!([t.name, t.dtype, inputs, t.parameters])
        })
        .collect();
    // where no config of a model is made, what configs say decides the adapter
    let config = |s: &crate::Source| checkpoint::digest_bytes(s.checkpoint.config.to_string().as_bytes());
    let configs: Vec<String> =
        if matches!(plan.product, Product::Model) { Vec::new() } else { sources.iter().map(config).collect() };
    let identity = json!({
        "engine": crate::VERSION,
        "method": plan.about.name,
        "seed": plan.seed,
        "recipe": plan.recipe,
        "sources": sources.iter().map(source).collect::<Vec<_>>(),
        "adapters": sources.iter().map(|s| s.applied.as_ref().map(Applied::identity)).collect::<Vec<_>>(),
        "tasks": tasks,
        "shards": plan.shards.iter().map(|s| json!([s.file_name, s.bytes])).collect::<Vec<_>>(),
        "config": plan.config,
        "configs": configs,
        "made": plan.made.iter().map(|f| json!([f.name, checkpoint::digest_bytes(&f.content)])).collect::<Vec<_>>(),
        "tokenizers": plan.tokenizer_digests,
        "carried": crate::artifact::carried_identity(plan, sources),
    });
    checkpoint::digest_bytes(identity.to_string().as_bytes())
}
