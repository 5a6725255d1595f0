//! One tensor task: from the inputs' places to the output's.

use checkpoint::{Dtype, ShardFile};

use super::{ExecuteError, Execution};
use crate::Source;
use crate::backend::{Backend, TensorInputs, TensorOutput};
use crate::methods::Merge;
use crate::plan::{TaskInput, TensorTask, Work};
use crate::statistic::Reduced;

/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// `over_model` holds statistics of the whole model and where this tensor begins in it.
pub(super) fn merge(
    execution: &Execution<'_>,
    backend: &dyn Backend,
    task: &TensorTask,
    shard: &ShardFile,
    over_model: Option<(&[Reduced], u64)>,
) -> Result<(), ExecuteError> {
    let places = Places { reading: Reading { execution, task }, shard };
    match &task.work {
        Work::Copy(input) => places.copy(&task.inputs[*input], &[]),
        Work::CopyEqual => places.copy(&task.inputs[0], &task.inputs[1..]),
        Work::OfAdapter => unreachable!("adapters are made module by module"),
        Work::Merge(merge) => reduce_then_combine(backend, merge.as_ref(), &places, over_model),
    }
}

fn reduce_then_combine(
    backend: &dyn Backend,
    merge: &dyn Merge,
    places: &Places<'_>,
    over_model: Option<(&[Reduced], u64)>,
) -> Result<(), ExecuteError> {
    let (known, offset) = match over_model {
        Some((known, offset)) => (known.to_vec(), offset),
        None => (reduce(backend, merge, &places.reading)?, 0),
    };
    let kernel = merge
        .kernel(&known, offset)
        .map_err(|reason| ExecuteError::Unmergeable { tensor: places.reading.task.name.clone(), reason })?;
    backend.combine(kernel.as_ref(), &places.reading, places)
}

/// Every statistic a merge asks for, one after the other.
pub(super) fn reduce(
    backend: &dyn Backend,
    merge: &dyn Merge,
    inputs: &dyn TensorInputs,
) -> Result<Vec<Reduced>, ExecuteError> {
    let mut known = Vec::new();
    while let Some(statistic) = merge.statistic(&known) {
        known.push(backend.reduce(&statistic, inputs)?);
    }
    Ok(known)
}

/// The inputs of a task.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub execution: &'a Execution<'a>,
    pub task: &'a TensorTask,
}

impl Reading<'_> {
    fn source(&self, input: &TaskInput) -> &Source {
        &self.execution.sources.list[input.source]
    }

    fn read_input(&self, input: &TaskInput, offset: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        self.execution.stop_if_cancelled()?;
        self.execution.report_reads();
        Ok(self.source(input).checkpoint.read_at(&input.place, offset, buffer)?)
    }
}

struct Places<'a> {
    reading: Reading<'a>,
    shard: &'a ShardFile,
}

impl Places<'_> {
    fn copy(&self, from: &TaskInput, equal_to: &[TaskInput]) -> Result<(), ExecuteError> {
        let total = from.place.info.bytes;
        assert!(from.rows.is_none(), "rows that follow tokens are merged, never copied");
        let mut buffer = vec![0; COPY_BYTES.min(total) as usize];
        let mut other = vec![0; if equal_to.is_empty() { 0 } else { buffer.len() }];
        let mut at = 0;
        while at < total {
            let length = COPY_BYTES.min(total - at) as usize;
            self.reading.read_input(from, at, &mut buffer[..length])?;
            for input in equal_to {
                self.reading.read_input(input, at, &mut other[..length])?;
                if other[..length] != buffer[..length] {
                    return Err(ExecuteError::BuffersDiffer { tensor: self.reading.task.name.clone() });
                }
            }
            self.write_bytes(at, &buffer[..length])?;
            at += length as u64;
        }
        Ok(())
    }

    fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.shard.write_at(self.reading.task.start + offset, bytes)?;
        self.reading.execution.add_bytes(bytes.len() as u64);
        Ok(())
    }
}

fn width(dtype: Dtype) -> u64 {
    dtype.bitsize() as u64 / 8
}

impl TensorInputs for Reading<'_> {
    fn count(&self) -> usize {
        self.task.inputs.len()
    }

    fn elements(&self) -> u64 {
        self.task.parameters.elements()
    }

    fn dtype(&self, input: usize) -> Dtype {
        let input = &self.task.inputs[input];
        // gathered rows may come from models of several dtypes, and what an adapter adds is not rounded
        if input.rows.is_some() || self.source(input).adapts(&input.place) {
            Dtype::F32
        } else {
            input.place.info.dtype
        }
    }

    fn read(&self, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        let input = &self.task.inputs[input];
        if let Some(rows) = &input.rows {
            self.execution.stop_if_cancelled()?;
            return rows.read(self.execution.sources, at, buffer);
        }
        let source = self.source(input);
        if let Some(applied) = source.applied.as_ref().filter(|applied| applied.concerns(&input.place)) {
            self.execution.stop_if_cancelled()?;
            return applied.read(&source.checkpoint, &input.place, at, buffer).map(drop);
        }
        self.read_input(input, at * width(input.place.info.dtype), buffer)
    }
}

impl TensorOutput for Places<'_> {
    fn dtype(&self) -> Dtype {
        self.reading.task.dtype
    }

    fn not_finite(&self, element: u64) -> Result<(), ExecuteError> {
        if self.reading.execution.plan.allow_non_finite {
            return Ok(());
        }
        Err(ExecuteError::NotFinite {
            tensor: self.reading.task.name.clone(),
            element,
            dtype: format!("{:?}", self.reading.task.dtype),
        })
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.write_bytes(at * width(self.reading.task.dtype), bytes)
    }
}
