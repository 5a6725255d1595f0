//! `amalgam submit`: a recipe to a server.

use client::Client;

use crate::cli::SubmitArgs;
use crate::report::Failure;

pub async fn run(args: SubmitArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let client = Client::new(&args.server.url)?;
    let mut query = Vec::new();
    if let Some(output) = args.output {
        query.push(("output", output));
    }
    if args.lenient {
        query.push(("lenient", "true".to_owned()));
    }
    let job = client.submit(text, &query).await.map_err(|e| Failure::client(e, args.server.json))?;
    for warning in job["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", warning["detail"].as_str().unwrap_or_default());
    }
    let id = job["id"].as_str().unwrap_or_default().to_owned();
    if args.server.json {
        println!("{job}");
    } else {
        println!("{id}");
    }
    if args.watch { super::watch::follow(&client, &id, args.server.json).await } else { Ok(()) }
}
