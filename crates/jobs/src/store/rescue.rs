//! Ends jobs that no worker may claim any more: their lease ran out too often, or they waited too long. Any process may run it,
//! at any time.

use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::statement::query;
use super::{
    Store, attempts,
    end::{End, end, end_queued},
    row,
    write::Write,
};
use crate::{JobFailure, JobId, Result, WORKERS_LOST_MAX};

const EXPIRED: &str = "\
    select id, lease_token, attempt, cancel_requested_at from jobs \
    where status = 'running' and lease_expires_at < $1 and (lost + 1 >= $2 or cancel_requested_at is not null) \
    order by lease_expires_at, id limit 1";

const COUNT_LOST: &str = "update jobs set lost = lost + 1 where id = $1";

const WAITED_TOO_LONG: &str = "\
    select id from jobs where status = 'queued' and started_at is null and start_by <= $1 order by start_by, id limit 1";

const EXPIRED_IN_QUEUE: &str = "queue_ttl_exceeded";

impl Store {
    /// Fails what lost too many workers or waited too long, cancels what was to be cancelled, and gives how many these
    /// were. The rest of the expired leases are for `claim`.
    pub async fn rescue(&self) -> Result<u64> {
        let mut rescued = 0;
        while self.rescue_one().await? {
            rescued += 1;
        }
        Ok(rescued)
    }

    async fn rescue_one(&self) -> Result<bool> {
        let mut write = self.write("store.rescue").await?;
        if let Some(expired) = first(&mut write, EXPIRED, &[WORKERS_LOST_MAX]).await? {
            close(&mut write, &expired).await?;
        } else if let Some(waiting) = first(&mut write, WAITED_TOO_LONG, &[]).await? {
            expire(&mut write, &row::parsed(&waiting, "id")?).await?;
        } else {
            write.abandon().await?;
            return Ok(false);
        }
        write.commit().await?;
        Ok(true)
    }
}

async fn first(write: &mut Write<'_>, sql: &'static str, more: &[i64]) -> Result<Option<AnyRow>> {
    let lock = write.dialect().for_update_skip_locked();
    let mut query = query(AssertSqlSafe(format!("{sql} {lock}"))).bind(write.now);
    for value in more {
        query = query.bind(*value);
    }
    Ok(query.fetch_optional(write.connection()).await?)
}

async fn close(write: &mut Write<'_>, expired: &AnyRow) -> Result<()> {
    let id: JobId = row::parsed(expired, "id")?;
    let (token, attempt): (i64, i64) = (expired.try_get("lease_token")?, expired.try_get("attempt")?);
    let cancel_requested = expired.try_get::<Option<i64>, _>("cancel_requested_at")?.is_some();
    query(COUNT_LOST).bind(id.as_str()).execute(write.connection()).await?;
    let failure = attempts::close_lost(write, &id, attempt).await?;
    let how = if cancel_requested { End::Cancelled } else { End::Failed(failure) };
    end(write, &id, token, attempt, &how).await
}

async fn expire(write: &mut Write<'_>, id: &JobId) -> Result<()> {
    let failure = JobFailure {
        code: EXPIRED_IN_QUEUE.to_owned(),
        message: "no worker began the job within its time to live in the queue".to_owned(),
        retryable: true,
        attempt: 0,
    };
    end_queued(write, id, &End::Failed(failure)).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        Admission, EventKind, JobsError, NewJob, Status, WORKERS_LOST_MAX,
        testing::{TTL, new_job, on_each_database},
    };

    #[tokio::test]
    async fn worker_lost_too_often_fails() {
        on_each_database(async |fixture| {
            // however often it may be tried: that is for other failures
            let id = fixture.enqueue(NewJob { max_attempts: 1, ..new_job() }).await.id;
            for attempt in 1..=WORKERS_LOST_MAX {
                assert_eq!(fixture.claim().await.job.attempt, attempt);
                fixture.advance(TTL * 2).await;
            }
            assert!(fixture.try_claim().await.is_none());
            assert_eq!(fixture.store.rescue().await.unwrap(), 1);
            let job = fixture.job(&id).await;
            let error = job.error.expect("a failed job has an error");
            assert_eq!(
                (job.status, error.code.as_str(), error.attempt),
                (Status::Failed, "worker_lost", WORKERS_LOST_MAX)
            );
            let kinds = fixture.kinds(&id).await;
            assert_eq!(kinds[kinds.len() - 2..], [EventKind::LeaseExpired, EventKind::Failed]);
            let lost = Some("worker_lost".to_owned());
            assert_eq!(fixture.outcomes(&id).await, vec![lost; WORKERS_LOST_MAX as usize]);
            assert_eq!((job.lost, job.max_attempts), (WORKERS_LOST_MAX, 3));
            assert_eq!(fixture.store.rescue().await.unwrap(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_lost_job_that_was_to_be_cancelled_is_cancelled() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            fixture.store.request_cancel(&id).await.unwrap();
            assert_eq!(fixture.store.rescue().await.unwrap(), 0, "its worker may still stop in order");
            fixture.advance(TTL * 2).await;
            assert_eq!(fixture.store.rescue().await.unwrap(), 1);
            assert_eq!(fixture.job(&id).await.status, Status::Cancelled);
            assert!(matches!(fixture.store.heartbeat(&lease, None).await, Err(JobsError::LeaseLost)));
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_that_can_be_claimed_is_not_rescued() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            fixture.claim().await;
            fixture.advance(TTL * 2).await;
            assert_eq!(fixture.store.rescue().await.unwrap(), 0);
            assert_eq!(fixture.claim().await.job.attempt, 2);
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_that_waited_too_long_fails_and_one_that_was_begun_does_not() {
        on_each_database(async |fixture| {
            let admission = Admission { queue_ttl_ms: Some(1000), ..Admission::default() };
            let begun = fixture.enqueue(NewJob { admission: admission.clone(), ..new_job() }).await.id;
            let lease = fixture.claim().await;
            let waiting = fixture.enqueue(NewJob { admission, ..new_job() }).await.id;
            fixture.advance(Duration::from_secs(2)).await;
            fixture.store.release(&lease).await.unwrap();
            assert_eq!(fixture.claim().await.job.id, begun);
            assert!(fixture.try_claim().await.is_none());
            assert_eq!(fixture.store.rescue().await.unwrap(), 1);
            let job = fixture.job(&waiting).await;
            assert_eq!((job.status, job.error.unwrap().code.as_str()), (Status::Failed, "queue_ttl_exceeded"));
            assert_eq!(fixture.kinds(&waiting).await, [EventKind::Queued, EventKind::Failed]);
            assert_eq!(fixture.store.rescue().await.unwrap(), 0);
        })
        .await;
    }
}
