//! One file for each command.

pub mod artifacts;
pub mod backup;
pub mod cancel;
pub mod check;
pub mod convert;
pub mod delete;
pub mod demo;
pub mod events;
mod groups;
mod interrupt;
pub mod jobs;
pub mod keys;
pub mod logs;
pub mod merge;
mod metrics;
pub mod plan;
pub mod retry;
pub mod serve;
pub mod submit;
mod telemetry;
pub mod watch;
pub mod worker;

use std::io::{IsTerminal, Read};
use std::path::Path;

use recipe::{Draft, Variant};
use tracing_subscriber::Layer;

use crate::cli::ReadingArgs;
use crate::config::{Config, LogFormat};
use crate::report::Failure;

/// The text of a recipe file, or of standard input for `-`.
fn read_recipe(path: &Path) -> Result<String, Failure> {
    let refused = |error: std::io::Error| Failure::refused(format!("{}: {error}", path.display()));
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(refused)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(refused)
}

/// The merges of a recipe: itself, its variants, or the one variant that is asked for.
fn merges(file: &Path, text: &str, reading: &ReadingArgs) -> Result<Vec<Variant>, Failure> {
    let mut merges = Draft::from_yaml(text)
        .and_then(Draft::variants)
        .map_err(|refusal| Failure::recipe(file, &refusal, reading.json))?;
    let Some(wanted) = reading.variant.as_deref() else { return Ok(merges) };
    let known = names(&merges);
    merges.retain(|merge| merge.name() == Some(wanted));
    match (merges.is_empty(), known.is_empty()) {
        (false, _) => Ok(merges),
        (true, false) => {
            Err(Failure::refused(format!("{} has no variant {wanted:?}; there are {known}", file.display())))
        }
        (true, true) => Err(Failure::refused(format!("{} has no variants", file.display()))),
    }
}

fn names(merges: &[Variant]) -> String {
    merges.iter().filter_map(Variant::name).collect::<Vec<_>>().join(", ")
}

/// What is given is to be kept until the process ends: spans are sent as long.
fn start_logging(config: &Config) -> Result<telemetry::Sending, Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .map_err(|e| Failure::refused(format!("log {:?}: {e}", config.log)))?;
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match config.log_format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    telemetry::start(config.otlp_endpoint.as_deref(), lines)
}

/// Ends when the process is asked to: SIGINT or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
