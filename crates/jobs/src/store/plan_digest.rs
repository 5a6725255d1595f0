//! Notes which plan a job is made by.

use super::Store;
use crate::{JobsError, Lease, Result};

const SET_PLAN_DIGEST: &str = "\
    update jobs set plan_digest = $3 \
    where id = $1 and lease_token = $2 and status = 'running'";

impl Store {
    pub async fn set_plan_digest(&self, lease: &Lease, digest: &str) -> Result<()> {
        let mut write = self.write().await?;
        let set = sqlx::query(SET_PLAN_DIGEST)
            .bind(lease.job.id.as_str())
            .bind(lease.token)
            .bind(digest)
            .execute(write.connection())
            .await?;
        if set.rows_affected() == 0 {
            return Err(JobsError::LeaseLost);
        }
        write.commit().await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{new_job, on_each_database};

    #[tokio::test]
    async fn the_plan_digest_is_kept() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            fixture.store.set_plan_digest(&lease, "abc").await.unwrap();
            assert_eq!(fixture.job(&id).await.plan_digest.as_deref(), Some("abc"));
        })
        .await;
    }
}
