//! Reads one job.

use super::statement::query;
use super::{Store, row};
use crate::{Job, JobId, Result};

impl Store {
    pub async fn job(&self, id: &JobId) -> Result<Option<Job>> {
        let found = query(row::select_job("where id = $1", ""))
            .bind(id.as_str())
            .fetch_optional(&mut *self.reading().await?)
            .await?;
        found.as_ref().map(row::job).transpose()
    }

    /// Whether a cancel is asked for of a job that runs. Costs no write, so that its worker may ask often.
    pub async fn is_cancelling(&self, id: &JobId) -> Result<bool> {
        let found = query(CANCELLING).bind(id.as_str()).fetch_optional(&mut *self.reading().await?).await?;
        Ok(found.is_some())
    }
}

const CANCELLING: &str = "select id from jobs where id = $1 and status = 'running' and cancel_requested_at is not null";

#[cfg(test)]
mod tests {
    use crate::{
        JobId,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn only_a_running_job_that_is_to_be_cancelled_is_cancelling() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            fixture.claim().await;
            assert!(!fixture.store.is_cancelling(&id).await.unwrap());
            fixture.store.request_cancel(&id).await.unwrap();
            assert!(fixture.store.is_cancelling(&id).await.unwrap());
            let queued = fixture.enqueue(new_job()).await.id;
            fixture.store.request_cancel(&queued).await.unwrap();
            assert!(!fixture.store.is_cancelling(&queued).await.unwrap());
        })
        .await;
    }

    #[tokio::test]
    async fn an_unknown_job_is_none() {
        on_each_database(async |fixture| {
            assert!(fixture.store.job(&JobId::generate()).await.unwrap().is_none());
        })
        .await;
    }
}
