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

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use checkpoint::{Access, OutputRoots};
use jobs::{Capacity, JobId, JobsError, Lease, Limits, Origin, Requirements, Retention, Store, WorkerId};
use meter::Meter;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use run_job::JobError;

#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Begins the worker's id.
    pub name: String,
    pub access: Access,
    /// Directories whose content belongs to tenants: none reads another's there.
    pub private: Vec<PathBuf>,
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
    pub meter: Arc<Meter>,
    /// Has the span of an attempt tell of the request that the job came with, where spans go further than the log.
    pub link: fn(&tracing::Span, &Origin),
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
/// when its jobs have; one that runs what there is once, when there is nothing more or the database does not say so for long.
pub async fn run(store: Store, config: WorkerConfig, shutdown: CancellationToken) -> Result<(), JobsError> {
    let worker = WorkerId::generate(&config.name);
    tracing::info!(worker = worker.as_str(), "worker started");
    let _alive = if store.is_sqlite() { show_alive(&store, &config, &worker).await } else { None };
    sweep::remove_finished_work(&store, &config.work).await;
    let worker = Worker {
        store,
        config: Arc::new(config),
        id: worker,
        shutdown,
        at_hand: Mutex::default(),
        avoids: Mutex::default(),
        begun: Mutex::default(),
    };
    let ended = worker.work().await;
    if let Err(error) = answered(worker.store.worker_stopped(&worker.id)).await {
        tracing::warn!(%error, "cannot tell that this worker stopped");
    }
    tracing::info!(worker = worker.id.as_str(), "worker stopped");
    ended
}

/// First takes back what died before, then shows that this one lives.
async fn show_alive(store: &Store, config: &WorkerConfig, worker: &WorkerId) -> Option<alive::Alive> {
    alive::end_leases_of_the_dead(store, &config.alive).await;
    let held = alive::Alive::hold(&config.alive, worker);
    held.inspect_err(|error| tracing::warn!(%error, "cannot show that this worker lives; others wait for its leases"))
        .ok()
}

/// A connection may be to nobody: a call is not waited for without end.
async fn answered<T>(call: impl Future<Output = Result<T, JobsError>>) -> Result<T, JobsError> {
    let max = teller::CALL_MAX;
    tokio::time::timeout(max, call).await.unwrap_or_else(|_| Err(JobsError::no_answer(max)))
}

/// What a server does without any worker: ends jobs that wait too long or whose worker is gone for good, and forgets what is
/// over for long.
pub async fn keep_house(store: Store, lease: Duration, retention: Retention, shutdown: CancellationToken) {
    let mut prune = Chore { every: PRUNE, last: None };
    let mut trouble = Trouble::at_start(&store);
    while !shutdown.is_cancelled() {
        if trouble.is_over(lease)
            && let Err(error) = answered(store.rescue()).await
        {
            trouble.note();
            tracing::warn!(%error, "cannot look for lost jobs");
        }
        if prune.is_due()
            && let Err(error) = answered(store.prune(retention)).await
        {
            tracing::warn!(%error, "cannot forget what is over for long");
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

struct Worker {
    store: Store,
    config: Arc<WorkerConfig>,
    id: WorkerId,
    shutdown: CancellationToken,
    /// The latest sources that it has read, so that they are in memory and their digests are known.
    at_hand: Mutex<VecDeque<String>>,
    /// Jobs that others may be better for, the latest.
    avoids: Mutex<VecDeque<JobId>>,
    /// Leases whose run has begun, the latest.
    begun: Mutex<VecDeque<(JobId, i64)>>,
}

/// Jobs that run, with what each was promised. A task gives whether this worker is one for its job.
#[derive(Default)]
struct Running {
    tasks: JoinSet<bool>,
    promised: HashMap<tokio::task::Id, (JobId, i64, Requirements)>,
}

impl Running {
    /// Waits for one to end. Never, where none runs.
    async fn next_ended(&mut self) -> (Option<JobId>, bool) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((task, suits))) => (self.promised.remove(&task).map(|(job, ..)| job), suits),
            Some(Err(error)) => (self.promised.remove(&error.id()).map(|(job, ..)| job), true),
            None => std::future::pending().await,
        }
    }

    fn has(&self, lease: &Lease) -> bool {
        self.promised.values().any(|(job, token, _)| (job, *token) == (&lease.job.id, lease.token))
    }
}

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

/// How the database has answered lately.
#[derive(Default)]
struct Trouble {
    last: Option<Instant>,
    /// Failures since the last answer.
    in_a_row: usize,
    /// A claim may have been granted without this worker knowing.
    lost_answer: bool,
}

impl Trouble {
    /// A database that had to be waited for was away for others, too.
    fn at_start(store: &Store) -> Self {
        Self { last: store.was_waited_for().then(Instant::now), ..Self::default() }
    }

    fn note(&mut self) {
        self.last = Some(Instant::now());
        self.in_a_row += 1;
    }

    /// Leases ran out while the database was away, though their workers live: these are to renew them first.
    fn is_over(&self, lease: Duration) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= lease / 10)
    }
}

/// Failures in a row after which a worker that runs once says so.
const FAILURES_MAX: usize = 10;
/// Sources that are told of as at hand, jobs that are remembered as others', leases that have begun. At least the slots.
const REMEMBERED: usize = 512;

fn remember<T: PartialEq>(list: &Mutex<VecDeque<T>>, what: T) {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|known| *known != what);
    list.push_back(what);
    if list.len() > REMEMBERED {
        list.pop_front();
    }
}

fn remembered<T: Clone + Ord>(list: &Mutex<VecDeque<T>>) -> BTreeSet<T> {
    list.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

impl Worker {
    async fn work(&self) -> Result<(), JobsError> {
        let mut running = Running::default();
        let mut trouble = Trouble::at_start(&self.store);
        let mut drains = false;
        let (mut report, mut prune) = (Chore { every: REPORT, last: None }, Chore { every: PRUNE, last: None });
        let mut failed = Ok(());
        'work: while !self.shutdown.is_cancelled() {
            if report.is_due() {
                drains |= self.report(running.tasks.len()).await;
            }
            if prune.is_due() {
                self.prune().await;
            }
            if trouble.is_over(self.config.lease) {
                self.rescue(&mut trouble).await;
            }
            let mut is_idle = true;
            while !drains && !self.shutdown.is_cancelled() && running.tasks.len() < self.config.slots {
                match self.next(&mut trouble, &running).await {
                    Ok(Some(lease)) => self.start(&mut running, lease),
                    Ok(None) => break,
                    Err(error) if self.config.once && trouble.in_a_row >= FAILURES_MAX => {
                        failed = Err(error);
                        break 'work;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot claim a job");
                        is_idle = false;
                        break;
                    }
                }
                is_idle = false;
            }
            let is_through = self.config.once && is_idle && trouble.is_over(self.config.lease);
            if running.tasks.is_empty() && (drains || is_through) {
                return Ok(());
            }
            tokio::select! {
                ended = running.next_ended() => self.note_end(ended),
                () = self.store.changed(self.config.poll) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        while !running.tasks.is_empty() {
            running.next_ended().await;
        }
        failed
    }

    fn note_end(&self, (job, suits): (Option<JobId>, bool)) {
        if let (Some(job), false) = (job, suits) {
            remember(&self.avoids, job);
        }
    }

    fn start(&self, running: &mut Running, lease: Lease) {
        let (store, config, shutdown) = (self.store.clone(), self.config.clone(), self.shutdown.clone());
        let requirements = lease.job.requirements.clone();
        for source in &requirements.sources {
            remember(&self.at_hand, source.clone());
        }
        let (job, token) = (lease.job.id.clone(), lease.token);
        let span = job_span(&lease);
        (config.link)(&span, &lease.job.origin);
        let run = async move { run_job::run_leased(&store, &config, lease, &shutdown).await }.instrument(span);
        remember(&self.begun, (job.clone(), token));
        running.promised.insert(running.tasks.spawn(run).id(), (job, token, requirements));
    }

    /// A lease to run; `None` when there is nothing that fits.
    async fn next(&self, trouble: &mut Trouble, running: &Running) -> Result<Option<Lease>, JobsError> {
        let next = self.claim(trouble, running).await;
        match &next {
            Ok(_) => trouble.in_a_row = 0,
            Err(_) => {
                trouble.lost_answer = true;
                trouble.note();
            }
        }
        next
    }

    async fn claim(&self, trouble: &mut Trouble, running: &Running) -> Result<Option<Lease>, JobsError> {
        if trouble.lost_answer {
            let held = answered(self.store.held_by(&self.id, self.config.lease)).await?;
            for lease in held.into_iter().filter(|lease| !running.has(lease)) {
                let known = (lease.job.id.clone(), lease.token);
                if !remembered(&self.begun).contains(&known) {
                    return Ok(Some(lease));
                }
                // its run is over here, and could not say so
                answered(self.store.release(&lease)).await?;
            }
            // one that was granted may come to light later than the call that asked for it was given up
            trouble.lost_answer = !trouble.is_over(self.config.lease);
        }
        let capacity = Capacity {
            sources: remembered(&self.at_hand),
            avoids: remembered(&self.avoids),
            takes_over: trouble.is_over(self.config.lease),
            // what is left to others may stay undone when this one ends
            prefers_sources: !self.config.once,
            ..capacity(&self.config, running)
        };
        answered(self.store.claim_fitting(&self.id, self.config.lease, &capacity, self.config.limits)).await
    }

    async fn rescue(&self, trouble: &mut Trouble) {
        match answered(self.store.rescue()).await {
            Ok(0) => {}
            Ok(_) => sweep::remove_finished_work(&self.store, &self.config.work).await,
            Err(error) => {
                trouble.note();
                tracing::warn!(%error, "cannot look for lost jobs");
            }
        }
    }

    /// Whether it is asked to drain.
    async fn report(&self, running: usize) -> bool {
        let config = &self.config;
        let about = json!({
            "name": config.name, "version": engine::VERSION, "slots": config.slots, "running": running,
            "memory_bytes": config.memory, "threads": config.settings.thread_count(), "labels": config.labels,
            "sources": remembered(&self.at_hand), "disk_bytes": free_space(&config.work),
        });
        answered(self.store.report_worker(&self.id, &about)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell that this worker lives");
            false
        })
    }

    async fn prune(&self) {
        match answered(self.store.prune(self.config.retention)).await {
            Ok(pruned) if pruned.jobs + pruned.events > 0 => {
                tracing::info!(jobs = pruned.jobs, events = pruned.events, "what is over for long is forgotten");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot forget what is over for long"),
        }
        sweep::remove_finished_work(&self.store, &self.config.work).await;
    }
}

/// Every log line of an attempt tells the request and the trace that the job came with.
fn job_span(lease: &Lease) -> tracing::Span {
    let (job, origin) = (&lease.job, &lease.job.origin);
    let span = tracing::info_span!(
        "job",
        id = job.id.as_str(),
        attempt = job.attempt,
        request_id = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    if let Some(request_id) = &origin.request_id {
        span.record("request_id", request_id);
    }
    if let Some(trace_id) = origin.trace_id() {
        span.record("trace_id", trace_id);
    }
    span
}

/// What is left beside the jobs that run.
fn capacity(config: &WorkerConfig, running: &Running) -> Capacity {
    let promised = || running.promised.values().map(|(.., needed)| needed);
    // a job that needs more than there is at all runs alone, rather than never
    let memory_bytes = match config.memory {
        Some(memory) if !running.promised.is_empty() => {
            memory.saturating_sub(promised().map(|needed| needed.memory_bytes).sum())
        }
        Some(_) | None => u64::MAX,
    };
    // part of what is promised may be written already: better too little than too much
    let disk_bytes = free_space(&config.work).saturating_sub(promised().map(|needed| needed.disk_bytes).sum());
    Capacity { memory_bytes, disk_bytes, labels: config.labels.clone(), ..Capacity::unlimited() }
}

/// Where it cannot be told, a merge finds out itself.
fn free_space(work: &Path) -> u64 {
    let exists = work.ancestors().find(|dir| dir.exists()).unwrap_or(work);
    rustix::fs::statvfs(exists).map_or(u64::MAX, |space| space.f_bavail.saturating_mul(space.f_frsize))
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
    fn the_latest_are_remembered_once() {
        let list = Mutex::default();
        for what in (0..REMEMBERED).chain([0, 7777]) {
            remember(&list, what);
        }
        let known = remembered(&list);
        assert_eq!(known.len(), REMEMBERED);
        assert!(known.contains(&0) && known.contains(&7777) && !known.contains(&1));
    }

    #[tokio::test]
    async fn what_has_ended_is_promised_no_more_even_by_a_panic() {
        let mut running = Running::default();
        let jobs: Vec<JobId> = (0..2).map(|_| JobId::generate()).collect();
        let tasks =
            [running.tasks.spawn(async { false }).id(), running.tasks.spawn(async { panic!("on purpose") }).id()];
        for (task, job) in tasks.into_iter().zip(&jobs) {
            running.promised.insert(task, (job.clone(), 1, Requirements::default()));
        }
        let mut ended = [running.next_ended().await, running.next_ended().await];
        ended.sort();
        let mut expected = [(Some(jobs[0].clone()), false), (Some(jobs[1].clone()), true)];
        expected.sort();
        assert_eq!(ended, expected);
        assert!(running.promised.is_empty());
    }

    #[tokio::test]
    async fn leases_are_taken_over_when_trouble_is_over() {
        let mut trouble = Trouble::default();
        assert!(trouble.is_over(Duration::from_secs(60)));
        trouble.note();
        assert!(!trouble.is_over(Duration::from_secs(60)));
        assert!(trouble.is_over(Duration::ZERO));
    }
}
