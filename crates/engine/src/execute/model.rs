//! Statistics over the whole model: its tensors read as one long vector.

use std::collections::HashMap;

use checkpoint::Dtype;

use super::tensor::{Reading, reduce};
use super::{ExecuteError, Execution};
use crate::backend::{Backend, TensorInputs};
use crate::convert;
use crate::statistic::Reduced;

pub(super) struct OverModel<'a> {
    known: Vec<Reduced>,
    /// Where each tensor begins.
    offsets: HashMap<&'a str, u64>,
}

impl OverModel<'_> {
    pub fn of(&self, tensor: &str) -> Option<(&[Reduced], u64)> {
        Some((&self.known, *self.offsets.get(tensor)?))
    }
}

/// `None` where the plan asks for none.
pub(super) fn statistics<'a>(
    execution: &'a Execution<'_>,
    backend: &dyn Backend,
) -> Result<Option<OverModel<'a>>, ExecuteError> {
    let Some(wanted) = &execution.plan.over_model else { return Ok(None) };
    let mut model = Model { parts: Vec::new(), elements: 0 };
    let mut offsets = HashMap::new();
    for task in wanted.tasks.iter().map(|i| &execution.plan.tasks[*i]) {
        offsets.insert(task.name.as_str(), model.elements);
        model.parts.push((model.elements, Reading { execution, task }));
        model.elements += task.parameters.elements();
    }
    Ok(Some(OverModel { known: reduce(backend, wanted.merge.as_ref(), &model)?, offsets }))
}

struct Model<'a> {
    /// Tensors with the element at which each begins.
    parts: Vec<(u64, Reading<'a>)>,
    elements: u64,
}

impl TensorInputs for Model<'_> {
    fn count(&self) -> usize {
        self.parts[0].1.count()
    }

    fn elements(&self) -> u64 {
        self.elements
    }

    /// Tensors may have different dtypes, so all are read as f32.
    fn dtype(&self, _: usize) -> Dtype {
        Dtype::F32
    }

    fn read(&self, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        let end = at + buffer.len() as u64 / 4;
        let first = self.parts.partition_point(|(start, _)| *start <= at) - 1;
        for (start, part) in &self.parts[first..] {
            if *start >= end {
                break;
            }
            let (from, to) = (at.max(*start), end.min(start + part.elements()));
            let piece = &mut buffer[(from - at) as usize * 4..(to - at) as usize * 4];
            read_f32(part, input, from - start, piece)?;
        }
        Ok(())
    }
}

pub(super) fn read_f32(part: &Reading<'_>, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
    let dtype = part.dtype(input);
    if dtype == Dtype::F32 {
        return part.read(input, at, buffer);
    }
    let length = buffer.len() / 4;
    let mut raw = vec![0; length * dtype.bitsize() / 8];
    part.read(input, at, &mut raw)?;
    let mut values = vec![0.0; length];
    convert::to_f32(dtype, &raw, &mut values);
    convert::from_f32(Dtype::F32, &values, buffer);
    Ok(())
}
