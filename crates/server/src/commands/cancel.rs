//! `amalgam cancel`: asks a job to end.

use super::groups;
use crate::cli::CancelArgs;
use crate::report::Failure;

pub async fn run(args: CancelArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let cancelled = match groups::is_group(&args.job) {
        true => client.cancel_group(&args.job).await,
        false => client.cancel(&args.job).await,
    };
    let job = cancelled.map_err(|e| Failure::client(e, args.server.json))?;
    if args.server.json {
        println!("{job}");
    } else {
        println!("{}", job["status"].as_str().unwrap_or_default());
    }
    Ok(())
}
