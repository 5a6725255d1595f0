//! Adapters merged with each other, module by module on all threads.

use std::path::Path;

use adapter::Matrix;
use rayon::prelude::*;
use serde_json::json;

use super::adapter_files::{Draft, complete};
use super::{ExecuteError, Execution};
use crate::artifact::Artifact;
use crate::lora::mixing::{Part, Side, mix};
use crate::lora::peft::Made;
use crate::lora::read_all;
use crate::philox::Stream;
use crate::plan::{MixedModule, Mixture, TaskInput};

pub(super) fn run(
    execution: &Execution<'_>,
    mixture: &Mixture,
    recipe_text: &str,
    dir: &Path,
) -> Result<Artifact, ExecuteError> {
    let mut draft = Draft::create(execution, dir)?;
    for module in &mixture.modules {
        for task in [module.a, module.b] {
            draft.set_shape(task, execution.plan.tasks[task].parameters.shape.clone());
        }
    }
    mixture.modules.par_iter().with_max_len(1).try_for_each(|module| merge(execution, mixture, module, &draft))?;
    let made = Made {
        base_model: mixture.base_model.clone(),
        task_type: mixture.task_type.clone(),
        fan_in_fan_out: mixture.fan_in_fan_out,
        ranks: mixture.modules.iter().map(|module| (module.name.clone(), module.rank)).collect(),
        ..Made::default()
    };
    complete(execution, draft, &made, json!({"modules": mixture.modules.len()}), recipe_text, dir)
}

fn merge(
    execution: &Execution<'_>,
    mixture: &Mixture,
    module: &MixedModule,
    draft: &Draft,
) -> Result<(), ExecuteError> {
    let plan = execution.plan;
    let (a, b) = (&plan.tasks[module.a], &plan.tasks[module.b]);
    let parts: Result<Vec<Part>, ExecuteError> = (0..module.shares.len())
        .map(|i| {
            let share = module.shares[i];
            let (a, b) = (factor(execution, &a.inputs[i])?, factor(execution, &b.inputs[i])?);
            Ok(Part { a, b, weight: share.weight, scale: share.scale, density: share.density })
        })
        .collect();
    let draws = |side: Side, input: usize| {
        let task = if side == Side::A { a } else { b };
        Stream::new(plan.seed, &task.name, task.inputs[input].source as u32)
    };
    let unmergeable = |error: adapter::AdapterError| ExecuteError::Unmergeable {
        tensor: module.name.clone(),
        reason: error.to_string(),
    };
    let (of_a, of_b) = mix(mixture.mixing, &parts?, module.options, &draws).map_err(unmergeable)?;
    draft.write(execution, module.a, &of_a.values)?;
    draft.write(execution, module.b, &of_b.values)?;
    execution.finished(&[a, b]);
    Ok(())
}

fn factor(execution: &Execution<'_>, input: &TaskInput) -> Result<Matrix, ExecuteError> {
    execution.stop_if_cancelled()?;
    let values = read_all(&execution.sources.list[input.source].checkpoint, &input.place)?;
    let shape = &input.place.info.shape;
    if values.iter().any(|value| !value.is_finite()) {
        let reason = "it has values that are not finite".to_owned();
        return Err(ExecuteError::Unmergeable { tensor: input.name.clone(), reason });
    }
    Ok(Matrix::new(shape[0] as usize, shape[1] as usize, values))
}
