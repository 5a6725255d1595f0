//! A job as clients see it.

use jobs::{Attempt, Job, JobFailure, JobId, Requirements};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::timestamp::rfc3339;
use crate::webhooks::JobWebhookObject;
use crate::words::AttemptOutcome;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobObject {
    #[schema(example = "job_0190a1b2c3d47e8f90a1b2c3d4e5f607")]
    id: String,
    /// Always `job`.
    object: &'static str,
    status: Status,
    /// Known while the job is running.
    #[schema(required)]
    phase: Option<Phase>,
    method: String,
    /// As posted; an object as JSON text.
    recipe: String,
    recipe_format: RecipeFormat,
    lenient: bool,
    /// Where the artifact goes.
    #[schema(value_type = JobOutput)]
    output: Value,
    #[schema(value_type = BTreeMap<String, String>)]
    labels: Map<String, Value>,
    #[schema(value_type = BTreeMap<String, String>)]
    metadata: Map<String, Value>,
    /// Higher goes first.
    priority: i64,
    /// How often a worker began it.
    attempt: i64,
    /// How often it may be tried, attempts that ended for no fault of its own not counted.
    max_attempts: i64,
    /// How many of its workers were lost; with the third the job fails.
    workers_lost: i64,
    #[schema(required)]
    timeout_seconds: Option<i64>,
    /// When it may be begun: later than it was made where the request says so, or between attempts.
    #[schema(format = DateTime)]
    run_at: String,
    /// A job that no worker has begun by then fails.
    #[schema(required, format = DateTime)]
    start_by: Option<String>,
    requirements: RequirementsObject,
    /// The job that this one does again.
    #[schema(required)]
    retry_of: Option<String>,
    /// The jobs of the same request, where it had variants.
    #[schema(required, example = "group_0190a1b2c3d47e8f90a1b2c3d4e5f607")]
    group_id: Option<String>,
    /// Which variant of the request this is.
    #[schema(required)]
    variant: Option<String>,
    /// Who is told of it, beside the endpoints of the tenant.
    #[schema(required)]
    webhook: Option<JobWebhookObject>,
    /// What the worker last reported.
    #[schema(required)]
    progress: Option<ProgressObject>,
    /// Why a failed job failed.
    #[schema(required)]
    error: Option<ErrorObject>,
    /// Every attempt with its end; in the answer for one job alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    attempts: Option<Vec<AttemptObject>>,
    /// The artifact at its target.
    #[schema(required, value_type = Option<Publication>)]
    publication: Option<Value>,
    #[schema(required)]
    plan_digest: Option<String>,
    /// Who holds its lease, or held it last.
    #[schema(required)]
    worker: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required, format = DateTime)]
    started_at: Option<String>,
    #[schema(required, format = DateTime)]
    finished_at: Option<String>,
    #[schema(required, format = DateTime)]
    cancel_requested_at: Option<String>,
    /// The id of its newest event.
    #[schema(example = "1")]
    last_event_id: String,
    links: Links,
}

/// Where the artifact of a job goes.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written down for the documentation; it is kept as it was made")]
pub(crate) struct JobOutput {
    kind: OutputKind,
    /// Absent where the worker chooses the folder.
    #[schema(nullable = false)]
    path: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) enum OutputKind {
    Folder,
}

/// An artifact at its target.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written down for the documentation; the worker makes it")]
pub(crate) struct Publication {
    #[schema(example = "file:///srv/models/team/merged")]
    uri: String,
    plan_digest: String,
    /// Of all files but the manifest.
    bytes: u64,
    files: Vec<PublishedFile>,
    /// SHA-256 of the manifest, which holds the digests of all other files.
    manifest_sha256: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "written down for the documentation; the worker makes it")]
pub(crate) struct PublishedFile {
    #[schema(example = "model.safetensors")]
    path: String,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = JobStatus)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Queued,
    Running,
    /// Running, and its worker was asked to stop.
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Fetching,
    Planning,
    Merging,
    Publishing,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecipeFormat {
    Yaml,
    Json,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Progress)]
pub(crate) struct ProgressObject {
    /// From 0 to 1, by bytes.
    fraction: f64,
    tensors_done: u64,
    tensors_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    /// Of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    bytes_per_second: Option<u64>,
    /// At the rate of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    seconds_left: Option<u64>,
    #[schema(format = DateTime)]
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobError)]
pub(crate) struct ErrorObject {
    /// A word for programs.
    code: String,
    /// A sentence for people.
    message: String,
    retryable: bool,
    attempt: i64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(crate) struct AttemptObject {
    attempt: i64,
    worker: String,
    #[schema(format = DateTime)]
    started_at: String,
    /// Null while it goes on.
    #[schema(required, format = DateTime)]
    finished_at: Option<String>,
    /// Null while it goes on.
    #[schema(required, value_type = Option<AttemptOutcome>)]
    outcome: Option<String>,
    #[schema(required)]
    error: Option<ErrorObject>,
}

impl From<Attempt> for AttemptObject {
    fn from(attempt: Attempt) -> Self {
        Self {
            attempt: attempt.attempt,
            worker: attempt.worker,
            started_at: rfc3339(attempt.started_at),
            finished_at: attempt.finished_at.map(rfc3339),
            outcome: attempt.outcome,
            error: attempt.error.map(ErrorObject::from),
        }
    }
}

/// What its worker must have: sizes by its plan, labels by the request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Requirements)]
pub(crate) struct RequirementsObject {
    memory_bytes: u64,
    disk_bytes: u64,
    gpu_memory_bytes: u64,
    worker_labels: Vec<String>,
}

impl From<Requirements> for RequirementsObject {
    fn from(needed: Requirements) -> Self {
        Self {
            memory_bytes: needed.memory_bytes,
            disk_bytes: needed.disk_bytes,
            gpu_memory_bytes: needed.gpu_memory_bytes,
            worker_labels: needed.labels.into_iter().collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Links {
    #[serde(rename = "self")]
    itself: String,
    events: String,
    artifacts: String,
    deliveries: String,
    cancel: String,
}

impl From<Job> for JobObject {
    fn from(job: Job) -> Self {
        Self {
            status: Status::of(&job),
            links: Links::of(&job),
            id: job.id.into(),
            object: "job",
            phase: job.phase.map(Phase::from),
            method: job.method,
            recipe: job.recipe,
            recipe_format: RecipeFormat::from(job.recipe_format),
            lenient: job.lenient,
            output: job.output,
            labels: job.labels,
            metadata: job.metadata,
            priority: job.priority,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            workers_lost: job.lost,
            timeout_seconds: job.timeout_ms.map(|ms| ms / 1000),
            run_at: rfc3339(job.run_at),
            start_by: job.start_by.map(rfc3339),
            requirements: RequirementsObject::from(job.requirements),
            retry_of: job.retry_of.map(String::from),
            group_id: job.member.as_ref().map(|member| member.group.to_string()),
            variant: job.member.map(|member| member.variant),
            webhook: job.webhook.map(JobWebhookObject::from),
            progress: job.progress.as_ref().map(ProgressObject::from),
            error: job.error.map(ErrorObject::from),
            attempts: None,
            publication: job.publication,
            plan_digest: job.plan_digest,
            worker: job.worker,
            created_at: rfc3339(job.created_at),
            started_at: job.started_at.map(rfc3339),
            finished_at: job.finished_at.map(rfc3339),
            cancel_requested_at: job.cancel_requested_at.map(rfc3339),
            last_event_id: job.last_seq.to_string(),
        }
    }
}

impl JobObject {
    pub(crate) fn with_attempts(mut self, attempts: Vec<Attempt>) -> Self {
        self.attempts = Some(attempts.into_iter().map(AttemptObject::from).collect());
        self
    }

    pub(crate) fn location(&self) -> &str {
        &self.links.itself
    }
}

impl Status {
    pub(crate) fn of(job: &Job) -> Self {
        match job.status {
            jobs::Status::Queued => Self::Queued,
            jobs::Status::Running if job.is_cancelling() => Self::Cancelling,
            jobs::Status::Running => Self::Running,
            jobs::Status::Succeeded => Self::Succeeded,
            jobs::Status::Failed => Self::Failed,
            jobs::Status::Cancelled => Self::Cancelled,
        }
    }
}

impl Links {
    pub(crate) fn of(job: &Job) -> Self {
        let itself = format!("/v1/jobs/{}", job.id);
        Self {
            events: format!("{itself}/events"),
            artifacts: format!("{itself}/artifacts"),
            deliveries: format!("{itself}/deliveries"),
            cancel: format!("{itself}/cancel"),
            itself,
        }
    }
}

impl From<jobs::Phase> for Phase {
    fn from(phase: jobs::Phase) -> Self {
        match phase {
            jobs::Phase::Fetching => Self::Fetching,
            jobs::Phase::Planning => Self::Planning,
            jobs::Phase::Merging => Self::Merging,
            jobs::Phase::Publishing => Self::Publishing,
        }
    }
}

impl From<jobs::RecipeFormat> for RecipeFormat {
    fn from(format: jobs::RecipeFormat) -> Self {
        match format {
            jobs::RecipeFormat::Yaml => Self::Yaml,
            jobs::RecipeFormat::Json => Self::Json,
        }
    }
}

impl From<&jobs::Progress> for ProgressObject {
    fn from(progress: &jobs::Progress) -> Self {
        Self {
            fraction: fraction(progress.bytes_done, progress.bytes_total),
            tensors_done: progress.tensors_done,
            tensors_total: progress.tensors_total,
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            bytes_per_second: progress.bytes_per_second,
            seconds_left: seconds_left(progress),
            updated_at: rfc3339(progress.updated_at),
        }
    }
}

/// The progress of one of several jobs.
#[derive(Debug, Serialize)]
pub(crate) struct JobProgress<'a> {
    job_id: &'a str,
    #[serde(flatten)]
    progress: &'a ProgressObject,
}

impl ProgressObject {
    pub(crate) fn of_job<'a>(&'a self, id: &'a JobId) -> JobProgress<'a> {
        JobProgress { job_id: id.as_str(), progress: self }
    }
}

/// At the rate of late.
fn seconds_left(progress: &jobs::Progress) -> Option<u64> {
    let rate = progress.bytes_per_second.filter(|rate| *rate > 0)?;
    Some(progress.bytes_total.saturating_sub(progress.bytes_done).div_ceil(rate))
}

fn fraction(done: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) }
}

impl From<JobFailure> for ErrorObject {
    fn from(failure: JobFailure) -> Self {
        let JobFailure { code, message, retryable, attempt } = failure;
        Self { code, message, retryable, attempt }
    }
}

#[cfg(test)]
mod tests {
    use super::{fraction, seconds_left};

    #[test]
    fn the_time_left_follows_from_the_rate() {
        let at = |bytes_done, bytes_per_second| jobs::Progress {
            tensors_done: 0,
            tensors_total: 1,
            bytes_done,
            bytes_total: 100,
            bytes_per_second,
            updated_at: 0,
        };
        let cases = [at(40, Some(30)), at(100, Some(30)), at(40, Some(0)), at(40, None)];
        assert_eq!(cases.map(|progress| seconds_left(&progress)), [Some(2), Some(0), None, None]);
    }

    #[test]
    fn a_fraction_lies_between_0_and_1() {
        assert_eq!([fraction(0, 0), fraction(5, 0), fraction(1, 4), fraction(5, 4)], [0.0, 0.0, 0.25, 1.0]);
    }
}
