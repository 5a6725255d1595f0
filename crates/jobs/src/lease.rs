//! The time-bound right to run a job, and what its holder and its canceller hear back.

use std::time::Duration;

use serde_json::Value;

use crate::{Job, JobFailure, NewEvent, WorkerId};

/// Held by one worker at a time. Every write it makes carries the token; once another worker has claimed the job, or the job
/// has ended, such a write changes nothing and fails with `LeaseLost`.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The job as it was when claimed.
    pub job: Job,
    pub worker: WorkerId,
    pub token: i64,
    /// A heartbeat must arrive within this time of the former one.
    pub ttl: Duration,
}

/// The answer to a heartbeat that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub cancel_requested: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Succeeded {
        publication: Value,
        /// Told before the end, in the same transaction.
        published: Option<NewEvent>,
    },
    Failed(JobFailure),
    Cancelled,
    /// Queue the job again after `delay`. It fails instead when this was its last attempt, and is cancelled when that was asked.
    Retry {
        failure: JobFailure,
        delay: Duration,
    },
}

/// What asking for a cancel came to. Asking again gives the same answer.
#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// No worker had it: it is cancelled now.
    Cancelled(Job),
    /// Its worker is told at the next heartbeat.
    Cancelling(Job),
    /// It had succeeded or failed before.
    AlreadyFinished(Job),
}
