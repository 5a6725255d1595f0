//! `amalgam plan`: a dry run that reads headers only.

use checkpoint::Access;
use engine::{PlanSummary, Settings, StagedPlan};
use recipe::{Problem, Refusal, Variant, with_each};
use serde_json::{Value, json};

use crate::cli::PlanArgs;
use crate::config::cached_digests;
use crate::report::{Failure, warn};
use crate::size::Bytes;

pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let merges = super::merges(&args.recipe, &text, &args.reading)?;
    let planned = with_each(&merges, |merge| {
        let plan = plan(merge, args.reading.lenient, &args.merge.settings(cached_digests()))?;
        let summary = plan.summary(args.tensors);
        let warnings = summary.warnings.clone();
        Ok((summary, warnings))
    });
    let (summaries, warnings) =
        planned.map_err(|refusal| Failure::recipe(&args.recipe, &refusal, args.reading.json))?;
    warn(&args.recipe, &warnings);
    match (args.reading.json, &merges[..], &summaries[..]) {
        (true, [merge], [only]) if merge.name().is_none() => println!("{}", json!(only)),
        (true, ..) => println!("{}", list(&merges, &summaries, &warnings)),
        (false, ..) => merges.iter().zip(&summaries).for_each(|(merge, summary)| print(merge, summary)),
    }
    Ok(())
}

/// Plans with any models of this machine: the caller reads with its own rights.
pub fn plan(merge: &Variant, lenient: bool, settings: &Settings) -> Result<StagedPlan, Refusal> {
    let planned = engine::open_and_plan_stages(merge.stages(lenient)?, &Access::Anywhere, settings);
    let mut plan = planned.map_err(|refusal| merge.placed(refusal))?;
    plan.warnings = merge.all_placed(plan.warnings);
    Ok(plan)
}

/// As a server answers for a recipe with variants.
fn list(merges: &[Variant], summaries: &[PlanSummary], warnings: &[Problem]) -> Value {
    let one = |(merge, plan): (&Variant, &PlanSummary)| json!({"variant": merge.name(), "parameters": merge.settings(), "plan": plan});
    let data: Vec<Value> = merges.iter().zip(summaries).map(one).collect();
    json!({"object": "list", "data": data, "warnings": warnings})
}

fn print(merge: &Variant, summary: &PlanSummary) {
    if let Some(name) = merge.name() {
        println!("variant     {name} {}", Value::Object(merge.settings()));
    }
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
    for input in &summary.inputs {
        println!("model       {}: {} of {} read", input.model, Bytes(input.read_bytes), Bytes(input.bytes));
        if let Some(first) = input.unused.first() {
            println!("  unused    {} tensors, {first} the first", input.unused_tensors);
        }
    }
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
