//! `amalgam plan`: a dry run that reads headers only.

use checkpoint::Access;
use engine::{PlanSummary, Settings, StagedPlan};
use recipe::{Refusal, Stages};

use crate::cli::PlanArgs;
use crate::report::{Failure, warn};
use crate::size::Bytes;

pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let planned = plan(&text, args.reading.lenient, &args.merge.settings());
    let plan = planned.map_err(|refusal| Failure::recipe(&args.recipe, &refusal, args.reading.json))?;
    let summary = plan.summary(args.tensors);
    warn(&args.recipe, &summary.warnings);
    if args.reading.json {
        println!("{}", serde_json::to_string(&summary).map_err(Failure::failed)?);
    } else {
        print(&summary);
    }
    Ok(())
}

/// Plans with any models of this machine: the caller reads with its own rights.
pub fn plan(text: &str, lenient: bool, settings: &Settings) -> Result<StagedPlan, Refusal> {
    engine::open_and_plan_stages(Stages::parse(text, lenient)?, &Access::Anywhere, settings)
}

fn print(summary: &PlanSummary) {
    for stage in &summary.stages {
        let name = stage.name.as_deref().unwrap_or("result");
        let kept = if stage.kept { "kept" } else { "removed after use" };
        let models = stage.models.join(", ");
        println!(
            "stage       {name}: {} of {models}, {} tensors, {}, {kept}",
            stage.method,
            stage.tensors,
            Bytes(stage.bytes)
        );
    }
    println!("method      {}", summary.method);
    println!("models      {}", summary.models.join(", "));
    println!("tensors     {} with {} parameters", summary.tensors, summary.parameters);
    println!("reads       {}", Bytes(summary.input_bytes));
    println!("writes      {} in {} shards", Bytes(summary.output_bytes), summary.shards.len());
    println!("memory      {} of buffers", Bytes(summary.memory_bytes));
    println!("disk        {} free space needed", Bytes(summary.disk_bytes));
    println!("plan digest {}", summary.digest);
    for task in summary.tensor_tasks.iter().flatten() {
        let parameters = serde_json::to_string(&task.parameters).unwrap_or_default();
        println!("{} {} {} <- {} {parameters}", task.work, task.dtype, task.name, task.inputs.join(", "));
    }
}
