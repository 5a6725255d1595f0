//! `amalgam plan`: a dry run that reads headers only.

use checkpoint::Access;
use engine::{Plan, PlanSummary, Settings, Sources};
use recipe::{Recipe, Refusal};

use crate::cli::PlanArgs;
use crate::report::{Failure, warn};
use crate::size::Bytes;

pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let planned = plan(&text, args.reading.lenient, &args.merge.settings());
    let (plan, _) = planned.map_err(|refusal| Failure::recipe(&args.recipe, &refusal, args.reading.json))?;
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
pub fn plan(text: &str, lenient: bool, settings: &Settings) -> Result<(Plan, Sources), Refusal> {
    let recipe = Recipe::parse(text, lenient)?;
    engine::open_and_plan(&recipe, &Access::Anywhere, settings)
}

fn print(summary: &PlanSummary) {
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
