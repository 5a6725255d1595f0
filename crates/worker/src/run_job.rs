//! One attempt at a job.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use checkpoint::CheckpointError;
use engine::{Artifact, ExecuteError, Observer, OpenStages, StagedPlan};
use futures::FutureExt;
use jobs::{EventKind, JobFailure, JobsError, Lease, Level, NewEvent, Outcome, Phase, RecipeFormat, Status, Store};
use meter::Attempt;
use recipe::{Problem, Refusal, Stages};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use transfer::{Prepared, Publication, PublishError, Target};

use crate::heart::{Heart, Patience, Pulse, Stop};
use crate::teller::Teller;
use crate::{WorkerConfig, planned, sweep};

/// Why an attempt did not end in a publication.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("the recipe, which could be merged when it was submitted, cannot be now: {0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Output(String),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Jobs(#[from] JobsError),
    #[error("the merge broke off: {0}")]
    Panicked(String),
    #[error("the merge was told to stop and did not")]
    Stuck,
}

impl JobError {
    fn code(&self) -> &'static str {
        match self {
            JobError::Refused(_) => "recipe_refused",
            JobError::Output(_) => "invalid_output",
            JobError::Execute(error) => match error.root_cause() {
                ExecuteError::DiskFull { .. } => "disk_full",
                ExecuteError::Io { source, .. } | ExecuteError::Checkpoint(CheckpointError::Io { source, .. })
                    if source.kind() == ErrorKind::StorageFull =>
                {
                    "disk_full"
                }
                ExecuteError::BuffersDiffer { .. } => "buffers_differ",
                ExecuteError::NotFinite { .. } => "not_finite",
                _ => "merge_failed",
            },
            JobError::Publish(PublishError::Occupied { .. }) => "output_exists",
            JobError::Publish(PublishError::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {
                "disk_full"
            }
            JobError::Publish(_) => "publish_failed",
            JobError::Jobs(_) => "database",
            JobError::Panicked(_) | JobError::Stuck => "internal",
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            // it was planned when it was submitted: what is not there now may be there again, or on another worker
            JobError::Refused(_) => true,
            JobError::Output(_) | JobError::Panicked(_) | JobError::Stuck => false,
            JobError::Execute(error) => error.is_transient(),
            JobError::Publish(error) => error.is_transient(),
            JobError::Jobs(_) => true,
        }
    }
}

/// Runs the job of a lease to its end, whatever that is, and tells the queue.
/// Gives whether this worker is one for the job: it is not where it lacks the room, or models that were there at submit.
pub(crate) async fn run_leased(
    store: &Store,
    config: &WorkerConfig,
    lease: Lease,
    shutdown: &CancellationToken,
) -> bool {
    let job = lease.job.id.clone();
    tracing::info!(job = job.as_str(), attempt = lease.job.attempt, method = lease.job.method, "job started");
    let timeout = lease.job.timeout_ms.map(|ms| Duration::from_millis(ms.unsigned_abs()));
    let patience = Patience { timeout, stall: config.stall };
    let heart = Heart::start(store, &lease, config.heartbeat, patience, shutdown);
    let teller = Teller { store, lease: &lease, shutdown };
    let run = Run { teller, config, lease: &lease, pulse: heart.pulse.clone() };
    // a heart that outlived its run would hold the lease for ever
    let result =
        AssertUnwindSafe(run.run_job()).catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    let pulse = heart.pulse.clone();
    heart.still().await;
    let over = match (&result, pulse.stop()) {
        // what another worker may be doing by now is its own
        (_, Some(Stop::LeaseLost)) | (Err(JobError::Jobs(JobsError::LeaseLost)), _) => {
            config.meter.attempt_ended(Attempt::LeaseLost);
            tracing::warn!(job = job.as_str(), "lease lost, attempt given up");
            return true;
        }
        (Ok((publication, published)), _) => {
            let publication = to_json(publication);
            finish(teller, Outcome::Succeeded { publication, published: Some(published.clone()) }).await
        }
        // that the database was away is no failure of the job
        (Err(_), Some(Stop::OutOfTouch)) => give_back(teller).await,
        (Err(JobError::Jobs(error)), None) if error.is_transient() => give_back(teller).await,
        (Err(_), Some(Stop::Cancelled)) => finish(teller, Outcome::Cancelled).await,
        (Err(_), Some(Stop::Shutdown)) => give_back(teller).await,
        (Err(_), Some(Stop::TimedOut)) => finish(teller, timed_out(&lease)).await,
        (Err(_), Some(Stop::Stalled)) => stalled(teller, config.stall).await,
        (Err(error), None) => finish(teller, failed(error, lease.job.attempt)).await,
    };
    config.meter.attempt_ended(*over.as_ref().unwrap_or(&Attempt::Untold));
    // of a job that is not over the next attempt goes on with what is done
    if let Ok(attempt) = &over
        && attempt.is_last()
    {
        config.meter.job_ended(*attempt, &lease.job.method);
        sweep::remove(run.work_root()).await;
    }
    let suits = !result.as_ref().is_err_and(|error| matches!(error.code(), "recipe_refused" | "disk_full"));
    match (over, result) {
        (Err(error), _) => tracing::error!(job = job.as_str(), %error, "cannot tell the queue how the job ended"),
        (Ok(_), Ok((publication, _))) => tracing::info!(job = job.as_str(), uri = publication.uri, "job succeeded"),
        (Ok(_), Err(error)) => tracing::info!(job = job.as_str(), %error, "attempt ended without a publication"),
    }
    suits
}

/// Returns when a run has been told to stop for so long.
async fn stopped_for(pulse: &Pulse, grace: Duration) {
    while pulse.stop().is_none() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(grace).await;
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> JobError {
    let told = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let told = told.or_else(|| panic.downcast_ref::<String>().cloned());
    JobError::Panicked(told.unwrap_or_else(|| "a panic without a word".to_owned()))
}

fn timed_out(lease: &Lease) -> Outcome {
    let seconds = lease.job.timeout_ms.unwrap_or(0) as f64 / 1000.0;
    Outcome::Failed(JobFailure {
        code: "timed_out".to_owned(),
        message: format!("the attempt took longer than the {seconds} s that the job allows"),
        retryable: true,
        attempt: lease.job.attempt,
    })
}

/// Tells that nothing moved, and has the job tried again.
async fn stalled(teller: Teller<'_>, stall: Duration) -> Result<Attempt, JobsError> {
    let attempt = teller.lease.job.attempt;
    let message = format!("nothing has moved for {} s; the attempt is stopped", stall.as_secs_f64());
    let data = json!({"attempt": attempt});
    let event = NewEvent { kind: EventKind::Stalled, level: Level::Warn, message: message.clone(), data };
    teller.record(None, event).await?;
    let failure = JobFailure { code: "stalled".to_owned(), message, retryable: true, attempt };
    finish(teller, Outcome::Retry { failure, delay: backoff(attempt) }).await
}

/// As the queue sees the end of the attempt.
async fn finish(teller: Teller<'_>, outcome: Outcome) -> Result<Attempt, JobsError> {
    Ok(match teller.finish(&outcome).await?.status {
        Status::Succeeded => Attempt::Succeeded,
        Status::Failed => Attempt::Failed,
        Status::Cancelled => Attempt::Cancelled,
        Status::Queued | Status::Running => Attempt::Retried,
    })
}

/// Gives a job back to the queue, unless it was cancelled in that very moment.
async fn give_back(teller: Teller<'_>) -> Result<Attempt, JobsError> {
    match teller.release().await {
        Err(JobsError::LeaseLost) => finish(teller, Outcome::Cancelled).await,
        result => result.map(|()| Attempt::GivenBack),
    }
}

fn failed(error: &JobError, attempt: i64) -> Outcome {
    let failure = JobFailure {
        code: error.code().to_owned(),
        message: error.to_string(),
        retryable: error.is_transient(),
        attempt,
    };
    if error.is_transient() { Outcome::Retry { failure, delay: backoff(attempt) } } else { Outcome::Failed(failure) }
}

/// 5 s, 20 s, 80 s, ... up to ten minutes.
fn backoff(attempt: i64) -> Duration {
    let exponent = u32::try_from(attempt - 1).unwrap_or(0).min(8);
    Duration::from_secs((5 * 4u64.pow(exponent)).min(600))
}

fn to_json(publication: &Publication) -> Value {
    serde_json::to_value(publication).expect("a publication is plain data")
}

/// Warnings of a plan that become events.
const WARNINGS_TOLD_MAX: usize = 50;

struct Run<'a> {
    teller: Teller<'a>,
    config: &'a WorkerConfig,
    lease: &'a Lease,
    pulse: Arc<Pulse>,
}

impl Run<'_> {
    /// Fetch, plan, execute, publish.
    async fn run_job(&self) -> Result<(Publication, NewEvent), JobError> {
        let stages = self.recipe()?;
        let target = self.target()?;
        let opened = self.timed(Phase::Fetching, self.unless_stopped(self.fetch(stages))).await?;
        let plan = self.timed(Phase::Planning, self.unless_stopped(self.plan(opened))).await?;
        if let Some(publication) = transfer::find_published(&target, plan.digest()) {
            return Ok(published(publication, None));
        }
        if let Some(reused) = self.published_before(plan.digest()).await? {
            return Ok(reused);
        }
        // what another job has put there meanwhile is found before the work, not after
        if transfer::is_occupied(&target) {
            return Err(PublishError::occupied(&target).into());
        }
        let artifact = self.timed(Phase::Merging, self.unless_stuck(self.merge(plan))).await?;
        let started = std::time::Instant::now();
        let plan_digest = artifact.plan_digest.clone();
        let prepared = self.unless_stuck(self.prepare(artifact, &target)).await?;
        // a lease lost since the merge was told of is somebody else's to publish
        self.still_held().await?;
        // from here on nothing may fail that is not a failure to publish
        let publication = match blocking(move || Ok(prepared.publish()?)).await {
            // it may be there all the same, as when only what came after the one step failed
            Err(error) => transfer::find_published(&target, &plan_digest).ok_or(error)?,
            Ok(publication) => publication,
        };
        self.config.meter.phase_took(Phase::Publishing.as_str(), started.elapsed());
        Ok(published(publication, Some(started.elapsed())))
    }

    /// Tells how long a phase took that ended well: one that was given up says nothing of how long such a phase takes.
    async fn timed<T>(&self, phase: Phase, run: impl Future<Output = Result<T, JobError>>) -> Result<T, JobError> {
        let started = std::time::Instant::now();
        let done = run.await?;
        self.config.meter.phase_took(phase.as_str(), started.elapsed());
        Ok(done)
    }

    /// That the lease is this worker's now, by the database's word, and that nobody wants the run to stop.
    async fn still_held(&self) -> Result<(), JobError> {
        loop {
            let asked = tokio::time::Instant::now();
            if self.teller.heartbeat(self.pulse.progress().as_ref()).await?.cancel_requested {
                self.pulse.set_stop(Stop::Cancelled);
            }
            match self.pulse.stop() {
                Some(Stop::LeaseLost) => return Err(JobsError::LeaseLost.into()),
                Some(Stop::Cancelled | Stop::TimedOut | Stop::Stalled | Stop::OutOfTouch) => {
                    return Err(ExecuteError::Cancelled.into());
                }
                // a process that was frozen since it asked has an old answer
                Some(Stop::Shutdown) | None if asked.elapsed() < self.lease.ttl / 4 => return Ok(()),
                Some(Stop::Shutdown) | None => {}
            }
        }
    }

    /// A phase that writes nothing is left to itself as soon as the run is to stop.
    async fn unless_stopped<T>(&self, phase: impl Future<Output = Result<T, JobError>>) -> Result<T, JobError> {
        tokio::select! {
            result = phase => result,
            () = stopped_for(&self.pulse, Duration::ZERO) => Err(ExecuteError::Cancelled.into()),
        }
    }

    /// A phase that does not stop when it is told to is left to itself: what it writes is in the work directory, and the
    /// same whoever writes it. Publishing is not among these, since it would go on to publish.
    async fn unless_stuck<T>(&self, phase: impl Future<Output = Result<T, JobError>>) -> Result<T, JobError> {
        tokio::select! {
            result = phase => result,
            () = stopped_for(&self.pulse, self.config.grace) => Err(JobError::Stuck),
        }
    }

    fn recipe(&self) -> Result<Stages, JobError> {
        let job = &self.lease.job;
        let stages = match job.recipe_format {
            RecipeFormat::Yaml => Stages::parse(&job.recipe, job.lenient),
            RecipeFormat::Json => {
                let value = serde_json::from_str(&job.recipe).map_err(|e| JobError::Output(e.to_string()))?;
                Stages::from_json(&value, job.lenient)
            }
        };
        Ok(stages?)
    }

    fn target(&self) -> Result<Target, JobError> {
        let job = &self.lease.job;
        match job.output.get("path").and_then(Value::as_str) {
            Some(path) => {
                let outputs = self.config.outputs.of_tenant(&job.tenant);
                outputs.resolve(path).map(Target::Folder).map_err(JobError::Output)
            }
            None => Ok(Target::Folder(self.config.artifacts.join(job.id.as_str()))),
        }
    }

    async fn fetch(&self, stages: Stages) -> Result<OpenStages, JobError> {
        let config = self.config;
        let access = config.access.of_tenant(&self.lease.job.tenant, &config.private, &config.outputs);
        let opened = blocking(move || Ok(OpenStages::open(stages, &access)?)).await?;
        let data = json!({"models": opened.models()});
        self.tell(Some(Phase::Planning), EventKind::Fetched, "all models are at hand", data).await?;
        Ok(opened)
    }

    async fn plan(&self, opened: OpenStages) -> Result<StagedPlan, JobError> {
        let settings = self.config.settings.clone();
        let plan = blocking(move || Ok(opened.plan(&settings)?)).await?;
        for warning in plan.warnings.iter().take(WARNINGS_TOLD_MAX) {
            self.warn(warning).await?;
        }
        self.teller.plan_digest(plan.digest()).await?;
        for stage in plan.stages() {
            let (message, data) = planned::told(stage);
            self.tell(Some(Phase::Merging), EventKind::Planned, &message, data).await?;
        }
        Ok(plan)
    }

    async fn merge(&self, plan: StagedPlan) -> Result<Artifact, JobError> {
        let dir = self.work_dir(plan.digest());
        let (text, pulse) = (self.lease.job.recipe.clone(), self.pulse.clone());
        let merged = beside(move || {
            let on_progress = |progress| pulse.set_progress(progress, now_ms());
            let observer = Observer { on_progress: &on_progress, cancel: &pulse.cancel };
            Ok(engine::execute_stages(plan, &text, &dir, &observer)?)
        });
        let started = std::time::Instant::now();
        let artifact = merged.await?;
        let took = started.elapsed();
        // the last word on progress, whenever the next beat would have been
        self.teller.heartbeat(self.pulse.progress().as_ref()).await?;
        let bytes: u64 = artifact.files.iter().map(|f| f.bytes).sum();
        self.config.meter.wrote(bytes);
        self.tell(Some(Phase::Publishing), EventKind::Merged, "every tensor is written", rate(bytes, took)).await?;
        Ok(artifact)
    }

    /// Brings the artifact to its target's side. Should this process die at it, whoever removes the job's work knows of the copy.
    async fn prepare(&self, artifact: Artifact, target: &Target) -> Result<Prepared, JobError> {
        let attempt = format!("{}-{}", self.lease.job.id.as_str(), self.lease.token);
        let (target, root, pulse, token) = (target.clone(), self.work_root(), self.pulse.clone(), self.lease.token);
        beside(move || {
            let partial = transfer::partial(&target, &attempt);
            sweep::note_partial(&root, token, &partial).map_err(PublishError::io(&root))?;
            let goes_on = |_| {
                pulse.moved();
                !pulse.cancel.load(std::sync::atomic::Ordering::Relaxed)
            };
            Ok(transfer::prepare(artifact, &target, &attempt, &goes_on)?)
        })
        .await
    }

    /// What another job has published for this plan and is still there, where the job says that this will do.
    async fn published_before(&self, plan_digest: &str) -> Result<Option<(Publication, NewEvent)>, JobError> {
        let job = &self.lease.job;
        if !job.reuse || job.output.get("path").is_some() {
            return Ok(None);
        }
        for (earlier, publication) in self.teller.published_by_plan(plan_digest).await? {
            let told = serde_json::from_value::<Publication>(publication).ok();
            let Some(found) = told.and_then(|told| transfer::find_again(&told)) else { continue };
            let message = format!("job {earlier} has published the same at {}", found.uri);
            let (publication, mut event) = published(found, None);
            event.message = message;
            event.data["reused_from"] = json!(earlier);
            return Ok(Some((publication, event)));
        }
        Ok(None)
    }

    async fn warn(&self, warning: &Problem) -> Result<(), JobError> {
        let data = serde_json::to_value(warning).expect("a problem is plain data");
        let event = NewEvent { kind: EventKind::Warning, level: Level::Warn, message: warning.to_string(), data };
        Ok(self.teller.record(None, event).await?)
    }

    async fn tell(&self, phase: Option<Phase>, kind: EventKind, message: &str, data: Value) -> Result<(), JobError> {
        self.pulse.moved();
        let event = NewEvent { kind, level: Level::Info, message: message.to_owned(), data };
        Ok(self.teller.record(phase, event).await?)
    }

    /// Of the plan, whoever executes it: a stale worker writes the same bytes to the same places as its successor.
    fn work_dir(&self, plan_digest: &str) -> PathBuf {
        self.work_root().join(format!("plan-{plan_digest}"))
    }

    fn work_root(&self) -> PathBuf {
        self.config.work.join(self.lease.job.id.as_str())
    }
}

/// With the event that tells of it. `took` is absent where it was there already.
fn published(publication: Publication, took: Option<Duration>) -> (Publication, NewEvent) {
    let mut data =
        json!({"uri": publication.uri, "bytes": publication.bytes, "manifest_sha256": publication.manifest_sha256});
    if let (Some(took), Some(data)) = (took, data.as_object_mut()) {
        data.extend(rate(publication.bytes, took).as_object().cloned().unwrap_or_default());
    }
    let message = format!("published at {}", publication.uri);
    (publication, NewEvent { kind: EventKind::Published, level: Level::Info, message, data })
}

/// What a phase wrote, in which time.
fn rate(bytes: u64, took: Duration) -> Value {
    let seconds = took.as_secs_f64();
    json!({"bytes": bytes, "seconds": (seconds * 1000.0).round() / 1000.0, "bytes_per_second": (bytes as f64 / seconds.max(1e-3)) as u64})
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Work that blocks or computes, off the runtime's threads.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, JobError> + Send + 'static) -> Result<T, JobError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(f))
        .await
        .unwrap_or_else(|error| Err(JobError::Panicked(error.to_string())))
}

/// How much a merge yields to everything else on the machine: heartbeats and the API must never wait for it.
const NICE: i32 = 10;

/// As [`blocking`], on a thread of its own whose priority, and that of the threads it starts, is low.
async fn beside<T: Send + 'static>(f: impl FnOnce() -> Result<T, JobError> + Send + 'static) -> Result<T, JobError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let span = tracing::Span::current();
    let merge = move || {
        // where it may not, it does without
        let _ = rustix::process::nice(NICE);
        // nobody waits any more after a run that was given up
        let _ = sender.send(span.in_scope(f));
    };
    let thread = std::thread::Builder::new().name("merge".to_owned()).spawn(merge);
    thread.map_err(|error| JobError::Panicked(error.to_string()))?;
    receiver.await.unwrap_or_else(|_| Err(JobError::Panicked("its thread ended".to_owned())))
}
