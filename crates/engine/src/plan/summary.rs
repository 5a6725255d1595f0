//! A plan in figures, for dry runs and events.

use recipe::Problem;
use serde::Serialize;

use super::{Plan, PlannedModel, Product, TensorTask, Work};
use crate::StageSummary;
use crate::backend::cpu::Cpu;
use crate::methods::TaskParameters;

#[derive(Debug, Clone, Serialize)]
pub struct PlanSummary {
    pub method: &'static str,
    pub digest: String,
    pub seed: u64,
    /// Models in the order of the recipe.
    pub models: Vec<String>,
    /// The same models with what is read of them and what is left out.
    pub inputs: Vec<PlannedModel>,
    pub tensors: usize,
    /// Elements of all output tensors.
    pub parameters: u64,
    /// Bytes of tensor data that one reading of all inputs takes.
    pub input_bytes: u64,
    /// Bytes of the output's shards, headers counted.
    pub output_bytes: u64,
    /// Buffers at most, in bytes.
    pub memory_bytes: u64,
    /// Free space that the output needs, in bytes.
    pub disk_bytes: u64,
    pub shards: Vec<PlannedShard>,
    pub warnings: Vec<Problem>,
    /// Where the recipe has several, in the order in which they are made; this is the summary of the last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageSummary>,
    /// Every output tensor with its parameters; only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_tasks: Option<Vec<PlannedTensor>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlannedShard {
    pub file: String,
    pub bytes: u64,
    pub tensors: usize,
}

#[derive(Debug, Clone, Serialize)]
pub struct PlannedTensor {
    pub name: String,
    pub dtype: String,
    pub inputs: Vec<String>,
    /// `copy` or `merge`.
    pub work: &'static str,
    #[serde(flatten)]
    pub parameters: TaskParameters,
}

/// Config, index, tokenizer, card and manifest: far below this.
const BESIDE_SHARDS_BYTES: u64 = 64 * 1024 * 1024;

impl Plan {
    pub fn summary(&self, with_tensors: bool) -> PlanSummary {
        PlanSummary {
            method: self.about.name,
            digest: self.digest.clone(),
            seed: self.seed,
            models: self.models.clone(),
            inputs: self.used.clone(),
            tensors: self.tasks.len(),
            parameters: self.tasks.iter().map(|t| t.parameters.elements()).sum(),
            input_bytes: self.tasks.iter().flat_map(|t| &t.inputs).map(|i| i.place.info.bytes).sum(),
            output_bytes: self.output_bytes(),
            memory_bytes: self.memory_bytes(),
            disk_bytes: self.disk_bytes(),
            shards: self
                .shards
                .iter()
                .map(|s| PlannedShard { file: s.file_name.clone(), bytes: s.bytes, tensors: s.tensors.len() })
                .collect(),
            warnings: self.warnings.clone(),
            stages: Vec::new(),
            tensor_tasks: with_tensors.then(|| self.tasks.iter().map(|t| self.planned(t)).collect()),
        }
    }

    /// Bytes of all tensors of the output.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.shards.iter().flat_map(|s| &s.tensors).map(|t| t.bytes).sum()
    }

    pub(crate) fn output_bytes(&self) -> u64 {
        self.shards.iter().map(|s| s.bytes).sum()
    }

    /// Free space that the output needs, in bytes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        // an adapter is written beside its final file until all ranks are known
        let times = if matches!(self.product, Product::Model) { 1 } else { 2 };
        times * self.output_bytes() + BESIDE_SHARDS_BYTES
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let threads = self.settings.thread_count();
        let inputs = self.inputs_max();
        threads as u64 * Cpu::buffer_bytes(self.settings.memory, threads, inputs) + self.held_bytes
    }

    pub(crate) fn inputs_max(&self) -> usize {
        self.tasks.iter().map(|t| t.inputs.len()).max().unwrap_or(1)
    }

    fn planned(&self, task: &TensorTask) -> PlannedTensor {
        PlannedTensor {
            name: task.name.clone(),
            dtype: format!("{:?}", task.dtype),
            inputs: task.inputs.iter().map(|i| format!("{}:{}", self.models[i.source], i.name)).collect(),
            work: if matches!(task.work, Work::Copy(_) | Work::CopyEqual) { "copy" } else { "merge" },
            parameters: task.parameters.clone(),
        }
    }
}
