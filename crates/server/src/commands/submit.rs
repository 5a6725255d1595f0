//! `amalgam submit`: a recipe to a server, as a job, or with variants as a group.

use super::groups;
use crate::cli::SubmitArgs;
use crate::report::Failure;

pub async fn run(args: SubmitArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let client = args.server.client()?;
    let mut query = Vec::new();
    if let Some(output) = args.output {
        query.push(("output", output));
    }
    if let Some(webhook) = args.webhook {
        query.push(("webhook", webhook));
    }
    if args.lenient {
        query.push(("lenient", "true".to_owned()));
    }
    let made = client.submit(text, &query).await.map_err(|e| Failure::client(e, args.server.json))?;
    for warning in made["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", warning["detail"].as_str().unwrap_or_default());
    }
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    let is_group = groups::is_group(&id);
    match (args.server.json, is_group) {
        (true, _) => println!("{made}"),
        (false, true) => println!("{}", groups::listed(&made)),
        (false, false) => println!("{id}"),
    }
    match (args.watch, is_group) {
        (false, _) => Ok(()),
        (true, true) => groups::follow(&client, &id, args.server.json).await,
        (true, false) => super::watch::follow(&client, &id, args.server.json).await,
    }
}
