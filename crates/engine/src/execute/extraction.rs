//! An extraction carried out: one module after the other, each on all threads.

use std::path::Path;

use adapter::Matrix;
use checkpoint::Dtype;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::adapter_files::{Draft, complete};
use super::model::read_f32;
use super::tensor::Reading;
use super::{ExecuteError, Execution};
use crate::artifact::Artifact;
use crate::convert;
use crate::lora::peft::{self, Made};
use crate::lora::spectrum;
use crate::philox::Stream;
use crate::plan::{Decompose, Extraction, Item, TensorTask, Whole};

/// Elements read at a time.
const CHUNK: usize = 1 << 16;

pub(super) fn run(
    execution: &Execution<'_>,
    extraction: &Extraction,
    recipe_text: &str,
    dir: &Path,
) -> Result<Artifact, ExecuteError> {
    let draft = Draft::create(execution, dir)?;
    let mut extracted = Extracted { execution, draft, captured: Map::new(), made: made(execution, extraction) };
    for item in &extraction.items {
        extracted.make(item)?;
    }
    extracted.save_modules_whole(&extraction.items);
    let about = json!({"captured": extracted.captured, "left_out": extraction.left_out});
    let Extracted { draft, made, .. } = extracted;
    complete(execution, draft, &made, about, recipe_text, dir)
}

fn made(execution: &Execution<'_>, extraction: &Extraction) -> Made {
    let donor = execution.plan.donor;
    Made {
        // what a stage makes, or a model with an adapter, is no place to load a base from
        base_model: execution.plan.base_name(&execution.sources.list[donor]),
        task_type: peft::task_type(&execution.sources.list[donor].checkpoint.config),
        fan_in_fan_out: extraction.fan_in_fan_out,
        others: extraction.others.clone(),
        ..Made::default()
    }
}

struct Extracted<'a> {
    execution: &'a Execution<'a>,
    draft: Draft,
    /// Rank and energy by module.
    captured: Map<String, Value>,
    made: Made,
}

impl Extracted<'_> {
    fn make(&mut self, item: &Item) -> Result<(), ExecuteError> {
        match item {
            Item::Decompose(decompose) => self.decompose(decompose),
            Item::Whole(whole) => {
                if self.save(whole)? || whole.always {
                    self.made.others.remove(&whole.module);
                    self.made.saved.insert(whole.module.clone());
                } else if !self.made.saved.contains(&whole.module) {
                    self.made.others.insert(whole.module.clone());
                }
                Ok(())
            }
            Item::Bias(bias) => {
                self.made.has_bias |= self.save(bias)?;
                Ok(())
            }
        }
    }

    /// PEFT takes a module that is saved with all of its tensors, and with it every one whose name ends alike: where one
    /// differs, those that do not go along.
    fn save_modules_whole(&mut self, items: &[Item]) {
        let saved = self.made.saved.clone();
        for item in items {
            if let Item::Whole(whole) = item
                && saved.iter().any(|module| whole.module.ends_with(module))
            {
                self.made.saved.insert(whole.module.clone());
                let shape = self.execution.plan.tasks[whole.task].parameters.shape.clone();
                self.made.others.remove(&whole.module);
                self.draft.set_shape(whole.task, shape);
            }
        }
    }

    fn decompose(&mut self, module: &Decompose) -> Result<(), ExecuteError> {
        let tasks = &self.execution.plan.tasks;
        let (a, b) = (&tasks[module.a], &tasks[module.b]);
        let difference = difference(&Reading { execution: self.execution, task: a })?;
        let stream = Stream::new(self.execution.plan.seed, &module.module, 0);
        let cut = spectrum::cut(&difference, module.rank, module.energy, &stream)
            .map_err(|error| unmergeable(a, error.to_string()))?;
        // A has the side that the module reads: the columns of a weight, the rows of one that lies turned
        let (of_a, of_b) = if module.turned { (&cut.left, &cut.right) } else { (&cut.right, &cut.left) };
        self.draft.write(self.execution, module.a, &of_a.transposed().values)?;
        self.draft.write(self.execution, module.b, &of_b.values)?;
        let rank = cut.left.columns as u64;
        self.draft.set_shape(module.a, vec![rank, a.parameters.shape[1]]);
        self.draft.set_shape(module.b, vec![b.parameters.shape[0], rank]);
        self.made.ranks.insert(module.module.clone(), rank);
        self.captured.insert(module.module.clone(), json!({"rank": rank, "energy": cut.energy}));
        self.execution.finished(&[a, b]);
        Ok(())
    }

    /// Whether the tensor differs from the base's; else it is left out.
    fn save(&mut self, whole: &Whole) -> Result<bool, ExecuteError> {
        let task = &self.execution.plan.tasks[whole.task];
        let reading = Reading { execution: self.execution, task };
        let elements = task.inputs[0].place.info.elements();
        let base = task.inputs.get(1).filter(|base| base.place.info.shape == task.inputs[0].place.info.shape);
        let mut differs = base.is_none();
        let mut values = vec![0.0; CHUNK];
        let mut other = vec![0.0; CHUNK];
        let mut at = 0;
        while at < elements {
            let length = CHUNK.min((elements - at) as usize);
            read(&reading, 0, at, &mut values[..length])?;
            if base.is_some() {
                read(&reading, 1, at, &mut other[..length])?;
                differs |= values[..length] != other[..length];
            }
            self.draft.write_at(whole.task, self.execution, at, &values[..length])?;
            at += length as u64;
        }
        if differs {
            self.draft.set_shape(whole.task, task.parameters.shape.clone());
        }
        self.execution.finished(&[task]);
        Ok(differs)
    }
}

fn unmergeable(task: &TensorTask, reason: String) -> ExecuteError {
    ExecuteError::Unmergeable { tensor: task.inputs[0].name.clone(), reason }
}

fn read(reading: &Reading<'_>, input: usize, at: u64, values: &mut [f32]) -> Result<(), ExecuteError> {
    let mut bytes = vec![0; values.len() * 4];
    read_f32(reading, input, at, &mut bytes)?;
    convert::to_f32(Dtype::F32, &bytes, values);
    Ok(())
}

/// The fine-tuned matrix less the base's.
fn difference(reading: &Reading<'_>) -> Result<Matrix, ExecuteError> {
    let info = &reading.task.inputs[0].place.info;
    let (rows, columns) = (info.shape[0] as usize, info.shape[1] as usize);
    let mut values = vec![0.0; info.elements() as usize];
    values.par_chunks_mut(CHUNK).enumerate().try_for_each(|(i, values)| {
        let at = (i * CHUNK) as u64;
        let mut base = vec![0.0; values.len()];
        read(reading, 0, at, values)?;
        read(reading, 1, at, &mut base)?;
        values.iter_mut().zip(&base).for_each(|(value, base)| *value -= base);
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(unmergeable(reading.task, "the difference has values that are not finite".to_owned())),
        }
    })?;
    Ok(Matrix::new(rows, columns, values))
}
