//! `amalgam jobs`: what a server has, newest first.

use serde_json::Value;

use crate::cli::JobsArgs;
use crate::report::Failure;

/// What a server gives at once.
const PAGE_MAX: u64 = 100;

pub async fn run(args: JobsArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let mut left = if args.all { u64::MAX } else { args.limit };
    let filter = filter(&args);
    let mut after = None;
    loop {
        let mut query = filter.clone();
        query.push(("limit", left.min(PAGE_MAX).to_string()));
        query.extend(after.map(|cursor| ("after", cursor)));
        let page = client.jobs(&query).await.map_err(|e| Failure::client(e, args.server.json))?;
        let jobs = page["data"].as_array().map_or(&[][..], Vec::as_slice);
        jobs.iter().for_each(|job| if args.server.json { println!("{job}") } else { println!("{}", line(job)) });
        left = left.saturating_sub(jobs.len() as u64);
        after = page["next_cursor"].as_str().map(str::to_owned);
        if after.is_none() || jobs.is_empty() {
            return Ok(());
        }
        if left == 0 {
            eprintln!("there are more; see --limit and --all");
            return Ok(());
        }
    }
}

fn filter(args: &JobsArgs) -> Vec<(&'static str, String)> {
    let single = [
        ("group", &args.group),
        ("method", &args.method),
        ("created_after", &args.created_after),
        ("created_before", &args.created_before),
    ];
    let mut query: Vec<_> = single.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
    query.extend(args.status.iter().map(|status| ("status", status.clone())));
    query.extend(args.label.iter().map(|label| ("label", label.clone())));
    query
}

fn line(job: &Value) -> String {
    let text = |key: &str| job[key].as_str().unwrap_or_default();
    let line = format!("{}  {:10} {:16} {}", text("id"), text("status"), text("method"), text("created_at"));
    format!("{line}  {}", text("variant")).trim_end().to_owned()
}
