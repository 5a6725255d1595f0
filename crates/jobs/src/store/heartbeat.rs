//! Renews a lease. Progress goes out with it, and the wish to cancel comes back.

use sqlx::Row;

use super::statement::query;
use super::{Store, millis};
use crate::{Heartbeat, JobsError, Lease, Progress, Result};

const HEARTBEAT: &str = "\
    update jobs set lease_expires_at = $3, progress = coalesce($4, progress) \
    where id = $1 and lease_token = $2 and status = 'running' \
    returning cancel_requested_at";

impl Store {
    /// `LeaseLost` when another worker has claimed the job or it has ended. A lease that expired but that nobody took is renewed.
    pub async fn heartbeat(&self, lease: &Lease, progress: Option<&Progress>) -> Result<Heartbeat> {
        let mut write = self.write("store.heartbeat").await?;
        let renewed = query(HEARTBEAT)
            .bind(lease.job.id.as_str())
            .bind(lease.token)
            .bind(write.now.saturating_add(millis(lease.ttl)))
            .bind(progress.map(to_text))
            .fetch_optional(write.connection())
            .await?
            .ok_or(JobsError::LeaseLost)?;
        let cancel_requested_at: Option<i64> = renewed.try_get("cancel_requested_at")?;
        write.commit().await?;
        Ok(Heartbeat { cancel_requested: cancel_requested_at.is_some() })
    }
}

fn to_text(progress: &Progress) -> String {
    serde_json::to_string(progress).expect("numbers and a word are JSON")
}

#[cfg(test)]
mod tests {
    use crate::{
        Progress,
        testing::{TTL, new_job, on_each_database},
    };

    fn progress(tensors_done: u64) -> Progress {
        let bytes_total = u64::MAX;
        Progress {
            tensors_done,
            tensors_total: 9,
            bytes_done: 1,
            bytes_total,
            bytes_per_second: Some(7),
            updated_at: 5,
        }
    }

    #[tokio::test]
    async fn a_heartbeat_keeps_the_lease() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            let lease = fixture.claim().await;
            for _ in 0..3 {
                fixture.advance(TTL * 2 / 3).await;
                fixture.store.heartbeat(&lease, None).await.unwrap();
                assert!(fixture.try_claim().await.is_none());
            }
        })
        .await;
    }

    #[tokio::test]
    async fn progress_is_kept_until_the_next() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            fixture.store.heartbeat(&lease, Some(&progress(4))).await.unwrap();
            fixture.store.heartbeat(&lease, None).await.unwrap();
            assert_eq!(fixture.job(&id).await.progress, Some(progress(4)));
        })
        .await;
    }

    #[tokio::test]
    async fn a_heartbeat_brings_the_cancel() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            assert!(!fixture.store.heartbeat(&lease, None).await.unwrap().cancel_requested);
            fixture.store.request_cancel(&id).await.unwrap();
            assert!(fixture.store.heartbeat(&lease, None).await.unwrap().cancel_requested);
        })
        .await;
    }
}
