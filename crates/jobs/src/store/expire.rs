//! Ends the leases of a worker that is known to be dead, so that its jobs need not wait for them to run out.

use super::Store;
use super::statement::query;
use crate::Result;

/// Only the time is touched: the claim that follows tells the rest, as for any lease that ran out.
const EXPIRE: &str = "\
    update jobs set lease_expires_at = $2 \
    where lease_owner = $1 and status = 'running' and lease_expires_at > $2";

impl Store {
    /// How many leases this ended. The caller answers for the worker's death.
    pub async fn expire_leases(&self, worker: &str) -> Result<u64> {
        let mut write = self.write("store.expire").await?;
        let before_now = write.now - 1;
        let expired = query(EXPIRE).bind(worker).bind(before_now).execute(write.connection()).await?;
        write.commit().await?;
        Ok(expired.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{new_job, on_each_database};

    #[tokio::test]
    async fn a_dead_workers_job_is_claimed_at_once() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            assert_eq!(fixture.store.expire_leases("someone-else").await.unwrap(), 0);
            assert!(fixture.try_claim().await.is_none());
            assert_eq!(fixture.store.expire_leases(lease.worker.as_str()).await.unwrap(), 1);
            fixture.advance(std::time::Duration::from_millis(1)).await;
            assert_eq!(fixture.claim().await.job.id, id);
        })
        .await;
    }
}
