//! Which other job has the artifact of a job, or may have it soon: one that succeeded with what that had published, or that runs
//! the same plan and may find it.

use serde_json::Value;

use super::statement::query;
use super::{Store, row};
use crate::{Job, JobId, Result};

/// Only jobs of one plan have one artifact.
const OF_PLAN: &str = "\
    select id, publication from jobs where tenant = $1 and plan_digest = $2 and id <> $3 \
    and ((status = 'succeeded' and publication is not null) or (status = 'running' and reuse <> 0)) order by id";

impl Store {
    /// The first other job of its tenant whose artifact is at the same place.
    pub async fn sharing(&self, job: &Job) -> Result<Option<JobId>> {
        let (Some(published), Some(plan)) = (&job.publication, &job.plan_digest) else { return Ok(None) };
        let rows = query(OF_PLAN)
            .bind(job.tenant.as_str())
            .bind(plan.as_str())
            .bind(job.id.as_str())
            .fetch_all(&mut *self.reading().await?)
            .await?;
        for row in &rows {
            let theirs: Option<Value> = row::optional_json(row, "publication")?;
            if theirs.is_none_or(|theirs| theirs["uri"] == published["uri"]) {
                return Ok(Some(row::parsed(row, "id")?));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Fixture, new_job, on_each_database};
    use crate::{Admission, Job, NewJob, Outcome};

    async fn done(fixture: &Fixture, tenant: &str, plan: &str, uri: &str) -> Job {
        let admission = Admission { tenant: tenant.to_owned(), ..Admission::default() };
        let id = fixture.enqueue(NewJob { admission, ..new_job() }).await.id;
        let lease = fixture.claim().await;
        fixture.store.set_plan_digest(&lease, plan).await.unwrap();
        let publication = json!({"uri": uri});
        fixture.store.finish(&lease, Outcome::Succeeded { publication, published: None }).await.unwrap();
        fixture.job(&id).await
    }

    #[tokio::test]
    async fn only_a_job_of_the_tenant_with_the_same_place_shares_an_artifact() {
        on_each_database(async |fixture| {
            let first = done(fixture, "a", "plan", "file:///one").await;
            done(fixture, "a", "plan", "file:///two").await;
            done(fixture, "b", "plan", "file:///one").await;
            done(fixture, "a", "other", "file:///one").await;
            assert_eq!(fixture.store.sharing(&first).await.unwrap(), None);
            let admission = Admission { tenant: "a".to_owned(), reuse: true, ..Admission::default() };
            let runs = fixture.enqueue(NewJob { admission, ..new_job() }).await.id;
            let lease = fixture.claim().await;
            fixture.store.set_plan_digest(&lease, "plan").await.unwrap();
            assert_eq!(fixture.store.sharing(&first).await.unwrap(), Some(runs), "it may find it");
            fixture.store.finish(&lease, Outcome::Cancelled).await.unwrap();
            assert_eq!(fixture.store.sharing(&first).await.unwrap(), None);
            let reused = done(fixture, "a", "plan", "file:///one").await;
            assert_eq!(fixture.store.sharing(&first).await.unwrap(), Some(reused.id.clone()));
            assert_eq!(fixture.store.sharing(&reused).await.unwrap(), Some(first.id));
            let waiting = fixture.enqueue(new_job()).await;
            assert_eq!(fixture.store.sharing(&waiting).await.unwrap(), None);
        })
        .await;
    }
}
