//! Forgets what is over for long.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::statement::query;
use super::{Store, millis, row, write::Write};
use crate::{JobId, Result};

/// What is kept for how long after a job has ended; without a time for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// The job, with all that belongs to it.
    pub jobs: Option<Duration>,
    /// Its event log.
    pub events: Option<Duration>,
    /// Workers that were not heard of.
    pub workers: Option<Duration>,
    /// Entries of the audit log, by their own age.
    pub audit: Option<Duration>,
}

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    pub jobs: u64,
    pub events: u64,
    pub workers: u64,
    pub audit: u64,
}

/// Jobs forgotten in one transaction: others must not wait long.
const BATCH: i64 = 100;

const OVER: &str = "\
    select id from jobs where status in ('succeeded', 'failed', 'cancelled') and finished_at < $1 \
    order by finished_at limit $2";

const OVER_WITH_EVENTS: &str = "\
    select id from jobs where status in ('succeeded', 'failed', 'cancelled') and finished_at < $1 \
    and exists (select 1 from events where job_id = jobs.id) \
    order by finished_at limit $2";

pub(super) const PARTS_OF: [&str; 4] = [
    "delete from deliveries where job_id = $1",
    "delete from attempts where job_id = $1",
    "delete from tasks where job_id = $1",
    "delete from jobs where id = $1",
];

impl Store {
    pub async fn prune(&self, retention: Retention) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        if let Some(age) = retention.events {
            while let Some((_, events)) = self.prune_batch(OVER_WITH_EVENTS, age, &[]).await? {
                pruned.events += events;
            }
        }
        if let Some(age) = retention.jobs {
            while let Some((jobs, events)) = self.prune_batch(OVER, age, &PARTS_OF).await? {
                pruned.jobs += jobs;
                pruned.events += events;
            }
        }
        if let Some(silent_for) = retention.workers {
            pruned.workers = self.forget_workers(silent_for).await?;
        }
        if let Some(age) = retention.audit {
            pruned.audit = self.forget_audit(age).await?;
        }
        Ok(pruned)
    }

    /// How many jobs and events went; `None` when there were none.
    async fn prune_batch(
        &self,
        which: &'static str,
        age: Duration,
        parts: &[&'static str],
    ) -> Result<Option<(u64, u64)>> {
        let mut write = self.write("store.prune").await?;
        let jobs = over(&mut write, which, age).await?;
        if jobs.is_empty() {
            write.abandon().await?;
            return Ok(None);
        }
        let mut events = 0;
        for job in &jobs {
            events += write.forget_events(job).await?;
            for part in parts {
                query(*part).bind(job.as_str()).execute(write.connection()).await?;
            }
        }
        write.commit_quietly().await?;
        Ok(Some((jobs.len() as u64, events)))
    }
}

async fn over(write: &mut Write<'_>, which: &'static str, age: Duration) -> Result<Vec<JobId>> {
    let sql = AssertSqlSafe(format!("{which} {}", write.dialect().for_update_skip_locked()));
    let before = write.now.saturating_sub(millis(age));
    let rows = query(sql).bind(before).bind(BATCH).fetch_all(write.connection()).await?;
    rows.iter().map(|row| row::parsed(row, "id")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{Pruned, Retention};
    use crate::{
        Outcome,
        testing::{new_job, on_each_database},
    };

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test]
    async fn what_is_over_for_long_goes_and_nothing_else() {
        on_each_database(async |fixture| {
            for _ in 0..105 {
                let id = fixture.enqueue(new_job()).await.id;
                fixture.store.request_cancel(&id).await.unwrap();
            }
            fixture.sql("update jobs set finished_at = finished_at - 172800000").await;
            let fresh = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            fixture.store.finish(&lease, Outcome::Succeeded { publication: json!({}), published: None }).await.unwrap();
            let waiting = fixture.enqueue(new_job()).await.id;
            assert_eq!(fixture.store.prune(Retention::default()).await.unwrap(), Pruned::default());
            let events_only = Retention { events: Some(DAY), ..Retention::default() };
            assert_eq!(fixture.store.prune(events_only).await.unwrap(), Pruned { events: 210, ..Pruned::default() });
            assert_eq!(fixture.count("select count(*) from jobs").await, 107);
            let jobs = Retention { jobs: Some(DAY), ..Retention::default() };
            assert_eq!(fixture.store.prune(jobs).await.unwrap(), Pruned { jobs: 105, ..Pruned::default() });
            assert_eq!(fixture.store.prune(jobs).await.unwrap(), Pruned::default());
            assert_eq!(fixture.kinds(&fresh).await.len(), 3);
            assert_eq!(fixture.kinds(&waiting).await.len(), 1);
            assert_eq!(fixture.count("select count(*) from tasks").await, 2);
            assert_eq!(fixture.count("select count(*) from attempts").await, 1);
        })
        .await;
    }
}
