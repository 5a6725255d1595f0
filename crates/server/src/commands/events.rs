//! `amalgam events`: what happens to all jobs, as it happens.

use client::StreamEvent;
use serde_json::json;

use crate::cli::EventsArgs;
use crate::report::Failure;

pub async fn run(args: EventsArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let mut follow = client.follow(args.after.as_deref());
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let event = follow.next().await.map_err(|error| Failure::client(error, args.server.json))?;
        if event.kind == "reset" {
            eprintln!("events before this are no longer kept");
        }
        if args.server.json {
            println!("{}", json!({"event": event.kind, "id": event.id, "data": event.data}));
        } else if is_stored(&event) {
            println!("{}", line(&event));
        }
        left -= u64::from(is_stored(&event));
    }
    Ok(())
}

/// Of a job's log; not how things stand, or how far they are.
fn is_stored(event: &StreamEvent) -> bool {
    event.id.is_some() && !matches!(event.kind.as_str(), "snapshot" | "reset")
}

fn line(event: &StreamEvent) -> String {
    let text = |key: &str| event.data[key].as_str().unwrap_or_default();
    let id = event.id.as_deref().unwrap_or_default();
    format!("{id:>8}  {}  {:16} {}", text("job_id"), event.kind, text("message")).trim_end().to_owned()
}
