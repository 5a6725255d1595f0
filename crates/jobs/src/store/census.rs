//! How many jobs stand where, for whoever watches the queue.

use sqlx::Row;

use super::Store;
use super::statement::{query, query_scalar};
use crate::{JobsError, Result, Status};

const BY_STATUS: &str = "select status, count(*) as jobs from jobs group by status";

const OLDEST: &str = "select min(run_at) from jobs where status = 'queued'";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Of every status there is.
    pub jobs: Vec<(Status, i64)>,
    /// How long the job that waits longest could have been begun, in milliseconds.
    pub oldest_wait_ms: i64,
}

impl Store {
    /// Reads an index over all jobs: not to be asked for with every request.
    pub async fn census(&self) -> Result<Census> {
        let now = self.now().await?;
        let mut reader = self.reading().await?;
        let rows = query(BY_STATUS).fetch_all(&mut *reader).await?;
        let oldest: Option<i64> = query_scalar(OLDEST).fetch_one(&mut *reader).await?;
        let mut jobs: Vec<(Status, i64)> = Status::ALL.map(|status| (status, 0)).to_vec();
        for row in &rows {
            let (word, count): (String, i64) = (row.try_get("status")?, row.try_get("jobs")?);
            let counted = jobs.iter_mut().find(|(status, _)| status.as_str() == word);
            let counted = counted.ok_or_else(|| JobsError::Corrupt { column: "status", reason: word })?;
            counted.1 = count;
        }
        Ok(Census { jobs, oldest_wait_ms: oldest.map_or(0, |oldest| now.saturating_sub(oldest).max(0)) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        Admission, NewJob, Status,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn every_job_is_counted_where_it_stands() {
        on_each_database(async |fixture| {
            let empty = fixture.store.census().await.unwrap();
            assert_eq!((empty.jobs, empty.oldest_wait_ms), (Status::ALL.map(|status| (status, 0)).to_vec(), 0));
            let cancelled = fixture.enqueue(new_job()).await.id;
            fixture.store.request_cancel(&cancelled).await.unwrap();
            fixture.enqueue(new_job()).await;
            fixture.claim().await;
            let admission = Admission { run_at: Some(i64::MAX / 2), ..Admission::default() };
            fixture.enqueue(NewJob { admission, ..new_job() }).await;
            let waits_for_its_time = fixture.store.census().await.unwrap();
            assert_eq!(waits_for_its_time.oldest_wait_ms, 0);
            fixture.enqueue(new_job()).await;
            fixture.advance(Duration::from_secs(90)).await;
            let census = fixture.store.census().await.unwrap();
            let counts: Vec<i64> = census.jobs.iter().map(|(_, count)| *count).collect();
            assert_eq!(counts, [2, 1, 0, 0, 1]);
            assert!((90_000..100_000).contains(&census.oldest_wait_ms), "{census:?}");
        })
        .await;
    }
}
