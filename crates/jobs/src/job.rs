//! One recipe submitted: what was asked, and what became of it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Admission, GroupId, JobId, JobWebhook, Requirements};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted and durable; no worker has it, or its next attempt waits for its time.
    Queued,
    /// A worker holds its lease. If that worker dies, the lease expires and another worker claims the job.
    Running,
    /// Published at its target. Final.
    Succeeded,
    /// Given up, with the error kept. Final.
    Failed,
    /// Ended because someone asked for it. Final.
    Cancelled,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// A terminal job never changes again.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// What the worker of a running job is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Fetching,
    Planning,
    Merging,
    Publishing,
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Fetching, Self::Planning, Self::Merging, Self::Publishing];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Planning => "planning",
            Self::Merging => "merging",
            Self::Publishing => "publishing",
        }
    }
}

/// The syntax the recipe was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipeFormat {
    Yaml,
    Json,
}

impl RecipeFormat {
    pub const ALL: [Self; 2] = [Self::Yaml, Self::Json];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Json => "json",
        }
    }
}

/// What `Store::enqueue` takes: a checked recipe and what belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    pub id: JobId,
    /// The recipe as the user wrote it.
    pub recipe: String,
    pub recipe_format: RecipeFormat,
    pub method: String,
    pub lenient: bool,
    pub output: Value,
    pub labels: Map<String, Value>,
    pub metadata: Map<String, Value>,
    /// Higher goes first.
    pub priority: i64,
    pub max_attempts: i64,
    pub admission: Admission,
    /// The job that this one does again.
    pub retry_of: Option<JobId>,
    pub member: Option<Member>,
    /// Told of this job, beside the endpoints of its tenant.
    pub webhook: Option<JobWebhook>,
    pub origin: Origin,
    pub idempotency: Option<Idempotency>,
}

impl NewJob {
    /// A YAML recipe with nothing asked beside it.
    pub fn of(recipe: &str, method: &str) -> Self {
        Self {
            id: JobId::generate(),
            recipe: recipe.to_owned(),
            recipe_format: RecipeFormat::Yaml,
            method: method.to_owned(),
            lenient: false,
            output: Value::Object(Map::new()),
            labels: Map::new(),
            metadata: Map::new(),
            priority: 0,
            max_attempts: 3,
            admission: Admission::default(),
            retry_of: None,
            member: None,
            webhook: None,
            origin: Origin::default(),
            idempotency: None,
        }
    }
}

/// The request that a job came with, so that what its worker logs can be told to belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    pub request_id: Option<String>,
    /// Where the request stands in a trace, as W3C Trace Context writes it.
    pub traceparent: Option<String>,
}

impl Origin {
    /// The part of `traceparent` that names the trace.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

/// Its place in a group: the jobs of one request, one for each variant of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub group: GroupId,
    /// From 0 on, in the order of the request.
    pub position: i64,
    /// The name of the variant.
    pub variant: String,
    /// What the variant sets.
    pub settings: Map<String, Value>,
}

/// A key chosen by the client, and the digest of the request it first came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub request_digest: String,
}

/// What `Store::enqueue` gives back, and for all jobs of a group `Store::enqueue_group`.
#[derive(Debug, Clone, PartialEq)]
pub enum Enqueued<T = Job> {
    Created(T),
    /// The key had been used with the same request: this is that job, as it stands now.
    Replayed(T),
}

/// A job as stored. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: JobId,
    /// Who may see it; empty where no keys are asked for.
    pub tenant: String,
    pub status: Status,
    /// Known while the job is running.
    pub phase: Option<Phase>,
    pub recipe: String,
    pub recipe_format: RecipeFormat,
    pub method: String,
    pub lenient: bool,
    pub output: Value,
    pub labels: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub priority: i64,
    /// How often it was claimed; 0 before the first claim.
    pub attempt: i64,
    /// How often it may be tried, attempts that ended for no fault of its own not counted.
    pub max_attempts: i64,
    /// How many of its workers were lost.
    pub lost: i64,
    /// When it may be begun.
    pub run_at: i64,
    /// By when a worker must have begun it.
    pub start_by: Option<i64>,
    /// How long an attempt may take, in milliseconds.
    pub timeout_ms: Option<i64>,
    /// What another job has published for the same plan will do.
    pub reuse: bool,
    pub requirements: Requirements,
    /// The job that this one does again.
    pub retry_of: Option<JobId>,
    /// Absent for a job submitted alone.
    pub member: Option<Member>,
    /// Told of this job, beside the endpoints of its tenant.
    pub webhook: Option<JobWebhook>,
    pub origin: Origin,
    pub cancel_requested_at: Option<i64>,
    /// What the worker of the latest attempt last reported.
    pub progress: Option<Progress>,
    /// Why a failed job failed.
    pub error: Option<JobFailure>,
    pub publication: Option<Value>,
    pub plan_digest: Option<String>,
    /// Who holds the lease, or held it last when the job has ended.
    pub worker: Option<String>,
    pub created_at: i64,
    /// When the first attempt began.
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    /// The `seq` of its newest event.
    pub last_seq: i64,
}

impl Job {
    /// A cancel is asked for and its worker has not yet stopped.
    pub fn is_cancelling(&self) -> bool {
        self.status == Status::Running && self.cancel_requested_at.is_some()
    }
}

/// How far a merge is, as its worker last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub tensors_done: u64,
    pub tensors_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// Of late; absent until there is a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Milliseconds since the epoch, by the worker's clock.
    pub updated_at: i64,
}

/// Why an attempt, or the whole job, failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The same job may succeed when tried again.
    pub retryable: bool,
    pub attempt: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word;

    #[test]
    fn every_word_reads_back() {
        assert!(Status::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
        assert!(Phase::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
        assert!(RecipeFormat::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
    }
}
