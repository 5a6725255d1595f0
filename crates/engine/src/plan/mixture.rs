//! The plan of adapters merged with each other: for each module that any of them has, whose factors become what.

use std::collections::BTreeSet;

use adapter::{Adapter, Module, ModuleKind};
use checkpoint::Dtype;
use recipe::Refusal;
use serde_json::{Value, json};

use super::extraction::of_adapter;
use super::{Plan, Planner, Product, Settings, TaskInput, TensorTask, Work, digest, dtype_of, promote};
use crate::layers;
use crate::lora::kinds;
use crate::lora::mixing::{Core, Majority, Mixing, Options};
use crate::lora::peft::WRAPPER;
use crate::methods::{Resolved, TaskParameters};
use crate::parameters::{self, Place};

/// Adapters that become one.
#[derive(Debug)]
pub(crate) struct Mixture {
    pub mixing: Mixing,
    pub modules: Vec<MixedModule>,
    pub fan_in_fan_out: bool,
    pub base_model: Option<String>,
    pub task_type: Option<String>,
}

/// One module of the result, by its tasks among the plan's. Inputs of the tasks are those adapters that have it.
#[derive(Debug)]
pub(crate) struct MixedModule {
    pub name: String,
    pub a: usize,
    pub b: usize,
    pub rank: u64,
    pub options: Options,
    /// Of each input.
    pub shares: Vec<Share>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub weight: f64,
    pub scale: f64,
    pub density: f64,
}

impl<'a> Planner<'a> {
    pub(super) fn mixture(mut self, mixing: Mixing, text: Value, settings: &Settings) -> Result<Plan, Refusal> {
        let sources = self.sources;
        let adapters = self.opened_adapters();
        self.refuse_if_any()?;
        let adapters = adapters.expect("a source that is no adapter was refused");
        self.agree(&adapters);
        self.refuse_if_any()?;
        let names: BTreeSet<&String> = adapters.iter().flat_map(|adapter| adapter.modules.keys()).collect();
        let layer = |name: &String| layers::split(name).map(|layer| layer.index);
        let last = names.iter().filter_map(|name| layer(name)).max().unwrap_or(0);
        let mut tasks = Vec::new();
        let modules: Vec<MixedModule> = names
            .into_iter()
            .filter_map(|name| {
                let depth = layer(name).map(|index| depth(index, last));
                self.module(mixing, name, depth, &adapters, &mut tasks)
            })
            .collect();
        self.refuse_if_any()?;
        let mut peaks: Vec<u64> = modules.iter().map(|module| peak_bytes(mixing, module, &tasks)).collect();
        peaks.sort_unstable_by(|a, b| b.cmp(a));
        // as many modules are made at once as there are threads
        let held_bytes = peaks.iter().take(settings.thread_count()).fold(0u64, |sum, peak| sum.saturating_add(*peak));
        if held_bytes > settings.held_memory {
            let detail = format!(
                "the factors of the modules that are merged at once take {held_bytes} bytes and the merge may use {}; raise --memory, or lower --threads",
                settings.held_memory
            );
            self.error("", "too_large", detail);
        }
        self.filters(&tasks);
        self.refuse_if_any()?;
        let first = &adapters[0].config;
        let mixture = Mixture {
            mixing,
            modules,
            fan_in_fan_out: first.fan_in_fan_out,
            base_model: first.base_model.clone(),
            task_type: first.task_type.clone(),
        };
        let shards = vec![of_adapter(&tasks)];
        let plan = self.finish(tasks, shards, json!({}), (None, None), text, settings);
        let plan = Plan { held_bytes, product: Product::Mixture(mixture), ..plan };
        Ok(Plan { digest: digest(&plan, sources), ..plan })
    }

    /// All inputs are adapters, which a recipe that was read without its models could not say.
    fn opened_adapters(&mut self) -> Option<Vec<&'a Adapter>> {
        let sources = self.sources;
        let found: Option<Vec<&Adapter>> = sources.iter().map(|source| source.adapter.as_ref()).collect();
        if found.is_none() {
            let model = sources.iter().find(|s| s.adapter.is_none()).map_or(String::new(), |s| s.model.to_string());
            let detail = format!(
                "`{}` merges adapters with each other, and {model:?} is a model; to merge models with their adapters write `model: MODEL+ADAPTER` and a method for models",
                self.about.name
            );
            self.error("/merge_method", "not_an_adapter", detail);
        }
        found
    }

    /// What adapters of one merge must have alike, and what cannot be merged without their model.
    fn agree(&mut self, adapters: &[&Adapter]) {
        let turned = adapters[0].config.fan_in_fan_out;
        let base = adapters[0].config.base_model.clone();
        for (source, adapter) in self.sources.iter().zip(adapters) {
            let name = source.model.to_string();
            let pointer = self.pointer_of(&source.model);
            if adapter.config.fan_in_fan_out != turned {
                let detail = format!("adapter {name:?} says another `fan_in_fan_out` than the first");
                self.error(&pointer, "adapters_differ", detail);
            }
            if let Some(saved) = adapter.saved.keys().next() {
                let detail = format!(
                    "adapter {name:?} has tensor {saved:?} saved whole, which has no place in a merge of factors; merge models instead (`model: MODEL+ADAPTER`)"
                );
                self.error(&pointer, "unsupported_adapter", detail);
            }
            if let Some((module, _)) = adapter.modules.iter().find(|(_, m)| m.magnitude.is_some() || m.bias.is_some()) {
                let detail = format!(
                    "adapter {name:?} has a bias or DoRA at {module:?}, which has no place in a merge of factors; merge models instead (`model: MODEL+ADAPTER`)"
                );
                self.error(&pointer, "unsupported_adapter", detail);
            }
            if adapter.config.base_model != base {
                let names = [&base, &adapter.config.base_model].map(|b| b.clone().unwrap_or_default());
                let detail = format!(
                    "adapter {name:?} was trained on {:?} and the first on {:?}; make sure that this is the same model",
                    names[1], names[0]
                );
                self.warnings.push(self.recipe.positions.problem(&pointer, "other_base", detail));
            }
        }
    }

    fn module(
        &mut self,
        mixing: Mixing,
        name: &str,
        depth: Option<f64>,
        adapters: &[&Adapter],
        tasks: &mut Vec<TensorTask>,
    ) -> Option<MixedModule> {
        let having: Vec<(usize, &Module)> =
            adapters.iter().enumerate().filter_map(|(i, adapter)| Some((i, adapter.modules.get(name)?))).collect();
        let parameters = self.parameters_of(name, depth, &having)?;
        let (_, first) = having[0];
        let of_one_form = |m: &Module| {
            (m.kind, m.factors.width(), m.factors.height())
                == (first.kind, first.factors.width(), first.factors.height())
        };
        if !having.iter().all(|(_, m)| of_one_form(m)) {
            self.error("/models", "shape_mismatch", format!("module {name:?} has another shape in other adapters"));
            return None;
        }
        let rank = self.rank(mixing, name, &having, &parameters)?;
        let dtypes: Vec<Dtype> =
            having.iter().flat_map(|(_, m)| [m.factors.a.info.dtype, m.factors.b.info.dtype]).collect();
        let dtype = self.recipe.out_dtype.or(self.recipe.dtype).map_or_else(|| promote(&dtypes), dtype_of);
        let ends = match first.kind {
            ModuleKind::Linear => ["lora_A.weight", "lora_B.weight"],
            ModuleKind::Embedding => ["lora_embedding_A", "lora_embedding_B"],
        };
        let mut task = |end: &str, shape: [u64; 2], of_a: bool| {
            let inputs = having.iter().map(|(i, m)| input(*i, name, end, m, of_a)).collect();
            let parameters = TaskParameters { shape: shape.to_vec(), ..parameters.clone() };
            let name = format!("{WRAPPER}{name}.{end}");
            tasks.push(TensorTask { name, dtype, inputs, parameters, work: Work::OfAdapter, shard: 0, start: 0 });
            tasks.len() - 1
        };
        let a = task(ends[0], [rank, first.factors.width()], true);
        let b = task(ends[1], [first.factors.height(), rank], false);
        let shares = having.iter().enumerate().map(|(at, (_, m))| share(&parameters, at, m.scale)).collect();
        Some(MixedModule { name: name.to_owned(), a, b, rank, options: options(&parameters, rank), shares })
    }

    fn parameters_of(&mut self, name: &str, depth: Option<f64>, having: &[(usize, &Module)]) -> Option<TaskParameters> {
        let present: Vec<usize> = having.iter().map(|(i, _)| *i).collect();
        let slice = self.slices[0].of_sources(&present);
        let names = vec![name; present.len()];
        let t = depth.unwrap_or(0.0);
        let place = Place { name, input_names: &names, t, depth, shape: &[], seed: self.seed };
        let resolved = parameters::resolve(self.recipe, &self.about, &self.names_set, &slice, None, &place);
        resolved.map_err(|problem| self.found(problem)).ok()
    }

    fn rank(
        &mut self,
        mixing: Mixing,
        name: &str,
        having: &[(usize, &Module)],
        parameters: &TaskParameters,
    ) -> Option<u64> {
        let (_, first) = having[0];
        let sum: u64 = having.iter().map(|(_, m)| m.rank).sum();
        let largest = having.iter().map(|(_, m)| m.rank).max().unwrap_or(1);
        let most = sum.min(first.factors.width()).min(first.factors.height());
        let wanted = match parameters.shared.get("rank") {
            Some(Resolved::Number(rank)) => Some(*rank as u64),
            _ => None,
        };
        let rank = match mixing {
            Mixing::Cat => sum,
            Mixing::Svd => wanted.unwrap_or(largest).min(most),
            Mixing::CoreSpace => wanted.unwrap_or(sum).min(most),
            Mixing::Linear | Mixing::Ties | Mixing::DareLinear | Mixing::DareTies | Mixing::MagnitudePrune => {
                if having.iter().any(|(_, m)| m.rank != first.rank) {
                    let detail = format!(
                        "module {name:?} has several ranks, and `{}` needs one; use cat, svd or core_space",
                        self.about.name
                    );
                    self.error("/merge_method", "ranks_differ", detail);
                    return None;
                }
                first.rank
            }
        };
        if rank > adapter::limits::RANK_MAX {
            let detail = format!(
                "module {name:?} would have rank {rank}, and {} is the most; use svd with a `rank`",
                adapter::limits::RANK_MAX
            );
            self.error("/merge_method", "too_large", detail);
            return None;
        }
        Some(rank)
    }
}

/// Where a layer stands among those that have adapters, from 0 to 1; a single one stands at the end.
fn depth(index: u32, last: u32) -> f64 {
    if last == 0 { 1.0 } else { f64::from(index) / f64::from(last) }
}

fn input(source: usize, module: &str, end: &str, of: &Module, of_a: bool) -> TaskInput {
    let place = if of_a { &of.factors.a } else { &of.factors.b };
    TaskInput { source, name: format!("{WRAPPER}{module}.{end}"), place: place.clone(), rows: None }
}

fn share(parameters: &TaskParameters, input: usize, scale: f64) -> Share {
    let number = |name: &str| match parameters.each[input].get(name) {
        Some(Resolved::Number(number)) => *number,
        _ => 1.0,
    };
    Share { weight: number("weight"), scale, density: number("density") }
}

fn options(parameters: &TaskParameters, rank: u64) -> Options {
    let word = |name: &str| match parameters.shared.get(name) {
        Some(Resolved::Word(word)) => *word,
        _ => "",
    };
    Options {
        rank: rank as usize,
        majority: if word("majority_sign_method") == "frequency" { Majority::Frequency } else { Majority::Total },
        core: match word("core") {
            "sum" => Core::Sum,
            "ties" => Core::Ties,
            _ => Core::Iso,
        },
    }
}

/// Factors of all inputs and of the result, some of them a few times.
fn peak_bytes(mixing: Mixing, module: &MixedModule, tasks: &[TensorTask]) -> u64 {
    let inputs = tasks[module.a].inputs.iter().chain(&tasks[module.b].inputs);
    let elements: u64 = inputs.map(|input| input.place.info.elements()).sum();
    let ranks: u64 = tasks[module.a].inputs.iter().map(|input| input.place.info.shape[0]).sum();
    let cores = match mixing {
        Mixing::Svd | Mixing::CoreSpace => ranks * ranks * (module.shares.len() as u64 + 8),
        _ => 0,
    };
    4 * (6 * elements + cores)
}

/// The ways by which adapters may be merged, for a message.
pub(crate) fn known() -> String {
    kinds::MIXINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
