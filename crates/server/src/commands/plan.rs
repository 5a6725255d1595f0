//! `amalgam plan`: a dry run that reads headers only.

use checkpoint::Access;
use engine::{PlanSummary, Settings, StagedPlan};
use recipe::{Problem, Refusal, Variant, with_each};
use serde_json::{Map, Value, json};

use super::groups::{self, text};
use crate::cli::PlanArgs;
use crate::config::cached_digests;
use crate::report::{Failure, warn};
use crate::size::Bytes;

pub async fn run(args: &PlanArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    if args.remote {
        return by_server(args, text).await;
    }
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
        (false, ..) => merges.iter().zip(&summaries).for_each(|(merge, summary)| {
            print(merge.name().map(|name| (name, Value::Object(merge.settings()))), &json!(summary));
        }),
    }
    Ok(())
}

/// Plans with what the server has.
async fn by_server(args: &PlanArgs, text: String) -> Result<(), Failure> {
    let as_json = args.reading.json;
    let client = args.server.client(as_json)?;
    let flags = [("tensors", args.tensors), ("lenient", args.reading.lenient)];
    let query: Vec<_> = flags.into_iter().filter(|(_, set)| *set).map(|(key, _)| (key, "true".to_owned())).collect();
    let plan = client.plan(text, &query).await.map_err(|error| Failure::client(error, as_json))?;
    for warning in plan["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", warning["detail"].as_str().unwrap_or_default());
    }
    match (as_json, plan["data"].as_array()) {
        (true, _) => println!("{plan}"),
        (false, None) => print(None, &plan),
        (false, Some(plans)) => plans.iter().for_each(|one| {
            print(Some((&groups::text(&one["variant"]), one["parameters"].clone())), &one["plan"]);
        }),
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

fn print(variant: Option<(&str, Value)>, plan: &Value) {
    if let Some((name, settings)) = variant {
        println!("variant     {name} {settings}");
    }
    let bytes = |value: &Value| Bytes(value.as_u64().unwrap_or_default());
    for stage in list_of(plan, "stages") {
        let name = stage["name"].as_str().unwrap_or("result");
        let kept = if stage["kept"] == true { "kept" } else { "removed after use" };
        println!(
            "stage       {name}: {} of {}, {} tensors, {}, {kept}",
            text(&stage["method"]),
            words(stage, "models"),
            stage["tensors"],
            bytes(&stage["bytes"])
        );
    }
    println!("method      {}", text(&plan["method"]));
    for input in list_of(plan, "inputs") {
        println!(
            "model       {}: {} of {} read",
            text(&input["model"]),
            bytes(&input["read_bytes"]),
            bytes(&input["bytes"])
        );
        if let Some(first) = list_of(input, "unused").first() {
            println!("  unused    {} tensors, {} the first", input["unused_tensors"], text(first));
        }
    }
    println!("tensors     {} with {} parameters", plan["tensors"], plan["parameters"]);
    println!("reads       {}", bytes(&plan["input_bytes"]));
    println!("writes      {} in {} shards", bytes(&plan["output_bytes"]), list_of(plan, "shards").len());
    println!("memory      {} of buffers", bytes(&plan["memory_bytes"]));
    println!("disk        {} free space needed", bytes(&plan["disk_bytes"]));
    println!("plan digest {}", text(&plan["digest"]));
    list_of(plan, "tensor_tasks").iter().for_each(print_task);
}

/// What is not said by name are its parameters.
fn print_task(task: &Value) {
    let said = ["work", "dtype", "name", "inputs"];
    let pairs = task.as_object().into_iter().flatten().filter(|(key, _)| !said.contains(&key.as_str()));
    let parameters: Map<String, Value> = pairs.map(|(key, value)| (key.clone(), value.clone())).collect();
    println!(
        "{} {} {} <- {} {}",
        text(&task["work"]),
        text(&task["dtype"]),
        text(&task["name"]),
        words(task, "inputs"),
        Value::Object(parameters)
    );
}

fn list_of<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn words(value: &Value, key: &str) -> String {
    list_of(value, key).iter().map(text).collect::<Vec<_>>().join(", ")
}
