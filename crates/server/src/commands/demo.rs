//! `amalgam demo`: the main job from end to end, through our own HTTP API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use client::Client;
use serde_json::Value;

use super::serve::Server;
use super::watch;
use crate::cli::DemoArgs;
use crate::config::{Config, ConfigArgs};
use crate::report::Failure;
use crate::size::Bytes;

pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let root = find_examples(&args.recipe)?;
    let recipe = root.join(&args.recipe);
    let text = super::read_recipe(&recipe)?;
    let config = quiet(args.config, &root).resolve()?;
    let _sending = super::start_logging(&config)?;
    let server = start(config).await?;
    println!("amalgam serves on {}\n", server.url);
    println!("submitting {}:\n\n{}\n", args.recipe.display(), indented(&text));
    let merged = merge(&server.url, text).await;
    match merged {
        Ok(job) => tell(&server.url, &args.recipe, &job),
        Err(failure) => {
            server.stop().await?;
            return Err(failure);
        }
    }
    if !args.once {
        println!("\nserving on {} until Ctrl-C", server.url);
        super::asked_to_stop().await;
    }
    server.stop().await
}

/// The directory that recipes' paths are relative to: this one, or the repository that the binary was built from.
fn find_examples(recipe: &Path) -> Result<PathBuf, Failure> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places = [PathBuf::from("."), built_from];
    places.into_iter().find(|root| root.join(recipe).is_file()).ok_or_else(|| {
        Failure::refused(format!("{} is not here; run the demo in the repository's root", recipe.display()))
    })
}

/// The demo shows what it does itself, so the log keeps to warnings unless asked for more.
fn quiet(mut config: ConfigArgs, root: &Path) -> ConfigArgs {
    config.values.log.get_or_insert_with(|| "warn".to_owned());
    if config.values.source_root.is_empty() {
        config.values.source_root.push(root.to_owned());
    }
    config.values.workers.get_or_insert(1);
    config
}

/// On the address of the settings, or where that is taken on any free port of loopback.
async fn start(config: Config) -> Result<Server, Failure> {
    let taken = tokio::net::TcpListener::bind(config.listen).await.is_err();
    if taken {
        eprintln!("{} is taken; using a free port", config.listen);
        return Server::start(Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config }).await;
    }
    Server::start(config).await
}

struct Merged {
    job: Value,
    seconds: f64,
}

async fn merge(url: &str, recipe: String) -> Result<Merged, Failure> {
    let client = Client::new(url)?;
    let started = Instant::now();
    let job = client.submit(recipe, &[]).await?;
    let id = job["id"].as_str().unwrap_or_default();
    println!("job {id}");
    let job = watch::to_the_end(&client, id, false).await?;
    let seconds = started.elapsed().as_secs_f64();
    match job["status"].as_str() {
        Some("succeeded") => Ok(Merged { job, seconds }),
        _ => Err(Failure::failed(format!("the job did not succeed: {}", job["error"]["message"]))),
    }
}

fn tell(url: &str, recipe: &Path, merged: &Merged) {
    let publication = &merged.job["publication"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = text(&merged.job["id"]);
    println!("\nmerged model  {}", text(&publication["uri"]).trim_start_matches("file://"));
    println!("size          {}", Bytes(publication["bytes"].as_u64().unwrap_or(0)));
    println!("time          {:.2} s from submit to published", merged.seconds);
    println!("files");
    for file in publication["files"].as_array().into_iter().flatten() {
        println!("  {:28} {:>9} B  sha256 {}", text(&file["path"]), file["bytes"], text(&file["sha256"]));
    }
    println!("\nthe same by hand:");
    println!("  curl -sS -H 'Content-Type: application/yaml' --data-binary @{} {url}/v1/jobs", recipe.display());
    println!("  curl -sS {url}/v1/jobs/{id}");
    println!("  curl -sSN -H 'Accept: text/event-stream' {url}/v1/jobs/{id}/events");
}

fn indented(text: &str) -> String {
    let shown = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("    {line}"));
    shown.collect::<Vec<_>>().join("\n")
}
