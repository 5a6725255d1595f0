//! One file for each command.

pub mod cancel;
pub mod check;
pub mod convert;
pub mod demo;
pub mod jobs;
pub mod merge;
pub mod plan;
pub mod serve;
pub mod submit;
pub mod watch;
pub mod worker;

use std::io::{IsTerminal, Read};
use std::path::Path;

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

fn start_logging(config: &Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .map_err(|e| Failure::refused(format!("log {:?}: {e}", config.log)))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
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
