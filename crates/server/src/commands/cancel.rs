//! `amalgam cancel`: asks a job to end.

use super::interrupt::cancel;
use crate::cli::CancelArgs;
use crate::report::Failure;

pub async fn run(args: CancelArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let job = cancel(&client, &args.job).await.map_err(|e| Failure::client(e, args.server.json))?;
    if args.server.json {
        println!("{job}");
    } else {
        println!("{}", job["status"].as_str().unwrap_or_default());
    }
    Ok(())
}
