//! Ends jobs whose lease expired and that no worker may claim again. Any process may run it, at any time.

use sqlx::{AssertSqlSafe, Row};

use super::{
    Store, attempts,
    connect::Dialect,
    end::{End, end},
    row,
    write::Write,
};
use crate::{JobId, Result};

const EXPIRED: &str = "\
    select id, lease_token, attempt, cancel_requested_at from jobs \
    where status = 'running' and lease_expires_at < $1 \
    and (attempt >= max_attempts or cancel_requested_at is not null) \
    order by lease_expires_at, id limit 1";

struct Expired {
    id: JobId,
    token: i64,
    attempt: i64,
    cancel_requested: bool,
}

impl Store {
    /// Fails what lost too many workers, cancels what was to be cancelled, and gives how many these were. The rest of the
    /// expired leases are for `claim`.
    pub async fn rescue(&self) -> Result<u64> {
        let mut rescued = 0;
        while self.rescue_one().await? {
            rescued += 1;
        }
        Ok(rescued)
    }

    async fn rescue_one(&self) -> Result<bool> {
        let mut write = self.write().await?;
        let Some(expired) = next_expired(&mut write).await? else {
            write.abandon().await?;
            return Ok(false);
        };
        close(&mut write, expired).await?;
        write.commit().await?;
        Ok(true)
    }
}

async fn next_expired(write: &mut Write<'_>) -> Result<Option<Expired>> {
    let now = write.now;
    let found = sqlx::query(expired_sql(write.dialect())).bind(now).fetch_optional(write.connection()).await?;
    let Some(found) = found else { return Ok(None) };
    Ok(Some(Expired {
        id: row::parsed(&found, "id")?,
        token: found.try_get("lease_token")?,
        attempt: found.try_get("attempt")?,
        cancel_requested: found.try_get::<Option<i64>, _>("cancel_requested_at")?.is_some(),
    }))
}

fn expired_sql(dialect: Dialect) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{EXPIRED} {}", dialect.for_update_skip_locked()))
}

async fn close(write: &mut Write<'_>, expired: Expired) -> Result<()> {
    let Expired { id, token, attempt, cancel_requested } = expired;
    let failure = attempts::close_lost(write, &id, attempt).await?;
    let how = if cancel_requested { End::Cancelled } else { End::Failed(failure) };
    end(write, &id, token, attempt, &how).await
}

#[cfg(test)]
mod tests {
    use crate::{
        EventKind, JobsError, NewJob, Status,
        testing::{TTL, new_job, on_each_database},
    };

    #[tokio::test]
    async fn worker_lost_too_often_fails() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(NewJob { max_attempts: 2, ..new_job() }).await.id;
            for attempt in 1..=2 {
                assert_eq!(fixture.claim().await.job.attempt, attempt);
                fixture.advance(TTL * 2).await;
            }
            assert!(fixture.try_claim().await.is_none());
            assert_eq!(fixture.store.rescue().await.unwrap(), 1);
            let job = fixture.job(&id).await;
            let error = job.error.expect("a failed job has an error");
            assert_eq!((job.status, error.code.as_str(), error.attempt), (Status::Failed, "worker_lost", 2));
            let kinds = fixture.kinds(&id).await;
            assert_eq!(kinds[kinds.len() - 2..], [EventKind::LeaseExpired, EventKind::Failed]);
            let lost = Some("worker_lost".to_owned());
            assert_eq!(fixture.outcomes(&id).await, [lost.clone(), lost]);
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
}
