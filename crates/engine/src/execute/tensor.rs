//! One tensor task: from the inputs' places to the output's.

use checkpoint::{Dtype, ShardFile};

use super::{ExecuteError, Execution};
use crate::backend::{Backend, TensorInputs, TensorOutput};
use crate::methods::Merge;
use crate::plan::{TaskInput, TensorTask, Work};

/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

pub(super) fn merge(
    execution: &Execution<'_>,
    backend: &dyn Backend,
    task: &TensorTask,
    shard: &ShardFile,
) -> Result<(), ExecuteError> {
    let places = Places { execution, task, shard };
    match &task.work {
        Work::Copy(input) => places.copy(&task.inputs[*input], &[]),
        Work::CopyEqual => places.copy(&task.inputs[0], &task.inputs[1..]),
        Work::Merge(merge) => reduce_then_combine(backend, merge.as_ref(), &places),
    }
}

fn reduce_then_combine(backend: &dyn Backend, merge: &dyn Merge, places: &Places<'_>) -> Result<(), ExecuteError> {
    let mut known = Vec::new();
    while let Some(statistic) = merge.statistic(&known) {
        known.push(backend.reduce(&statistic, places)?);
    }
    backend.combine(merge.kernel(&known).as_ref(), places, places)
}

struct Places<'a> {
    execution: &'a Execution<'a>,
    task: &'a TensorTask,
    shard: &'a ShardFile,
}

impl Places<'_> {
    fn copy(&self, from: &TaskInput, equal_to: &[TaskInput]) -> Result<(), ExecuteError> {
        let total = from.place.info.bytes;
        let mut buffer = vec![0; COPY_BYTES.min(total) as usize];
        let mut other = vec![0; if equal_to.is_empty() { 0 } else { buffer.len() }];
        let mut at = 0;
        while at < total {
            let length = COPY_BYTES.min(total - at) as usize;
            self.read_input(from, at, &mut buffer[..length])?;
            for input in equal_to {
                self.read_input(input, at, &mut other[..length])?;
                if other[..length] != buffer[..length] {
                    return Err(ExecuteError::BuffersDiffer { tensor: self.task.name.clone() });
                }
            }
            self.write_bytes(at, &buffer[..length])?;
            at += length as u64;
        }
        Ok(())
    }

    fn read_input(&self, input: &TaskInput, offset: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        self.execution.stop_if_cancelled()?;
        Ok(self.execution.sources.list[input.source].checkpoint.read_at(&input.place, offset, buffer)?)
    }

    fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.shard.write_at(self.task.start + offset, bytes)?;
        self.execution.add_bytes(bytes.len() as u64);
        Ok(())
    }
}

fn width(dtype: Dtype) -> u64 {
    dtype.bitsize() as u64 / 8
}

impl TensorInputs for Places<'_> {
    fn count(&self) -> usize {
        self.task.inputs.len()
    }

    fn elements(&self) -> u64 {
        self.task.parameters.elements()
    }

    fn dtype(&self, input: usize) -> Dtype {
        let input = &self.task.inputs[input];
        // gathered rows may come from models of several dtypes
        if input.rows.is_some() { Dtype::F32 } else { input.place.info.dtype }
    }

    fn read(&self, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        let input = &self.task.inputs[input];
        if let Some(rows) = &input.rows {
            self.execution.stop_if_cancelled()?;
            return rows.read(self.execution.sources, at, buffer);
        }
        self.read_input(input, at * width(input.place.info.dtype), buffer)
    }
}

impl TensorOutput for Places<'_> {
    fn dtype(&self) -> Dtype {
        self.task.dtype
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ExecuteError> {
        self.write_bytes(at * width(self.task.dtype), bytes)
    }
}
