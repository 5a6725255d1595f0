//! The last write on a job that was running, whoever makes it: its worker or a rescue.

use serde_json::{Value, json};

use super::statement::query;
use super::{attempts, tasks, write::Write};
use crate::{EventKind, JobFailure, JobId, JobsError, Level, NewEvent, Result, Status};

/// The owner stays, to tell who ran it.
const END: &str = "\
    update jobs set status = $3, phase = null, lease_expires_at = null, finished_at = $4, error = $5, publication = $6 \
    where id = $1 and lease_token = $2 and status = 'running'";

#[derive(Debug, PartialEq)]
pub(super) enum End {
    Succeeded { publication: Value },
    Failed(JobFailure),
    Cancelled,
}

impl End {
    pub(super) const fn status(&self) -> Status {
        match self {
            Self::Succeeded { .. } => Status::Succeeded,
            Self::Failed(_) => Status::Failed,
            Self::Cancelled => Status::Cancelled,
        }
    }

    fn failure(&self) -> Option<&JobFailure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Succeeded { .. } | Self::Cancelled => None,
        }
    }

    fn publication(&self) -> Option<&Value> {
        match self {
            Self::Succeeded { publication } => Some(publication),
            Self::Failed(_) | Self::Cancelled => None,
        }
    }

    fn event(&self, attempt: i64) -> NewEvent {
        let (kind, level, message) = match self {
            Self::Succeeded { .. } => (EventKind::Succeeded, Level::Info, "job succeeded"),
            Self::Failed(failure) => (EventKind::Failed, Level::Error, failure.message.as_str()),
            Self::Cancelled => (EventKind::Cancelled, Level::Info, "job cancelled"),
        };
        let data = match self.failure() {
            Some(JobFailure { code, retryable, .. }) => {
                json!({"attempt": attempt, "code": code, "retryable": retryable})
            }
            None => json!({"attempt": attempt}),
        };
        NewEvent { kind, level, message: message.to_owned(), data }
    }
}

/// `LeaseLost` when the token is not the job's present one.
pub(super) async fn end(write: &mut Write<'_>, id: &JobId, token: i64, attempt: i64, end: &End) -> Result<()> {
    let now = write.now;
    let ended = query(END)
        .bind(id.as_str())
        .bind(token)
        .bind(end.status().as_str())
        .bind(now)
        .bind(end.failure().map(attempts::to_text))
        .bind(end.publication().map(Value::to_string))
        .execute(write.connection())
        .await?;
    if ended.rows_affected() == 0 {
        return Err(JobsError::LeaseLost);
    }
    // a rescue has closed the attempt before, as lost
    attempts::close(write, id, attempt, end.status().as_str(), end.failure()).await?;
    tasks::set_status(write, id, end.status()).await?;
    write.append(id, end.event(attempt)).await
}

const END_QUEUED: &str = "\
    update jobs set status = $2, finished_at = $3, error = $4 where id = $1 and status = 'queued'";

/// Ends a job that no worker has.
pub(super) async fn end_queued(write: &mut Write<'_>, id: &JobId, end: &End) -> Result<()> {
    let now = write.now;
    query(END_QUEUED)
        .bind(id.as_str())
        .bind(end.status().as_str())
        .bind(now)
        .bind(end.failure().map(attempts::to_text))
        .execute(write.connection())
        .await?;
    tasks::set_status(write, id, end.status()).await?;
    write.append(id, end.event(0)).await
}
