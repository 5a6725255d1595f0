//! One row for each lease a job had. Errors of attempts that were tried again are kept here.

use serde_json::json;
use sqlx::{Row, any::AnyRow};

use super::statement::query;
use super::{Store, row, write::Write};
use crate::{EventKind, JobFailure, JobId, Level, NewEvent, Result, WorkerId};

const OPEN: &str = "insert into attempts (job_id, attempt, worker, started_at) values ($1, $2, $3, $4)";

const OF_JOB: &str = "\
    select attempt, worker, started_at, finished_at, outcome, error from attempts where job_id = $1 order by attempt";

/// One lease of a job. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub attempt: i64,
    pub worker: String,
    pub started_at: i64,
    /// Absent while it goes on.
    pub finished_at: Option<i64>,
    /// `succeeded`, `failed`, `cancelled`, `retried`, `released` or `worker_lost`.
    pub outcome: Option<String>,
    pub error: Option<JobFailure>,
}

impl Store {
    /// The attempts at a job, in order; none for an unknown job.
    pub async fn attempts(&self, id: &JobId) -> Result<Vec<Attempt>> {
        let rows = query(OF_JOB).bind(id.as_str()).fetch_all(&mut *self.reading().await?).await?;
        let attempt = |row| {
            Ok(Attempt {
                attempt: AnyRow::try_get(row, "attempt")?,
                worker: row.try_get("worker")?,
                started_at: row.try_get("started_at")?,
                finished_at: row.try_get("finished_at")?,
                outcome: row.try_get("outcome")?,
                error: row::optional_json(row, "error")?,
            })
        };
        rows.iter().map(attempt).collect()
    }
}

const CLOSE: &str = "\
    update attempts set finished_at = $3, outcome = $4, error = $5 \
    where job_id = $1 and attempt = $2 and finished_at is null \
    returning worker";

/// How an attempt ended, which can differ from how its job did.
pub(super) const RETRIED: &str = "retried";
pub(super) const RELEASED: &str = "released";
const WORKER_LOST: &str = "worker_lost";

pub(super) async fn open(write: &mut Write<'_>, id: &JobId, attempt: i64, worker: &WorkerId) -> Result<()> {
    let now = write.now;
    query(OPEN).bind(id.as_str()).bind(attempt).bind(worker.as_str()).bind(now).execute(write.connection()).await?;
    Ok(())
}

/// Gives the worker whose attempt this closes; `None` when it was closed before.
pub(super) async fn close(
    write: &mut Write<'_>,
    id: &JobId,
    attempt: i64,
    outcome: &str,
    failure: Option<&JobFailure>,
) -> Result<Option<String>> {
    let now = write.now;
    let closed = query(CLOSE)
        .bind(id.as_str())
        .bind(attempt)
        .bind(now)
        .bind(outcome)
        .bind(failure.map(to_text))
        .fetch_optional(write.connection())
        .await?;
    Ok(closed.map(|row| row.try_get("worker")).transpose()?)
}

/// Closes an attempt whose worker stopped renewing the lease, and tells so unless that was told before.
pub(super) async fn close_lost(write: &mut Write<'_>, id: &JobId, attempt: i64) -> Result<JobFailure> {
    let failure = JobFailure {
        code: WORKER_LOST.to_owned(),
        message: format!("the worker of attempt {attempt} stopped renewing its lease"),
        retryable: true,
        attempt,
    };
    if let Some(worker) = close(write, id, attempt, WORKER_LOST, Some(&failure)).await? {
        write.append(id, lease_expired(attempt, &worker)).await?;
    }
    Ok(failure)
}

fn lease_expired(attempt: i64, worker: &str) -> NewEvent {
    NewEvent {
        kind: EventKind::LeaseExpired,
        level: Level::Warn,
        message: format!("worker {worker} stopped renewing the lease of attempt {attempt}"),
        data: json!({"attempt": attempt, "worker": worker}),
    }
}

pub(super) fn to_text(failure: &JobFailure) -> String {
    serde_json::to_string(failure).expect("strings, a number and a boolean are JSON")
}
