//! An adapter's tensors written as they are made, and its files when all are.
//!
//! How large they are is known only then: until then they stand in a draft that has room for the largest.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use checkpoint::{Dtype, ShardFile, ShardLayout, layout_shards};
use serde_json::Value;

use super::{ExecuteError, Execution};
use crate::artifact::{self, Artifact};
use crate::convert;
use crate::lora::peft::Made;

const DRAFT: &str = "draft.safetensors";
/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

pub(super) struct Draft {
    file: ShardFile,
    /// Of each task the shape that its tensor has in the end; those without one are left out.
    shapes: Vec<Option<Vec<u64>>>,
}

impl Draft {
    pub fn create(execution: &Execution<'_>, dir: &Path) -> Result<Draft, ExecuteError> {
        let layout = ShardLayout { file_name: DRAFT.to_owned(), ..execution.plan.shards[0].clone() };
        Ok(Draft { file: ShardFile::create(dir, &layout)?, shapes: vec![None; execution.plan.tasks.len()] })
    }

    pub fn set_shape(&mut self, task: usize, shape: Vec<u64>) {
        self.shapes[task] = Some(shape);
    }

    /// Writes a tensor whole.
    pub fn write(&self, execution: &Execution<'_>, task: usize, values: &[f32]) -> Result<(), ExecuteError> {
        self.write_at(task, execution, 0, values)
    }

    pub fn write_at(
        &self,
        task: usize,
        execution: &Execution<'_>,
        at: u64,
        values: &[f32],
    ) -> Result<(), ExecuteError> {
        let task = &execution.plan.tasks[task];
        let lost = convert::first_lost(task.dtype, values, &[]).filter(|_| !execution.plan.allow_non_finite);
        if let Some(lost) = lost {
            let reason = format!(
                "element {} is NaN or infinite in {:?}; the models have such values, or another dtype is needed",
                at + lost as u64,
                task.dtype
            );
            return Err(ExecuteError::Unmergeable { tensor: task.name.clone(), reason });
        }
        let mut bytes = vec![0; values.len() * width(task.dtype)];
        convert::from_f32(task.dtype, values, &mut bytes);
        Ok(self.file.write_at(task.start + at * width(task.dtype) as u64, &bytes)?)
    }

    /// Writes the final file with every tensor that has a shape, and removes the draft.
    fn finish(self, execution: &Execution<'_>, dir: &Path) -> Result<ShardLayout, ExecuteError> {
        let tasks = &execution.plan.tasks;
        let kept = self.shapes.iter().zip(tasks).filter_map(|(shape, task)| Some((task, shape.clone()?)));
        let tensors = kept.map(|(task, shape)| (task.name.clone(), task.dtype, shape)).collect();
        let mut layout = layout_shards(tensors, u64::MAX).pop().ok_or(ExecuteError::NothingToExtract)?;
        layout.file_name = adapter::files::WEIGHTS.to_owned();
        let shard = ShardFile::create(dir, &layout)?;
        let draft = File::open(&self.file.path).map_err(ExecuteError::io(&self.file.path))?;
        let starts: HashMap<&str, u64> = tasks.iter().map(|task| (task.name.as_str(), task.start)).collect();
        for tensor in &layout.tensors {
            copy((&draft, starts[tensor.name.as_str()]), (&shard, tensor.start), tensor.bytes, &self.file.path)?;
        }
        shard.sync()?;
        std::fs::remove_file(&self.file.path).map_err(ExecuteError::io(&self.file.path))?;
        Ok(layout)
    }
}

fn width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

fn copy(
    (from, start): (&File, u64),
    (to, place): (&ShardFile, u64),
    bytes: u64,
    path: &PathBuf,
) -> Result<(), ExecuteError> {
    let mut buffer = vec![0; COPY_BYTES.min(bytes) as usize];
    let mut at = 0;
    while at < bytes {
        let part = &mut buffer[..COPY_BYTES.min(bytes - at) as usize];
        from.read_exact_at(part, start + at).map_err(ExecuteError::io(path))?;
        to.write_at(place + at, part)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Config, weights, recipe, card and manifest, durable. `report` goes into the manifest.
pub(super) fn complete(
    execution: &Execution<'_>,
    draft: Draft,
    made: &Made,
    report: Value,
    recipe_text: &str,
    dir: &Path,
) -> Result<Artifact, ExecuteError> {
    let layout = draft.finish(execution, dir)?;
    // progress counted on digesting the largest file that this could have been
    execution.add_bytes(execution.plan.shards[0].bytes - layout.bytes);
    artifact::complete_adapter(execution, &layout, &made.config(), report, recipe_text, dir)
}
