//! Which plan a job is made by, and what has come of that plan before.

use serde_json::Value;

use super::statement::query;
use super::{Store, row};
use crate::{JobId, JobsError, Lease, Result};

const SET_PLAN_DIGEST: &str = "\
    update jobs set plan_digest = $3 \
    where id = $1 and lease_token = $2 and status = 'running'";

const PUBLISHED: &str = "\
    select id, publication from jobs \
    where tenant = $2 and plan_digest = $1 and status = 'succeeded' and publication is not null order by finished_at desc limit 10";

impl Store {
    /// What other jobs of a tenant have published for this plan, newest first. Whether it is still there is for the caller to see.
    pub async fn published_by_plan(&self, tenant: &str, digest: &str) -> Result<Vec<(JobId, Value)>> {
        let rows = query(PUBLISHED).bind(digest).bind(tenant).fetch_all(&mut *self.reading().await?).await?;
        rows.iter().map(|row| Ok((row::parsed(row, "id")?, row::json(row, "publication")?))).collect()
    }

    pub async fn set_plan_digest(&self, lease: &Lease, digest: &str) -> Result<()> {
        let mut write = self.write("store.plan_digest").await?;
        let set = query(SET_PLAN_DIGEST)
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
