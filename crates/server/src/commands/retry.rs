//! `amalgam retry`: a job that is over, once more.

use crate::cli::RetryArgs;
use crate::report::Failure;

pub async fn run(args: RetryArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let key = args.idempotency_key.unwrap_or_else(client::new_key);
    let query: Vec<_> = args.output.into_iter().map(|output| ("output", output)).collect();
    let retried = client.retry_as(&key, &args.job, &query).await;
    let job = retried.map_err(|error| Failure::client(error, args.server.json))?;
    if args.server.json {
        println!("{job}");
    } else {
        println!("{}", job["id"].as_str().unwrap_or_default());
    }
    Ok(())
}
