//! From a lease to a publication: where the phases of a job meet.
//!
//! Invariant: a worker that lost its lease publishes nothing and writes nothing more about the job.

mod alive;
mod heart;
mod planned;
mod rate;
mod run_job;
mod sweep;

use std::path::PathBuf;
use std::time::Duration;

use checkpoint::{Access, OutputRoots};
use jobs::{Store, WorkerId};
use tokio_util::sync::CancellationToken;

pub use run_job::JobError;

#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Begins the worker's id.
    pub name: String,
    pub access: Access,
    pub outputs: OutputRoots,
    /// Where jobs that name no output are published, each in a directory of its id.
    pub artifacts: PathBuf,
    /// Where workers on one machine show that they live.
    pub alive: PathBuf,
    /// Where merges are written before they are published.
    pub work: PathBuf,
    pub settings: engine::Settings,
    /// How long a lease lasts unless renewed.
    pub lease: Duration,
    /// How often progress is told, which renews the lease.
    pub heartbeat: Duration,
    /// How long to wait at most before looking for work again.
    pub poll: Duration,
}

/// The lease outlives many lost heartbeats, and a killed worker's job waits no longer than this.
pub const LEASE: Duration = Duration::from_secs(60);
pub const HEARTBEAT: Duration = Duration::from_secs(1);
pub const POLL: Duration = Duration::from_secs(2);

/// Runs jobs until `shutdown`; a job that is running then is given back to the queue.
pub async fn run(store: Store, config: WorkerConfig, shutdown: CancellationToken) {
    let worker = WorkerId::generate(&config.name);
    tracing::info!(worker = worker.as_str(), "worker started");
    let _alive = if store.is_sqlite() { show_alive(&store, &config, &worker).await } else { None };
    sweep::remove_finished_work(&store, &config.work).await;
    while !shutdown.is_cancelled() {
        if !run_next(&store, &config, &worker, &shutdown).await {
            tokio::select! {
                () = store.changed(config.poll) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
    tracing::info!(worker = worker.as_str(), "worker stopped");
}

/// First takes back what died before, then shows that this one lives.
async fn show_alive(store: &Store, config: &WorkerConfig, worker: &WorkerId) -> Option<alive::Alive> {
    alive::end_leases_of_the_dead(store, &config.alive).await;
    let held = alive::Alive::hold(&config.alive, worker);
    held.inspect_err(|error| tracing::warn!(%error, "cannot show that this worker lives; others wait for its leases"))
        .ok()
}

/// Claims and runs one job; false when there was none, or the database did not answer.
async fn run_next(store: &Store, config: &WorkerConfig, worker: &WorkerId, shutdown: &CancellationToken) -> bool {
    match store.rescue().await {
        Ok(0) => {}
        Ok(_) => sweep::remove_finished_work(store, &config.work).await,
        Err(error) => tracing::warn!(%error, "cannot look for lost jobs"),
    }
    match store.claim(worker, config.lease).await {
        Ok(Some(lease)) => {
            run_job::run_leased(store, config, lease, shutdown).await;
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(%error, "cannot claim a job");
            false
        }
    }
}
