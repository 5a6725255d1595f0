//! What workers say of themselves. It is for people to look at, and for claims to choose among equals: no lease rests on it.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use sqlx::{Row, any::AnyRow};

use super::statement::{query, query_scalar};
use super::{Store, millis, row, write::Write};
use crate::{Action, Requirements, Result, WorkerId};

const REPORT: &str = "\
    insert into workers (id, about, started_at, seen_at) values ($1, $2, $3, $3) \
    on conflict (id) do update set about = excluded.about, seen_at = excluded.seen_at \
    returning drain_requested_at";

const STOPPED: &str = "update workers set stopped_at = $2, seen_at = $2 where id = $1";

const DRAIN: &str = "\
    update workers set drain_requested_at = $2 \
    where id = $1 and stopped_at is null and drain_requested_at is null";

const RUNS: &str = "select count(*) from workers where id = $1 and stopped_at is null";

const LIST: &str = "\
    select id, about, started_at, seen_at, drain_requested_at, stopped_at from workers \
    where stopped_at is null and seen_at > $1 order by started_at, id limit 1000";

const RUNNING: &str =
    "select id, lease_owner from jobs where status = 'running' and tenant = $1 order by id limit 10000";

const FORGET: &str = "delete from workers where seen_at < $1";

/// Workers that were heard of and begin jobs, with how many they run.
const FREE: &str = "\
    select about, (select count(*) from jobs where lease_owner = workers.id and status = 'running') as running \
    from workers where id <> $1 and stopped_at is null and drain_requested_at is null and seen_at > $2 limit 1000";

/// As often as workers tell of themselves, and some.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRow {
    pub id: String,
    pub about: Value,
    pub started_at: i64,
    pub seen_at: i64,
    pub drain_requested_at: Option<i64>,
    /// The jobs whose leases it holds.
    pub jobs: Vec<String>,
}

/// Another worker that lives, as it last told.
pub(super) struct Other {
    has_slot: bool,
    sources: BTreeSet<String>,
    labels: BTreeSet<String>,
    disk_bytes: u64,
}

impl Other {
    /// Whether it could begin the job now, with its sources at hand.
    pub(super) fn has_at_hand(&self, needed: &Requirements) -> bool {
        self.has_slot && self.suits(needed) && needed.sources.is_subset(&self.sources)
    }

    /// Whether it is a worker for the job, now or when it has done what it does.
    pub(super) fn suits(&self, needed: &Requirements) -> bool {
        needed.labels.is_subset(&self.labels) && needed.disk_bytes <= self.disk_bytes
    }
}

pub(super) async fn others(write: &mut Write<'_>, but: &WorkerId) -> Result<Vec<Other>> {
    let since = write.now.saturating_sub(millis(HEARD_WITHIN));
    let rows = query(FREE).bind(but.as_str()).bind(since).fetch_all(write.connection()).await?;
    let other = |worker: &AnyRow| {
        let about: Value = row::json(worker, "about")?;
        let set = |key: &str| serde_json::from_value(about[key].clone()).unwrap_or_default();
        Ok(Other {
            has_slot: about["slots"].as_i64().unwrap_or(1) > worker.try_get::<i64, _>("running")?,
            sources: set("sources"),
            labels: set("labels"),
            disk_bytes: about["disk_bytes"].as_u64().unwrap_or(u64::MAX),
        })
    };
    rows.iter().map(other).collect()
}

impl Store {
    /// Tells that a worker lives, and what it is; whether it is asked to drain.
    pub async fn report_worker(&self, worker: &WorkerId, about: &Value) -> Result<bool> {
        let mut write = self.write("store.report").await?;
        let now = write.now;
        let row =
            query(REPORT).bind(worker.as_str()).bind(about.to_string()).bind(now).fetch_one(write.connection()).await?;
        let drain: Option<i64> = row.try_get("drain_requested_at")?;
        // nobody waits for this
        write.commit_quietly().await?;
        Ok(drain.is_some())
    }

    pub async fn worker_stopped(&self, worker: &WorkerId) -> Result<()> {
        let mut write = self.write("store.stopped").await?;
        let now = write.now;
        query(STOPPED).bind(worker.as_str()).bind(now).execute(write.connection()).await?;
        write.commit_quietly().await
    }

    /// Asks a worker to begin no more jobs and to end when those it has are done. Whether there is such a worker.
    pub async fn drain_worker(&self, worker: &str) -> Result<bool> {
        let mut write = self.write("store.drain").await?;
        let now = write.now;
        let asked = query(DRAIN).bind(worker).bind(now).execute(write.connection()).await?;
        if asked.rows_affected() == 1 {
            write.audit(Action::WorkerDrained, worker).await?;
        }
        let running: i64 = query_scalar(RUNS).bind(worker).fetch_one(write.connection()).await?;
        write.commit().await?;
        Ok(running == 1)
    }

    /// The workers that were heard of within `within`.
    /// Each with those of its jobs that are the tenant's.
    pub async fn workers(&self, within: Duration, tenant: &str) -> Result<Vec<WorkerRow>> {
        let since = self.now().await?.saturating_sub(millis(within));
        let mut reader = self.reading().await?;
        let running = query(RUNNING).bind(tenant).fetch_all(&mut *reader).await?;
        let workers = query(LIST).bind(since).fetch_all(&mut *reader).await?;
        workers.iter().map(|worker| of_row(worker, &running)).collect()
    }

    /// Forgets workers that were not heard of for so long.
    pub(super) async fn forget_workers(&self, silent_for: Duration) -> Result<u64> {
        let mut write = self.write("store.prune").await?;
        let before = write.now.saturating_sub(millis(silent_for));
        let forgotten = query(FORGET).bind(before).execute(write.connection()).await?;
        write.commit_quietly().await?;
        Ok(forgotten.rows_affected())
    }
}

fn of_row(worker: &AnyRow, running: &[AnyRow]) -> Result<WorkerRow> {
    let id: String = worker.try_get("id")?;
    let mut jobs = Vec::new();
    for job in running {
        if job.try_get::<Option<String>, _>("lease_owner")?.as_deref() == Some(&id) {
            jobs.push(job.try_get("id")?);
        }
    }
    Ok(WorkerRow {
        about: row::json(worker, "about")?,
        started_at: worker.try_get("started_at")?,
        seen_at: worker.try_get("seen_at")?,
        drain_requested_at: worker.try_get("drain_requested_at")?,
        jobs,
        id,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use crate::{
        WorkerId,
        testing::{TTL, new_job, on_each_database},
    };

    #[tokio::test]
    async fn a_worker_is_listed_until_it_stops_and_hears_that_it_is_to_drain() {
        on_each_database(async |fixture| {
            let (one, other) = (WorkerId::generate("one"), WorkerId::generate("other"));
            assert!(!fixture.store.report_worker(&one, &json!({"slots": 1})).await.unwrap());
            assert!(!fixture.store.report_worker(&other, &json!({})).await.unwrap());
            let job = fixture.enqueue(new_job()).await.id;
            fixture.store.claim(&one, TTL).await.unwrap().expect("the job");
            let listed = fixture.store.workers(TTL, "").await.unwrap();
            let others = fixture.store.workers(TTL, "another").await.unwrap();
            assert!(others.len() == listed.len() && others.iter().all(|worker| worker.jobs.is_empty()));
            assert_eq!(listed.len(), 2);
            assert_eq!((listed[0].id.as_str(), &listed[0].about), (one.as_str(), &json!({"slots": 1})));
            assert_eq!((listed[0].jobs.as_slice(), listed[1].jobs.len()), ([job.to_string()].as_slice(), 0));
            assert!(fixture.store.drain_worker(one.as_str()).await.unwrap());
            assert!(!fixture.store.drain_worker("nobody").await.unwrap());
            assert!(fixture.store.report_worker(&one, &json!({"slots": 2})).await.unwrap());
            assert!(!fixture.store.report_worker(&other, &json!({})).await.unwrap());
            fixture.store.worker_stopped(&other).await.unwrap();
            let listed = fixture.store.workers(TTL, "").await.unwrap();
            assert_eq!((listed.len(), &listed[0].about), (1, &json!({"slots": 2})));
            assert!(listed[0].drain_requested_at.is_some());
        })
        .await;
    }

    #[tokio::test]
    async fn a_worker_not_heard_of_is_not_listed_and_then_forgotten() {
        on_each_database(async |fixture| {
            if !fixture.store.is_sqlite() {
                // the clock of Postgres is not ours to move
                return;
            }
            fixture.store.report_worker(&WorkerId::generate("gone"), &json!({})).await.unwrap();
            fixture.advance(Duration::from_secs(100)).await;
            assert!(fixture.store.workers(TTL, "").await.unwrap().is_empty());
            assert_eq!(fixture.store.forget_workers(TTL * 2).await.unwrap(), 0);
            assert_eq!(fixture.store.forget_workers(TTL).await.unwrap(), 1);
        })
        .await;
    }
}
