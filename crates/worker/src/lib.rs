//! From a lease to a publication: where the phases of a job meet.
//!
//! Invariant: a worker that lost its lease publishes nothing and writes nothing more about the job.

mod alive;
mod heart;
mod planned;
mod rate;
mod run_job;
mod sweep;
mod teller;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::{Access, OutputRoots};
use jobs::{Capacity, Lease, Limits, Requirements, Retention, Store, WorkerId};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
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
    /// Jobs run at once, as far as `memory` goes.
    pub slots: usize,
    /// Memory for all jobs that run at once; without limit where absent.
    pub memory: Option<u64>,
    /// What jobs may ask of their worker.
    pub labels: BTreeSet<String>,
    pub limits: Limits,
    /// A job that makes no progress for so long is stopped and tried again.
    pub stall: Duration,
    /// How long a run that was told to stop may take for it before it is left to itself.
    pub grace: Duration,
    /// Ends when there is nothing to do.
    pub once: bool,
    pub retention: Retention,
}

/// The lease outlives many lost heartbeats, and a killed worker's job waits no longer than this.
pub const LEASE: Duration = Duration::from_secs(60);
pub const HEARTBEAT: Duration = Duration::from_secs(1);
pub const POLL: Duration = Duration::from_secs(2);
pub const STALL: Duration = Duration::from_secs(30 * 60);
pub const GRACE: Duration = Duration::from_secs(30);

/// How often a worker says that it lives, and looks whether it is to drain.
const REPORT: Duration = Duration::from_secs(10);
/// A worker that was not heard of for so long is listed no more.
pub const SILENT: Duration = Duration::from_secs(60);
/// How often what is over for long is forgotten.
const PRUNE: Duration = Duration::from_secs(15 * 60);

/// Runs jobs until `shutdown`; jobs that are running then are given back to the queue. A worker that is asked to drain ends
/// when its jobs have.
pub async fn run(store: Store, config: WorkerConfig, shutdown: CancellationToken) {
    let worker = WorkerId::generate(&config.name);
    tracing::info!(worker = worker.as_str(), "worker started");
    let _alive = if store.is_sqlite() { show_alive(&store, &config, &worker).await } else { None };
    sweep::remove_finished_work(&store, &config.work).await;
    let worker = Worker { store, config: Arc::new(config), id: worker, shutdown };
    worker.work().await;
    if let Err(error) = worker.store.worker_stopped(&worker.id).await {
        tracing::warn!(%error, "cannot tell that this worker stopped");
    }
    tracing::info!(worker = worker.id.as_str(), "worker stopped");
}

/// First takes back what died before, then shows that this one lives.
async fn show_alive(store: &Store, config: &WorkerConfig, worker: &WorkerId) -> Option<alive::Alive> {
    alive::end_leases_of_the_dead(store, &config.alive).await;
    let held = alive::Alive::hold(&config.alive, worker);
    held.inspect_err(|error| tracing::warn!(%error, "cannot show that this worker lives; others wait for its leases"))
        .ok()
}

struct Worker {
    store: Store,
    config: Arc<WorkerConfig>,
    id: WorkerId,
    shutdown: CancellationToken,
}

/// Jobs that run, with what each was promised.
type Running = JoinSet<Requirements>;

/// When something was last done.
struct Chore {
    every: Duration,
    last: Option<Instant>,
}

impl Chore {
    fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= self.every);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

impl Worker {
    async fn work(&self) {
        let mut running = Running::new();
        let mut promised: Vec<Requirements> = Vec::new();
        let mut drains = false;
        let (mut report, mut prune) = (Chore { every: REPORT, last: None }, Chore { every: PRUNE, last: None });
        while !self.shutdown.is_cancelled() {
            if report.is_due() {
                drains |= self.report(running.len()).await;
            }
            if prune.is_due() {
                self.prune().await;
            }
            self.rescue().await;
            let mut is_idle = true;
            while !drains && !self.shutdown.is_cancelled() && running.len() < self.config.slots {
                let Some(lease) = self.claim(&promised).await else { break };
                is_idle = false;
                promised.push(lease.job.requirements.clone());
                self.start(&mut running, lease);
            }
            if running.is_empty() && (drains || (self.config.once && is_idle)) {
                return;
            }
            tokio::select! {
                Some(ended) = running.join_next(), if !running.is_empty() => forget(&mut promised, ended.ok()),
                () = self.store.changed(self.config.poll) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn start(&self, running: &mut Running, lease: Lease) {
        let (store, config, shutdown) = (self.store.clone(), self.config.clone(), self.shutdown.clone());
        running.spawn(async move {
            let requirements = lease.job.requirements.clone();
            run_job::run_leased(&store, &config, lease, &shutdown).await;
            requirements
        });
    }

    /// `None` when there is nothing that fits, or the database does not answer.
    async fn claim(&self, promised: &[Requirements]) -> Option<Lease> {
        let capacity = capacity(&self.config, promised);
        let claimed = self.store.claim_fitting(&self.id, self.config.lease, &capacity, self.config.limits).await;
        claimed.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot claim a job");
            None
        })
    }

    async fn rescue(&self) {
        match self.store.rescue().await {
            Ok(0) => {}
            Ok(_) => sweep::remove_finished_work(&self.store, &self.config.work).await,
            Err(error) => tracing::warn!(%error, "cannot look for lost jobs"),
        }
    }

    /// Whether it is asked to drain.
    async fn report(&self, running: usize) -> bool {
        let config = &self.config;
        let about = json!({
            "name": config.name, "version": engine::VERSION, "slots": config.slots, "running": running,
            "memory_bytes": config.memory, "threads": config.settings.thread_count(), "labels": config.labels,
        });
        self.store.report_worker(&self.id, &about).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell that this worker lives");
            false
        })
    }

    async fn prune(&self) {
        match self.store.prune(self.config.retention).await {
            Ok(pruned) if pruned.jobs + pruned.events > 0 => {
                tracing::info!(jobs = pruned.jobs, events = pruned.events, "what is over for long is forgotten");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot forget what is over for long"),
        }
        sweep::remove_finished_work(&self.store, &self.config.work).await;
    }
}

/// What is left beside the jobs that run.
fn capacity(config: &WorkerConfig, promised: &[Requirements]) -> Capacity {
    let used: u64 = promised.iter().map(|needed| needed.memory_bytes).sum();
    // a job that needs more than there is at all runs alone, rather than never
    let memory_bytes = match config.memory {
        Some(memory) if !promised.is_empty() => memory.saturating_sub(used),
        Some(_) | None => u64::MAX,
    };
    Capacity { memory_bytes, labels: config.labels.clone(), ..Capacity::unlimited() }
}

fn forget(promised: &mut Vec<Requirements>, ended: Option<Requirements>) {
    // of a run that panicked it is not known which it was: any is as good
    let at = ended.and_then(|ended| promised.iter().position(|p| *p == ended)).unwrap_or(0);
    if at < promised.len() {
        promised.swap_remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chores_are_done_at_once_and_then_when_their_time_has_come() {
        let mut chore = Chore { every: Duration::from_secs(3600), last: None };
        assert!(chore.is_due() && !chore.is_due());
        let mut always = Chore { every: Duration::ZERO, last: None };
        assert!(always.is_due() && always.is_due());
    }

    #[test]
    fn what_has_ended_is_promised_no_more() {
        let needs = |memory_bytes| Requirements { memory_bytes, ..Requirements::default() };
        let mut promised = vec![needs(1), needs(2), needs(1)];
        forget(&mut promised, Some(needs(2)));
        assert_eq!(promised, [needs(1), needs(1)]);
        forget(&mut promised, None);
        forget(&mut promised, Some(needs(7)));
        forget(&mut promised, None);
        assert!(promised.is_empty());
    }
}
