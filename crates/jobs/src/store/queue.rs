//! The queue as a whole: whether its jobs are begun.

use super::Store;
use super::statement::{query, query_as};
use crate::{Action, Result};

const PAUSE: &str = "update queues set paused_at = $1 where name = 'default' and paused_at is null";

const RESUME: &str = "update queues set paused_at = null where name = 'default' and paused_at is not null";

/// The name of the one queue there is.
const DEFAULT: &str = "default";

const STATE: &str = "\
    select (select paused_at from queues where name = 'default'), \
    (select count(*) from jobs where status = 'queued'), \
    (select count(*) from jobs where status = 'running'), \
    (select min(run_at) from jobs where status = 'queued')";

/// Times are milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Since when no job is begun; what runs goes on.
    pub paused_at: Option<i64>,
    pub queued: i64,
    pub running: i64,
    /// When the job that waits longest could have begun.
    pub oldest_run_at: Option<i64>,
}

impl Store {
    /// Jobs are accepted, and those that run go on, but none is begun. Again is no error.
    pub async fn pause(&self) -> Result<QueueState> {
        let mut write = self.write("store.pause").await?;
        // a claim that has counted already must not come after
        write.one_claim_at_a_time().await?;
        let now = write.now;
        if query(PAUSE).bind(now).execute(write.connection()).await?.rows_affected() > 0 {
            write.audit(Action::QueuePaused, DEFAULT).await?;
        }
        write.commit().await?;
        self.queue().await
    }

    pub async fn resume(&self) -> Result<QueueState> {
        let mut write = self.write("store.resume").await?;
        if query(RESUME).execute(write.connection()).await?.rows_affected() > 0 {
            write.audit(Action::QueueResumed, DEFAULT).await?;
        }
        write.commit().await?;
        self.queue().await
    }

    pub async fn queue(&self) -> Result<QueueState> {
        let (paused_at, queued, running, oldest_run_at) =
            query_as(STATE).fetch_one(&mut *self.reading().await?).await?;
        Ok(QueueState { paused_at, queued, running, oldest_run_at })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{new_job, on_each_database};

    #[tokio::test]
    async fn a_paused_queue_accepts_and_begins_nothing() {
        on_each_database(async |fixture| {
            let running = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let paused = fixture.store.pause().await.unwrap();
            assert!(paused.paused_at.is_some());
            assert_eq!(fixture.store.pause().await.unwrap(), paused, "pausing again changes nothing");
            fixture.enqueue(new_job()).await;
            assert!(fixture.try_claim().await.is_none());
            fixture.store.heartbeat(&lease, None).await.unwrap();
            let resumed = fixture.store.resume().await.unwrap();
            assert_eq!((resumed.paused_at, resumed.queued, resumed.running), (None, 1, 1));
            assert_ne!(fixture.claim().await.job.id, running);
        })
        .await;
    }
}
