//! `amalgam worker`: one more process on the same database.

use tokio_util::sync::CancellationToken;
use worker::WorkerConfig;

use super::serve::{close, open_store, worker_config};
use crate::cli::WorkerArgs;
use crate::report::Failure;

pub async fn run(args: WorkerArgs) -> Result<(), Failure> {
    let config = args.config.resolve()?;
    let _sending = super::start_logging(&config)?;
    let store = open_store(&config).await?;
    let name = args.name.map_or_else(|| Ok(host_name()), named)?;
    let shutdown = CancellationToken::new();
    let meter = super::metrics::new_meter();
    // it ends with the process
    super::metrics::start(&store, &config, meter.clone(), shutdown.clone()).await?;
    let worker_config = WorkerConfig { once: args.once, ..worker_config(&config, &name, &meter) };
    let mut worker = tokio::spawn(worker::run(store.clone(), worker_config, shutdown.clone()));
    tokio::select! {
        () = super::asked_to_stop() => {}
        // drained, or out of work
        ended = &mut worker => {
            let ended = ended.map_err(Failure::failed)?;
            close(&store).await;
            return ended.map_err(Failure::failed);
        }
    }
    tracing::info!("stopping");
    shutdown.cancel();
    let ended = worker.await.map_err(Failure::failed)?;
    close(&store).await;
    ended.map_err(Failure::failed)
}

/// It becomes the name of a file.
fn named(name: String) -> Result<String, Failure> {
    if is_name(&name) {
        return Ok(name);
    }
    Err(Failure::refused(format!("name {name:?}: use 1 to {NAME_MAX} letters, digits, `.`, `-` and `_`, no dot first")))
}

const NAME_MAX: usize = 64;

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.trim();
    if is_name(name) { name.to_owned() } else { "worker".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_file() {
        assert!(is_name("gpu-node_1.local") && is_name(&host_name()));
        for wrong in ["", "a/b", "../x", ".x", "a b", "a\0", &"x".repeat(65)] {
            assert!(named(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
