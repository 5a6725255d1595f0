//! `amalgam watch`: a job or a group to its end, with a bar; the exit code says how it ended.

use client::{Client, StreamEvent};
use serde_json::{Value, json};

use super::groups;
use super::interrupt::Interrupt;
use crate::bar::Bar;
use crate::cli::WatchArgs;
use crate::report::Failure;

pub async fn run(args: WatchArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let mut interrupt = Interrupt::listen()?;
    let follow = follow_any(&client, &args.job, args.server.json);
    interrupt.or_end(&client, &args.job, args.cancel_on_interrupt, follow).await
}

pub async fn follow_any(client: &Client, id: &str, as_json: bool) -> Result<(), Failure> {
    if groups::is_group(id) { groups::follow(client, id, as_json).await } else { follow(client, id, as_json).await }
}

async fn follow(client: &Client, id: &str, as_json: bool) -> Result<(), Failure> {
    let job = to_the_end(client, id, as_json).await?;
    match job["status"].as_str() {
        Some("succeeded") => {
            if !as_json {
                println!("{}", job["publication"]["uri"].as_str().unwrap_or_default());
            }
            Ok(())
        }
        Some("cancelled") => Err(Failure::failed(format!("job {id} was cancelled"))),
        status => Err(Failure::failed(format!("job {id} {}: {}", status.unwrap_or("ended"), reason(&job)))),
    }
}

fn reason(job: &Value) -> &str {
    job["error"]["message"].as_str().unwrap_or("no reason is recorded")
}

/// Shows events as they come and gives the job as it ended.
pub async fn to_the_end(client: &Client, id: &str, as_json: bool) -> Result<Value, Failure> {
    let mut watch = client.watch(id);
    let bar = Bar::new();
    let mut job = Value::Null;
    while let Some(event) = watch.next().await.map_err(|e| Failure::client(e, as_json))? {
        if as_json {
            println!("{}", json!({"event": event.kind, "data": event.data}));
        } else {
            show(&bar, &event);
        }
        if event.kind == "end" {
            job = event.data;
        }
    }
    bar.clear();
    Ok(job)
}

fn show(bar: &Bar, event: &StreamEvent) {
    match event.kind.as_str() {
        "snapshot" | "end" => {}
        "progress" => {
            let number = |key: &str| event.data[key].as_u64().unwrap_or(0);
            bar.set("merging", number("bytes_done"), number("bytes_total"));
        }
        kind => bar.line(&format!("{kind:16} {}", event.data["message"].as_str().unwrap_or_default())),
    }
}
