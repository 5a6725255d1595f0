//! `amalgam jobs`: what a server has, newest first.

use serde_json::Value;

use crate::cli::JobsArgs;
use crate::report::Failure;

pub async fn run(args: JobsArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.status.into_iter().map(|status| ("status", status)));
    query.extend(args.group.into_iter().map(|group| ("group", group)));
    let page = client.jobs(&query).await.map_err(|e| Failure::client(e, args.server.json))?;
    let jobs = page["data"].as_array().cloned().unwrap_or_default();
    for job in &jobs {
        if args.server.json {
            println!("{job}");
        } else {
            println!("{}", line(job));
        }
    }
    if page["has_more"] == true && !args.server.json {
        eprintln!("there are more; see --limit");
    }
    Ok(())
}

fn line(job: &Value) -> String {
    let text = |key: &str| job[key].as_str().unwrap_or_default();
    let line = format!("{}  {:10} {:16} {}", text("id"), text("status"), text("method"), text("created_at"));
    format!("{line}  {}", text("variant")).trim_end().to_owned()
}
