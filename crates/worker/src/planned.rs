//! What the log says of a plan: one event for each stage, with its name where there are several.

use engine::PlannedStage;
use serde_json::{Value, json};

pub(crate) fn told(stage: &PlannedStage) -> (String, Value) {
    let summary = stage.plan.summary(false);
    let mut message = format!("{} tensors, {} bytes to write", summary.tensors, summary.output_bytes);
    let mut data = json!({
        "plan_digest": summary.digest, "tensors": summary.tensors, "parameters": summary.parameters,
        "output_bytes": summary.output_bytes, "shards": summary.shards.len(), "seed": summary.seed,
    });
    if let Some(name) = &stage.name {
        message = format!("stage {name}: {message}");
        data["stage"] = json!(name);
    }
    (message, data)
}
