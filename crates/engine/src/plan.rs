//! The plan of a merge: every output tensor with its inputs, method, parameters, shard and place, from headers alone.
//!
//! Invariant: a plan that exists can be executed; whatever is wrong with a recipe or its models is found here.

pub(crate) mod code;
mod config;
mod digest;
mod drafts;
mod extraction;
mod findings;
mod missing;
mod mixture;
mod model;
mod summary;
mod tasks;
mod template;
mod tokenizer_files;
mod tokens;
mod used;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use checkpoint::{Access, Dtype, ShardLayout, TensorPlace};
use recipe::{FloatDtype, Options, Problem, Recipe, Refusal};
use serde_json::Value;

use crate::artifact::MadeFile;
use crate::check::{Making, check_adapters, check_making, check_with};
use crate::methods::{About, Merge, Method, TaskParameters, Values};
use crate::parameters;
use crate::rows::Gather;
use crate::slices::{Slice, slices};
use crate::{KnownDigests, Sources, advice};
use code::CodeLeftOut;
use digest::{digest, seed_of};
use drafts::drafts;
pub(crate) use extraction::{Decompose, Extraction, Item, Whole};
use missing::Missing;
pub(crate) use mixture::{MixedModule, Mixture, known as known_mixings};
pub(crate) use model::ModelStatistics;
pub use summary::{PlanSummary, PlannedShard, PlannedTensor};
use tokens::Tokens;
pub use used::PlannedModel;

/// With what else a process has, a merge stays below 256 MiB.
const MEMORY: u64 = 192 << 20;
/// The largest matrices of models of 70 billion parameters can be decomposed.
const HELD_MEMORY: u64 = 4 << 30;

/// What the operator sets, not the recipe.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes that buffers may take.
    pub memory: u64,
    /// Bytes that may be held whole, where a merge has to: matrices being decomposed, factors of adapters.
    pub held_memory: u64,
    /// Threads that merge; all cores where 0.
    pub threads: usize,
    /// Bytes of an output shard, unless the recipe's options say otherwise.
    pub shard_bytes: u64,
    /// Digests of input files from earlier merges.
    pub known_digests: KnownDigests,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            memory: MEMORY,
            held_memory: HELD_MEMORY,
            threads: 0,
            shard_bytes: 5_000_000_000,
            known_digests: KnownDigests::default(),
        }
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
    pub(crate) code_left_out: Vec<CodeLeftOut>,
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

impl TensorTask {
    /// Bytes that it writes.
    pub(crate) fn bytes(&self) -> u64 {
        self.parameters.elements() * self.dtype.bitsize() as u64 / 8
    }
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
        code_left_out: Vec::new(),
        last_values: Vec::new(),
    };
    planner.architectures();
    planner.adapters();
    planner.factors_fit(settings);
    planner.layers_and_files();
    planner.leave_code_out();
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
    code_left_out: Vec<CodeLeftOut>,
    /// Parameters of the tensor before: shared ones, then those of each input.
    last_values: Vec<Values>,
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
            code_left_out: self.code_left_out,
            settings: settings.clone(),
        };
        code::strip(&mut plan, self.sources);
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
