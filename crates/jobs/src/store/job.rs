//! Reads one job.

use super::{Store, row};
use crate::{Job, JobId, Result};

impl Store {
    pub async fn job(&self, id: &JobId) -> Result<Option<Job>> {
        let found = sqlx::query(row::select_job("where id = $1", ""))
            .bind(id.as_str())
            .fetch_optional(&self.shared.reader)
            .await?;
        found.as_ref().map(row::job).transpose()
    }
}

#[cfg(test)]
mod tests {
    use crate::{JobId, testing::on_each_database};

    #[tokio::test]
    async fn an_unknown_job_is_none() {
        on_each_database(async |fixture| {
            assert!(fixture.store.job(&JobId::generate()).await.unwrap().is_none());
        })
        .await;
    }
}
