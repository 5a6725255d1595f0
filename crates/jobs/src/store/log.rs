//! The events of all jobs as one log, each at a position that never changes.
//!
//! Invariant: whoever has read the log up to a position has missed nothing before it. SQLite has one writer, so that events are
//! placed as they are written. On Postgres a transaction may be seen before one that began earlier: there events are placed
//! once they can be seen, by one placer at a time.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::statement::{query, query_scalar};
use super::{Store, connect::Dialect, row, write::Write};
use crate::{Event, JobId, Progress, Result};

/// An event at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedEvent {
    pub position: i64,
    /// Of its job.
    pub tenant: String,
    pub event: Event,
}

/// How far the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnds {
    /// The newest position.
    pub last: i64,
    /// The newest position whose event was forgotten; whoever has not read so far may have missed it.
    pub pruned: i64,
}

/// How far a running job is.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningProgress {
    pub job_id: JobId,
    pub tenant: String,
    pub progress: Progress,
}

/// Placed in one transaction.
const BATCH: i64 = 5_000;
/// Asked for in one statement.
const IDS_AT_ONCE: usize = 200;

/// Also keeps other placers out until the transaction ends.
const NEXT: &str = "update event_log set last_position = last_position + $1 where id = 1 returning last_position";

const LOCK: &str = "select last_position from event_log where id = 1 for update";

const IS_TO_PLACE: &str = "select count(*) from (select 1 from events where position is null limit 1) any_event";

/// In the order of each job's own log.
const PLACE: &str = "\
    update events set position = $1 + placed.number from (\
        select job_id, seq, row_number() over (order by job_id, seq) as number from (\
            select job_id, seq from events where position is null order by job_id, seq limit $2) unplaced) placed \
    where events.job_id = placed.job_id and events.seq = placed.seq";

const ENDS: &str = "\
    select last_position, coalesce((select position from event_log_pruned where tenant = $1), 0) as pruned_position \
    from event_log where id = 1";

const LAST: &str = "select last_position from event_log where id = 1";

const PRUNED_BEHIND: &str = "select tenant, position from event_log_pruned where position > $1 order by position";

const PLACED: &str = "\
    select e.position, j.tenant, e.job_id, e.seq, e.type, e.level, e.message, e.data, e.created_at \
    from events e join jobs j on j.id = e.job_id where e.position > $1";

/// Where somebody could have read to before the events of a job went.
const FORGET: &str = "\
    insert into event_log_pruned (tenant, position) select tenant, cast($2 as bigint) from jobs where id = $1 \
    on conflict (tenant) do update set position = excluded.position where excluded.position > event_log_pruned.position";

const NEWEST_OF: &str = "\
    select max(position) as newest, count(*) - count(position) as unplaced from events where job_id = $1";

/// Which of some jobs wait or run.
const UNFINISHED: &str = "select id from jobs where status in ('queued', 'running') and id in ";

const RUNNING: &str = "select id, tenant, progress from jobs where status = 'running' and progress is not null";

impl Store {
    /// Gives every event that can be seen its place.
    pub async fn place_events(&self) -> Result<()> {
        if self.shared.dialect == Dialect::Sqlite {
            return Ok(());
        }
        loop {
            let waiting: i64 = query_scalar(IS_TO_PLACE).fetch_one(&mut *self.reading().await?).await?;
            if waiting == 0 || self.place_batch().await? < BATCH {
                return Ok(());
            }
        }
    }

    async fn place_batch(&self) -> Result<i64> {
        let mut write = self.write("store.place_events").await?;
        let last: i64 = query_scalar(LOCK).fetch_one(write.connection()).await?;
        let placed = query(PLACE).bind(last).bind(BATCH).execute(write.connection()).await?.rows_affected();
        let placed = i64::try_from(placed).unwrap_or(i64::MAX);
        query_scalar::<i64>(NEXT).bind(placed).fetch_one(write.connection()).await?;
        write.commit_quietly().await?;
        Ok(placed)
    }

    /// For a tenant.
    pub async fn log_ends(&self, tenant: &str) -> Result<LogEnds> {
        let ends = query(ENDS).bind(tenant).fetch_one(&mut *self.reading().await?).await?;
        Ok(LogEnds { last: ends.try_get("last_position")?, pruned: ends.try_get("pruned_position")? })
    }

    pub async fn last_position(&self) -> Result<i64> {
        Ok(query_scalar(LAST).fetch_one(&mut *self.reading().await?).await?)
    }

    /// Tenants of whom events behind `position` were forgotten, each with the newest; the newest last.
    pub async fn pruned_behind(&self, position: i64) -> Result<Vec<(String, i64)>> {
        let rows = query(PRUNED_BEHIND).bind(position).fetch_all(&mut *self.reading().await?).await?;
        rows.iter().map(|row| Ok((row.try_get("tenant")?, row.try_get("position")?))).collect()
    }

    /// Of these jobs those that wait or run.
    pub async fn unfinished(&self, ids: &[JobId]) -> Result<HashSet<JobId>> {
        let mut unfinished = HashSet::new();
        for some in ids.chunks(IDS_AT_ONCE) {
            let places: Vec<String> = (1..=some.len()).map(|number| format!("${number}")).collect();
            let mut asked = query(AssertSqlSafe(format!("{UNFINISHED} ({})", places.join(", "))));
            for id in some {
                asked = asked.bind(id.as_str().to_owned());
            }
            for row in &asked.fetch_all(&mut *self.reading().await?).await? {
                unfinished.insert(row::parsed(row, "id")?);
            }
        }
        Ok(unfinished)
    }

    /// What has its place behind `position`, oldest first; of one tenant or of all.
    pub async fn log_behind(&self, position: i64, tenant: Option<&str>, limit: u32) -> Result<Vec<PlacedEvent>> {
        let of_tenant = tenant.map_or("", |_| "and j.tenant = $3");
        let sql = AssertSqlSafe(format!("{PLACED} {of_tenant} order by e.position limit $2"));
        let mut placed = query(sql).bind(position).bind(i64::from(limit));
        if let Some(tenant) = tenant {
            placed = placed.bind(tenant);
        }
        placed.fetch_all(&mut *self.reading().await?).await?.iter().map(of_row).collect()
    }

    /// Of every job that runs and has told of it.
    pub async fn running_progress(&self) -> Result<Vec<RunningProgress>> {
        let rows = query(RUNNING).fetch_all(&mut *self.reading().await?).await?;
        rows.iter().map(progress_of_row).collect()
    }
}

fn of_row(found: &AnyRow) -> Result<PlacedEvent> {
    Ok(PlacedEvent {
        position: found.try_get("position")?,
        tenant: found.try_get("tenant")?,
        event: row::event(found)?,
    })
}

fn progress_of_row(found: &AnyRow) -> Result<RunningProgress> {
    Ok(RunningProgress {
        job_id: row::parsed(found, "id")?,
        tenant: found.try_get("tenant")?,
        progress: row::json(found, "progress")?,
    })
}

impl Write<'_> {
    /// The place of an event that is being written; `None` where it gets one later.
    pub(super) async fn next_position(&mut self) -> Result<Option<i64>> {
        match self.dialect() {
            Dialect::Sqlite => Ok(Some(query_scalar(NEXT).bind(1i64).fetch_one(self.connection()).await?)),
            Dialect::Postgres => Ok(None),
        }
    }

    /// Removes the log of a job, and notes how far the log of all is no longer whole.
    pub(super) async fn forget_events(&mut self, id: &JobId) -> Result<u64> {
        if self.dialect() == Dialect::Postgres {
            // before the events, as whoever places them does, so that neither waits for the other
            query(LOCK).execute(self.connection()).await?;
        }
        let found = query(NEWEST_OF).bind(id.as_str()).fetch_one(self.connection()).await?;
        let mut newest: Option<i64> = found.try_get("newest")?;
        if found.try_get::<i64, _>("unplaced")? > 0 {
            // what never had a place goes from the next one
            newest = Some(query_scalar(NEXT).bind(1i64).fetch_one(self.connection()).await?);
        }
        if let Some(newest) = newest {
            query(FORGET).bind(id.as_str()).bind(newest).execute(self.connection()).await?;
        }
        let events = query("delete from events where job_id = $1").bind(id.as_str()).execute(self.connection()).await?;
        Ok(events.rows_affected())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::{
        JobId, Store,
        store::Deleted,
        testing::{a_warning, new_job, on_each_database},
    };

    async fn whole(store: &Store, tenant: Option<&str>) -> Vec<(i64, String, i64)> {
        store.place_events().await.unwrap();
        let (mut read, mut after) = (Vec::new(), 0);
        loop {
            let page = store.log_behind(after, tenant, 7).await.unwrap();
            let Some(last) = page.last() else { return read };
            after = last.position;
            read.extend(page.into_iter().map(|it| (it.position, it.event.job_id.to_string(), it.event.seq)));
        }
    }

    /// That each job's events come in their order, without gaps.
    fn assert_whole(log: &[(i64, String, i64)]) {
        let mut seqs: HashMap<&str, i64> = HashMap::new();
        for (_, job, seq) in log {
            let last = seqs.entry(job).or_default();
            assert_eq!(*seq, *last + 1, "{job}");
            *last = *seq;
        }
        assert!(log.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[tokio::test]
    async fn every_event_has_its_place_and_no_tenant_sees_anothers() {
        on_each_database(async |fixture| {
            for tenant in ["a", "b", "a"] {
                let mut job = new_job();
                job.admission.tenant = tenant.to_owned();
                fixture.enqueue(job).await;
            }
            let lease = fixture.claim().await;
            fixture.store.record(&lease, None, a_warning()).await.unwrap();
            let log = whole(&fixture.store, None).await;
            assert_eq!(log.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
            assert_whole(&log);
            assert_eq!(fixture.store.last_position().await.unwrap(), 5);
            let (a, b) = (whole(&fixture.store, Some("a")).await, whole(&fixture.store, Some("b")).await);
            assert_eq!((a.len(), b.len(), whole(&fixture.store, Some("")).await.len()), (4, 1, 0));
            assert_eq!(whole(&fixture.store, None).await, log, "no event changes its place");
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_misses_nothing_however_writers_are_interleaved() {
        const JOBS: usize = 8;
        const ROUNDS: usize = 6;
        on_each_database(async |fixture| {
            let writers: Vec<_> = (0..JOBS)
                .map(|_| {
                    let store = fixture.store.clone();
                    tokio::spawn(async move {
                        for _ in 0..ROUNDS {
                            let crate::Enqueued::Created(job) = store.enqueue(new_job()).await.unwrap() else {
                                panic!("a new job")
                            };
                            store.request_cancel(&job.id).await.unwrap();
                        }
                    })
                })
                .collect();
            let (mut read, mut after) = (Vec::new(), 0);
            while read.len() < JOBS * ROUNDS * 2 {
                fixture.store.place_events().await.unwrap();
                for placed in fixture.store.log_behind(after, None, 5).await.unwrap() {
                    after = placed.position;
                    read.push((placed.position, placed.event.job_id.to_string(), placed.event.seq));
                }
            }
            for writer in writers {
                writer.await.unwrap();
            }
            assert_whole(&read);
            assert_eq!(whole(&fixture.store, None).await, read);
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_forgotten_is_known_to_be_missing() {
        on_each_database(async |fixture| {
            let first = fixture.enqueue(new_job()).await.id;
            fixture.enqueue(new_job()).await;
            fixture.store.request_cancel(&first).await.unwrap();
            fixture.store.place_events().await.unwrap();
            let before = fixture.store.log_ends("").await.unwrap();
            assert_eq!(fixture.store.delete_job(&first).await.unwrap(), Deleted::Done);
            let after = fixture.store.log_ends("").await.unwrap();
            assert_eq!((before.pruned, before.last, after.last), (0, 3, 3));
            assert!(after.pruned >= 2, "{after:?}");
            assert_eq!(fixture.store.pruned_behind(0).await.unwrap(), [(String::new(), after.pruned)]);
            assert_eq!(fixture.store.log_ends("another").await.unwrap().pruned, 0, "it has lost nothing");
            // events that are gone before they had a place are missing, too
            let second = fixture.enqueue(new_job()).await.id;
            fixture.store.request_cancel(&second).await.unwrap();
            fixture.store.delete_job(&second).await.unwrap();
            let ends = fixture.store.log_ends("").await.unwrap();
            assert!(ends.pruned > after.last && ends.last >= ends.pruned, "{ends:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn what_waits_or_runs_is_found_among_many() {
        on_each_database(async |fixture| {
            let (waits, over) = (fixture.enqueue(new_job()).await.id, fixture.enqueue(new_job()).await.id);
            fixture.store.request_cancel(&over).await.unwrap();
            let mut ids: Vec<JobId> = (0..2 * super::IDS_AT_ONCE).map(|_| JobId::generate()).collect();
            ids.extend([waits.clone(), over]);
            assert_eq!(fixture.store.unfinished(&ids).await.unwrap(), [waits].into());
            assert!(fixture.store.unfinished(&[]).await.unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn only_running_jobs_tell_their_progress() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            fixture.enqueue(new_job()).await;
            let lease = fixture.claim().await;
            assert!(fixture.store.running_progress().await.unwrap().is_empty());
            let progress = crate::Progress {
                tensors_done: 1,
                tensors_total: 2,
                bytes_done: 3,
                bytes_total: 4,
                bytes_per_second: None,
                updated_at: 5,
            };
            fixture.store.heartbeat(&lease, Some(&progress)).await.unwrap();
            let told = fixture.store.running_progress().await.unwrap();
            assert_eq!((told.len(), &told[0].job_id, &told[0].progress), (1, &lease.job.id, &progress));
            fixture.store.finish(&lease, crate::Outcome::Cancelled).await.unwrap();
            assert!(fixture.store.running_progress().await.unwrap().is_empty());
        })
        .await;
    }
}
