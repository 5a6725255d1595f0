//! `amalgam delete`: a job that is over is forgotten, with or without what it has made.

use serde_json::json;

use crate::cli::DeleteArgs;
use crate::report::Failure;

pub async fn run(args: DeleteArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let deleted = match args.artifacts {
        true => client.delete_with_artifacts(&args.job).await,
        false => client.delete(&args.job).await,
    };
    deleted.map_err(|error| Failure::client(error, args.server.json))?;
    if args.server.json {
        println!("{}", json!({"id": args.job, "deleted": true, "artifacts": args.artifacts}));
    } else {
        println!("deleted");
    }
    Ok(())
}
