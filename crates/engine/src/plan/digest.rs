//! What names a plan: equal digests mean equal bytes.

use checkpoint::Digester;
use serde_json::{Value, json};

use super::{Plan, Product};
use crate::Sources;
use crate::lora::Applied;

/// Rises with every change of the last bit of any result, so that no merge is begun by one arithmetic and ended by another.
const ARITHMETIC: u32 = 2;

/// The seed of a recipe that names none.
pub(super) fn seed_of(recipe: &Value) -> u64 {
    let digest = checkpoint::digest_bytes(recipe.to_string().as_bytes());
    u64::from_str_radix(&digest[..16], 16).expect("16 hex digits are a u64") >> 11
}

pub(super) fn digest(plan: &Plan, sources: &Sources) -> String {
    let files = |s: &crate::Source| -> Vec<Value> {
        s.checkpoint
            .files
            .iter()
            .map(|f| json!([f.name, f.bytes, f.header_digest, f.modified_ns.to_string()]))
            .collect()
    };
    // what a stage will have written says its plan; its files have no time yet
    let source = |s: &crate::Source| s.stage.as_ref().map_or_else(|| files(s), |stage| vec![json!(stage.plan_digest)]);
    // where no config of a model is made, what configs say decides the adapter
    let config = |s: &crate::Source| checkpoint::digest_bytes(s.checkpoint.config.to_string().as_bytes());
    let configs: Vec<String> =
        if matches!(plan.product, Product::Model) { Vec::new() } else { sources.iter().map(config).collect() };
    let mut identity = json!({
        "engine": crate::VERSION,
        "arithmetic": ARITHMETIC,
        "method": plan.about.name,
        "seed": plan.seed,
        "recipe": plan.recipe,
        "sources": sources.iter().map(source).collect::<Vec<_>>(),
        "adapters": sources.iter().map(|s| s.applied.as_ref().map(Applied::identity)).collect::<Vec<_>>(),
        "shards": plan.shards.iter().map(|s| json!([s.file_name, s.bytes])).collect::<Vec<_>>(),
        "config": plan.config,
        "configs": configs,
        "made": plan.made.iter().map(|f| json!([f.name, checkpoint::digest_bytes(&f.content)])).collect::<Vec<_>>(),
        "tokenizers": plan.tokenizer_digests,
        "carried": crate::artifact::carried_identity(plan, sources),
    });
    if !plan.code_left_out.is_empty() {
        // the manifest has it
        identity["code_left_out"] = json!(plan.code_left_out);
    }
    let mut digester = Digester::default();
    digester.update(identity.to_string().as_bytes());
    // one by one: a document of them all would be larger than the plan
    for t in &plan.tasks {
        let inputs: Vec<_> = t.inputs.iter().map(|i| (i.source, &i.name)).collect();
        let task = (&t.name, t.dtype, inputs, &t.parameters);
        serde_json::to_writer(&mut digester, &task).expect("names and numbers are JSON, and a digester takes all");
    }
    digester.finish()
}
