//! A worker that stops gives its job back at once, so that another need not wait for the lease to run out.

use serde_json::json;

use super::statement::query;
use super::{Store, attempts, tasks};
use crate::{EventKind, JobsError, Lease, Level, NewEvent, Result, Status};

/// The attempt was no failure of the job, so it does not count against `max_attempts`.
const RELEASE: &str = "\
    update jobs set status = 'queued', phase = null, run_at = $3, max_attempts = max_attempts + 1, \
    lease_owner = null, lease_expires_at = null \
    where id = $1 and lease_token = $2 and status = 'running' and cancel_requested_at is null";

impl Store {
    /// `LeaseLost` when the lease is no longer the worker's, or the job is to be cancelled; then nothing has changed.
    pub async fn release(&self, lease: &Lease) -> Result<()> {
        let mut write = self.write("store.release").await?;
        let (id, now) = (&lease.job.id, write.now);
        let released = query(RELEASE).bind(id.as_str()).bind(lease.token).bind(now).execute(write.connection()).await?;
        if released.rows_affected() == 0 {
            return Err(JobsError::LeaseLost);
        }
        attempts::close(&mut write, id, lease.job.attempt, attempts::RELEASED, None).await?;
        tasks::set_status(&mut write, id, Status::Queued).await?;
        let event = NewEvent {
            kind: EventKind::Released,
            level: Level::Info,
            message: format!("worker {} stops and gives the job back", lease.worker),
            data: json!({"attempt": lease.job.attempt}),
        };
        write.append(id, event).await?;
        write.commit().await
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        EventKind, JobsError, NewJob, Status,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn a_job_given_back_is_claimed_at_once_and_has_lost_no_attempt() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(NewJob { max_attempts: 1, ..new_job() }).await.id;
            let lease = fixture.claim().await;
            fixture.store.release(&lease).await.unwrap();
            assert_eq!(fixture.job(&id).await.status, Status::Queued);
            let again = fixture.claim().await;
            assert_eq!((again.job.attempt, again.token), (2, lease.token + 1));
            assert_eq!(fixture.kinds(&id).await[2], EventKind::Released);
            assert_eq!(fixture.outcomes(&id).await, [Some("released".to_owned()), None]);
        })
        .await;
    }

    #[tokio::test]
    async fn only_the_holder_gives_back_and_not_what_is_to_be_cancelled() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let stale = fixture.claim().await;
            fixture.store.release(&stale).await.unwrap();
            let lease = fixture.claim().await;
            assert!(matches!(fixture.store.release(&stale).await, Err(JobsError::LeaseLost)));
            fixture.store.request_cancel(&id).await.unwrap();
            assert!(matches!(fixture.store.release(&lease).await, Err(JobsError::LeaseLost)));
            assert_eq!(fixture.job(&id).await.status, Status::Running);
        })
        .await;
    }
}
