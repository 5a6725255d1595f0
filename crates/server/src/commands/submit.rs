//! `amalgam submit`: a recipe to a server, as a job, or with variants as a group.

use client::{Client, ClientError};
use serde_json::Value;

use super::interrupt::Interrupt;
use super::{groups, watch};
use crate::cli::SubmitArgs;
use crate::report::Failure;

pub async fn run(mut args: SubmitArgs) -> Result<(), Failure> {
    let as_json = args.server.json;
    let text = super::read_recipe(&args.recipe).map_err(|failure| failure.in_json(as_json))?;
    let client = args.server.client()?;
    let key = args.idempotency_key.take().unwrap_or_else(client::new_key);
    let mut interrupt = Interrupt::listen()?;
    let made = tokio::select! {
        made = submit(&client, &key, text, &args) => made.map_err(|e| Failure::client(e, as_json))?,
        signal = interrupt.came() => {
            let how = format!("the same command with --idempotency-key {key} finds it");
            return Err(Failure::interrupted(signal, format!("interrupted; the server may have the job: {how}")));
        }
    };
    for warning in made["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", warning["detail"].as_str().unwrap_or_default());
    }
    let id = groups::text(&made["id"]);
    match (as_json, groups::is_group(&id)) {
        (true, _) => println!("{made}"),
        (false, true) => println!("{}", groups::listed(&made)),
        (false, false) => println!("{id}"),
    }
    if args.wait.is_some() {
        return ended(&made);
    }
    if !args.watch {
        return Ok(());
    }
    let followed = watch::follow_any(&client, &id, as_json);
    let watched = interrupt.or_end(&client, &id, args.cancel_on_interrupt, followed).await;
    // a key may submit and not look
    watched.map_err(|failure| match failure.is_refusal() {
        true => failure.and(format!("{id} is submitted and goes on, but cannot be watched")),
        false => failure,
    })
}

async fn submit(client: &Client, key: &str, recipe: String, args: &SubmitArgs) -> Result<Value, ClientError> {
    let query = query(args);
    match args.wait {
        Some(seconds) => client.submit_and_wait(key, recipe, &query, seconds).await,
        None => client.submit_as(key, recipe, &query).await,
    }
}

fn query(args: &SubmitArgs) -> Vec<(&'static str, String)> {
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let single = [
        ("output", args.output.clone()),
        ("webhook", args.webhook.clone()),
        ("run_at", args.run_at.clone()),
        ("priority", args.priority.map(|priority| priority.to_string())),
        ("max_attempts", number(args.max_attempts.map(u64::from))),
        ("timeout_seconds", number(args.timeout)),
        ("queue_ttl_seconds", number(args.queue_ttl)),
        ("lenient", args.lenient.then(|| "true".to_owned())),
        ("reuse", args.reuse.then(|| "true".to_owned())),
    ];
    let mut query: Vec<_> = single.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    for (key, values) in [("label", &args.label), ("metadata", &args.metadata), ("worker_label", &args.worker_label)] {
        query.extend(values.iter().map(|value| (key, value.clone())));
    }
    query
}

/// How a job that was waited for stands.
fn ended(made: &Value) -> Result<(), Failure> {
    let (id, status) = (groups::text(&made["id"]), groups::text(&made["status"]));
    match status.as_str() {
        "failed" | "cancelled" => {
            let reason = made["error"]["message"].as_str().map_or(String::new(), |reason| format!(": {reason}"));
            Err(Failure::failed(format!("{id} {status}{reason}")))
        }
        "succeeded" => Ok(()),
        going_on => {
            eprintln!("{id} is {going_on}; `amalgam watch {id}` follows it");
            Ok(())
        }
    }
}
