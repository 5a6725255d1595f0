//! `amalgam worker`: one more process on the same database.

use tokio_util::sync::CancellationToken;
use worker::WorkerConfig;

use super::serve::{open_store, worker_config};
use crate::cli::WorkerArgs;
use crate::report::Failure;

pub async fn run(args: WorkerArgs) -> Result<(), Failure> {
    let config = args.config.resolve()?;
    super::start_logging(&config)?;
    let store = open_store(&config).await?;
    let name = args.name.unwrap_or_else(host_name);
    let shutdown = CancellationToken::new();
    let worker_config = WorkerConfig { once: args.once, ..worker_config(&config, &name) };
    let mut worker = tokio::spawn(worker::run(store.clone(), worker_config, shutdown.clone()));
    tokio::select! {
        () = super::asked_to_stop() => {}
        // drained, or out of work
        ended = &mut worker => {
            let ended = ended.map_err(Failure::failed)?;
            store.close().await;
            return ended.map_err(Failure::failed);
        }
    }
    tracing::info!("stopping");
    shutdown.cancel();
    let ended = worker.await.map_err(Failure::failed)?;
    store.close().await;
    ended.map_err(Failure::failed)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "worker".to_owned() } else { name.to_owned() }
}
