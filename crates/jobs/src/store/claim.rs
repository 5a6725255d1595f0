//! Leases the next job to a worker: one that waits, or one whose worker stopped renewing.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use super::statement::{query, query_as, query_scalar};
use super::{
    Store, attempts,
    enqueue::{bytes, labels},
    millis, row, tasks, workers,
    write::Write,
};
use crate::{
    Capacity, EventKind, JobId, Lease, Level, Limits, NewEvent, Requirements, Result, Status, WORKERS_LOST_MAX,
    WorkerId,
};

/// A job that was to be cancelled, or that has lost too many workers, is not claimed again: `rescue` ends it.
/// `$1` is the time, `$2` how many lost workers are one too many.
const CLAIMABLE: &str = "\
    ((status = 'queued' and run_at <= $1 and (start_by is null or start_by > $1 or started_at is not null)) \
    or (status = 'running' and lease_expires_at < $1 and lost + 1 < $2 and cancel_requested_at is null))";

/// Whether jobs are begun at all, and how many run. A job whose lease has run out is none of these.
const STATE: &str = "\
    select (select paused_at from queues where name = 'default') as paused_at, \
    (select count(*) from jobs where status = 'running' and lease_expires_at >= $1) as running";

/// Asked before anything is locked: most claims find nothing.
const IS_ANY: &str = "select count(*) from (select 1 from jobs where {claimable} limit 1) any_job";

/// Which labels are asked for, each set once.
const LABELS: &str = "select distinct needs_labels from jobs where {claimable} limit 1000";

/// In their order: by priority, then those first whose owner has less running, then by age. What waits for memory or disk for
/// long is among them although it does not fit. `$3` is how much an owner may run, `$4` the GPU memory, `$5` the memory and
/// `$6` the disk that are left, `$7` since when it waits for long; the labels that the worker's suffice for follow.
const CANDIDATES: &str = "\
    with busy as materialized ( \
        select owner, count(*) as running from jobs where status = 'running' and lease_expires_at >= $1 group by owner \
    ) \
    select jobs.id, jobs.priority, jobs.requirements, jobs.run_at, coalesce(busy.running, 0) as share \
    from jobs left join busy on busy.owner = jobs.owner \
    where {claimable} and coalesce(busy.running, 0) < $3 and needs_gpu_memory <= $4 \
    and (needs_memory <= $5 or run_at < $7) and (needs_disk <= $6 or run_at < $7) \
    and needs_labels in ({labels}) \
    order by priority desc, share, run_at, jobs.id limit 100";

/// A leased job begins by fetching. An attempt whose worker was lost is no failure of the job, so it does not count against
/// `max_attempts`. A row that another transaction is busy with is passed over: whoever holds it may be gone for long.
const TAKE: &str = "\
    update jobs set status = 'running', phase = 'fetching', progress = null, attempt = attempt + 1, lease_owner = $3, \
    lease_token = lease_token + 1, lease_expires_at = $4, started_at = coalesce(started_at, $1), \
    lost = lost + case status when 'running' then 1 else 0 end, \
    max_attempts = max_attempts + case status when 'running' then 1 else 0 end \
    where id = (select id from jobs where id = $5 and {claimable} {lock}) \
    returning id, lease_token, attempt";

const HELD: &str = "where lease_owner = $1 and status = 'running' order by id";

/// After so long a worker takes a job for which it lacks the disk, and one that lacks the memory keeps that free for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// So long a worker leaves a job that it could not begin, or has no room for, to others that can.
const OTHERS_PATIENCE: Duration = Duration::from_secs(600);

/// So long a job is left to a worker that is free and has its sources at hand: a little longer than workers sleep.
const SOURCES_PATIENCE: Duration = Duration::from_secs(3);

struct Candidate {
    id: JobId,
    rank: (i64, i64),
    requirements: Requirements,
    /// How long it could have been begun, in milliseconds.
    waited: i64,
}

impl Candidate {
    /// Whether no other worker can be better for it.
    fn is_best(&self, capacity: &Capacity) -> bool {
        self.has_sources(capacity) && self.has_room(capacity) && !capacity.avoids.contains(&self.id)
    }

    fn has_sources(&self, capacity: &Capacity) -> bool {
        !capacity.prefers_sources || self.requirements.sources.is_subset(&capacity.sources)
    }

    fn has_room(&self, capacity: &Capacity) -> bool {
        self.requirements.disk_bytes <= capacity.disk_bytes
    }
}

struct Taken {
    id: JobId,
    token: i64,
    attempt: i64,
}

impl Store {
    /// As [`Store::claim_fitting`], by a worker that takes what there is.
    pub async fn claim(&self, worker: &WorkerId, ttl: Duration) -> Result<Option<Lease>> {
        self.claim_fitting(worker, ttl, &Capacity::unlimited(), Limits::NONE).await
    }

    /// `None` when there is nothing to do, or nothing that fits. The lease ends `ttl` from now unless a heartbeat renews it.
    pub async fn claim_fitting(
        &self,
        worker: &WorkerId,
        ttl: Duration,
        capacity: &Capacity,
        limits: Limits,
    ) -> Result<Option<Lease>> {
        if !self.has_claimable(capacity.takes_over).await? {
            return Ok(None);
        }
        let mut write = self.write("store.claim").await?;
        write.one_claim_at_a_time().await?;
        let Some(Taken { id, token, attempt }) = take_first(&mut write, worker, ttl, capacity, limits).await? else {
            write.abandon().await?;
            return Ok(None);
        };
        // an attempt that is still open when the next begins was never finished: its worker is gone, or too slow to tell
        attempts::close_lost(&mut write, &id, attempt - 1).await?;
        attempts::open(&mut write, &id, attempt, worker).await?;
        tasks::set_status(&mut write, &id, Status::Running).await?;
        write.append(&id, started(attempt, worker)).await?;
        let job = write.written_job(&id).await?;
        write.commit().await?;
        Ok(Some(Lease { job, worker: worker.clone(), token, ttl }))
    }

    async fn has_claimable(&self, takes_over: bool) -> Result<bool> {
        let sql = AssertSqlSafe(with_claimable(IS_ANY, takes_over));
        let any: i64 = query_scalar(sql)
            .bind(self.now().await?)
            .bind(WORKERS_LOST_MAX)
            .fetch_one(&mut *self.reading().await?)
            .await?;
        Ok(any > 0)
    }

    /// The leases that a worker holds, also those of claims whose answer never reached it.
    pub async fn held_by(&self, worker: &WorkerId, ttl: Duration) -> Result<Vec<Lease>> {
        let sql = row::select_job(HELD, "");
        let rows = query(sql).bind(worker.as_str()).fetch_all(&mut *self.reading().await?).await?;
        let lease = |found| {
            Ok(Lease { job: row::job(found)?, worker: worker.clone(), token: found.try_get("lease_token")?, ttl })
        };
        rows.iter().map(lease).collect()
    }
}

/// The first candidate that fits.
async fn take_first(
    write: &mut Write<'_>,
    worker: &WorkerId,
    ttl: Duration,
    capacity: &Capacity,
    limits: Limits,
) -> Result<Option<Taken>> {
    let (paused_at, running): (Option<i64>, i64) =
        query_as(STATE).bind(write.now).fetch_one(write.connection()).await?;
    if paused_at.is_some() || running >= i64::from(limits.running_max) {
        return Ok(None);
    }
    let mut candidates = candidates(write, capacity, limits).await?;
    if candidates.iter().any(|candidate| !candidate.is_best(capacity)) {
        let others = workers::others(write, worker).await?;
        leave_to_others(&mut candidates, capacity, &others);
    }
    for candidate in candidates {
        if !capacity.fits(&candidate.requirements) {
            if candidate.waited < millis(PATIENCE) {
                continue;
            }
            // what does not fit beside those that run is not to wait for ever: nothing behind it is taken
            return Ok(None);
        }
        // a cancel may have come between
        if let Some(taken) = take(write, &candidate.id, worker, ttl).await? {
            return Ok(Some(taken));
        }
    }
    Ok(None)
}

async fn candidates(write: &mut Write<'_>, capacity: &Capacity, limits: Limits) -> Result<Vec<Candidate>> {
    let labels = labels_enough(write, capacity).await?;
    if labels.is_empty() {
        return Ok(Vec::new());
    }
    let placeholders: Vec<String> = (0..labels.len()).map(|i| format!("${}", i + 8)).collect();
    let sql = with_claimable(CANDIDATES, capacity.takes_over).replace("{labels}", &placeholders.join(", "));
    let now = write.now;
    let mut query = query(AssertSqlSafe(sql))
        .bind(now)
        .bind(WORKERS_LOST_MAX)
        .bind(i64::from(limits.running_per_owner_max))
        .bind(bytes(capacity.gpu_memory_bytes))
        .bind(bytes(capacity.memory_bytes))
        .bind(bytes(capacity.disk_bytes))
        .bind(now.saturating_sub(millis(PATIENCE)));
    for set in labels {
        query = query.bind(set);
    }
    let rows = query.fetch_all(write.connection()).await?;
    let candidate = |found| {
        Ok(Candidate {
            id: row::parsed(found, "id")?,
            rank: (found.try_get("priority")?, found.try_get("share")?),
            requirements: row::json(found, "requirements")?,
            waited: now - found.try_get::<i64, _>("run_at")?,
        })
    };
    let candidates: Result<Vec<Candidate>> = rows.iter().map(candidate).collect();
    // jobs of an earlier schema have what they need in their requirements alone
    Ok(candidates?.into_iter().filter(|candidate| capacity.suits(&candidate.requirements)).collect())
}

/// The sets of labels that are asked for and that the worker's suffice for.
async fn labels_enough(write: &mut Write<'_>, capacity: &Capacity) -> Result<Vec<String>> {
    if capacity.labels.is_empty() {
        return Ok(vec![labels(&BTreeSet::new())]);
    }
    let sets: Vec<String> = query_scalar(AssertSqlSafe(with_claimable(LABELS, capacity.takes_over)))
        .bind(write.now)
        .bind(WORKERS_LOST_MAX)
        .fetch_all(write.connection())
        .await?;
    let is_enough = |set: &String| {
        serde_json::from_str::<BTreeSet<String>>(set).is_ok_and(|labels| labels.is_subset(&capacity.labels))
    };
    Ok(sets.into_iter().filter(is_enough).collect())
}

/// Among equals those first whose sources are at hand here. Those that are at hand elsewhere, where a worker is free for them,
/// are left to that one for a moment; those that this worker could not begin, or lacks the disk for, to any that can.
fn leave_to_others(candidates: &mut Vec<Candidate>, capacity: &Capacity, others: &[workers::Other]) {
    candidates.retain(|candidate| {
        let needed = &candidate.requirements;
        let is_patient = |patience: Duration| candidate.waited < millis(patience);
        let is_elsewhere = others.iter().any(|other| other.has_at_hand(needed));
        let is_fit = candidate.has_room(capacity) && !capacity.avoids.contains(&candidate.id);
        let is_others = others.iter().any(|other| other.suits(needed));
        (candidate.has_sources(capacity) || !is_elsewhere || !is_patient(SOURCES_PATIENCE))
            && (is_fit || !is_others || !is_patient(OTHERS_PATIENCE))
    });
    let patience = millis(SOURCES_PATIENCE);
    candidates.sort_by_key(|candidate| {
        let (priority, share) = candidate.rank;
        (-priority, share, !(candidate.has_sources(capacity) || candidate.waited >= patience))
    });
}

async fn take(write: &mut Write<'_>, id: &JobId, worker: &WorkerId, ttl: Duration) -> Result<Option<Taken>> {
    let now = write.now;
    let sql = with_claimable(TAKE, true).replace("{lock}", write.dialect().for_update_skip_locked());
    let taken = query(AssertSqlSafe(sql))
        .bind(now)
        .bind(WORKERS_LOST_MAX)
        .bind(worker.as_str())
        .bind(now.saturating_add(millis(ttl)))
        .bind(id.as_str())
        .fetch_optional(write.connection())
        .await?;
    let Some(taken) = taken else { return Ok(None) };
    Ok(Some(Taken {
        id: row::parsed(&taken, "id")?,
        token: taken.try_get("lease_token")?,
        attempt: taken.try_get("attempt")?,
    }))
}

fn with_claimable(sql: &'static str, takes_over: bool) -> String {
    let claimable = if takes_over { CLAIMABLE.to_owned() } else { format!("{CLAIMABLE} and status = 'queued'") };
    sql.replace("{claimable}", &claimable)
}

fn started(attempt: i64, worker: &WorkerId) -> NewEvent {
    NewEvent {
        kind: EventKind::Started,
        level: Level::Info,
        message: format!("attempt {attempt} started on worker {worker}"),
        data: json!({"attempt": attempt, "worker": worker}),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use serde_json::json;

    use super::{PATIENCE, SOURCES_PATIENCE};
    use crate::{
        Admission, Capacity, EventKind, Job, Lease, Limits, NewJob, Outcome, Phase, Requirements, Status, WorkerId,
        testing::{Fixture, TTL, new_job, on_each_database},
    };

    fn needing(requirements: Requirements) -> NewJob {
        NewJob { admission: Admission { requirements, ..Admission::default() }, ..new_job() }
    }

    fn memory(memory_bytes: u64) -> Requirements {
        Requirements { memory_bytes, ..Requirements::default() }
    }

    fn reading(sources: &[&str]) -> Requirements {
        Requirements { sources: sources.iter().map(|name| (*name).to_owned()).collect(), ..Requirements::default() }
    }

    async fn claimed(fixture: &Fixture, capacity: &Capacity, limits: Limits) -> Option<Lease> {
        fixture.store.claim_fitting(&WorkerId::generate("one"), TTL, capacity, limits).await.unwrap()
    }

    async fn taken(fixture: &Fixture, capacity: &Capacity) -> Option<Job> {
        claimed(fixture, capacity, Limits::NONE).await.map(|lease| lease.job)
    }

    #[tokio::test]
    async fn what_waits_long_for_memory_is_not_passed_over_for_ever() {
        on_each_database(async |fixture| {
            let large = fixture.enqueue(needing(memory(100))).await.id;
            let small = fixture.enqueue(needing(memory(1))).await.id;
            let busy = Capacity { memory_bytes: 50, ..Capacity::unlimited() };
            assert_eq!(taken(fixture, &busy).await.unwrap().id, small);
            fixture.enqueue(needing(memory(1))).await;
            fixture.advance(PATIENCE + TTL).await;
            assert!(taken(fixture, &busy).await.is_none(), "the memory is kept free for it");
            assert_eq!(taken(fixture, &Capacity::unlimited()).await.unwrap().id, large);
        })
        .await;
    }

    #[tokio::test]
    async fn a_worker_without_room_leaves_a_job_to_others_for_a_while() {
        on_each_database(async |fixture| {
            let needed = Requirements { disk_bytes: 100, ..Requirements::default() };
            let id = fixture.enqueue(needing(needed)).await.id;
            let full = Capacity { disk_bytes: 99, ..Capacity::unlimited() };
            assert!(taken(fixture, &full).await.is_none());
            fixture.advance(PATIENCE * 2).await;
            let other = WorkerId::generate("other");
            fixture.store.report_worker(&other, &json!({"slots": 1, "disk_bytes": 100})).await.unwrap();
            assert!(taken(fixture, &full).await.is_none(), "another has room");
            fixture.store.report_worker(&other, &json!({"slots": 1, "disk_bytes": 99})).await.unwrap();
            assert_eq!(taken(fixture, &full).await.unwrap().id, id);
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_that_a_worker_could_not_begin_is_left_to_others_for_a_while() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let failed = Capacity { avoids: [id.clone()].into(), ..Capacity::unlimited() };
            let other = WorkerId::generate("other");
            fixture.store.report_worker(&other, &json!({"slots": 1})).await.unwrap();
            assert!(taken(fixture, &failed).await.is_none());
            fixture.advance(PATIENCE).await;
            fixture.store.report_worker(&other, &json!({"slots": 1})).await.unwrap();
            assert!(taken(fixture, &failed).await.is_none(), "the other may be busy for long");
            fixture.store.worker_stopped(&other).await.unwrap();
            assert_eq!(taken(fixture, &failed).await.unwrap().id, id);
        })
        .await;
    }

    #[tokio::test]
    async fn what_asks_for_labels_or_a_gpu_hides_nothing_from_other_workers() {
        on_each_database(async |fixture| {
            for _ in 0..150 {
                let labels = ["gpu".to_owned()].into();
                fixture.enqueue(needing(Requirements { labels, ..Requirements::default() })).await;
                fixture.enqueue(needing(Requirements { gpu_memory_bytes: 1, ..Requirements::default() })).await;
            }
            assert!(taken(fixture, &Capacity::unlimited()).await.is_none());
            let plain = fixture.enqueue(new_job()).await.id;
            assert_eq!(taken(fixture, &Capacity::unlimited()).await.unwrap().id, plain);
            let able = Capacity {
                gpu_memory_bytes: 1,
                labels: ["cpu".to_owned(), "gpu".to_owned()].into(),
                ..Capacity::unlimited()
            };
            assert!(taken(fixture, &able).await.is_some());
        })
        .await;
    }

    #[tokio::test]
    async fn a_lease_that_has_run_out_fills_no_limit() {
        on_each_database(async |fixture| {
            let labels = ["gpu".to_owned()].into();
            fixture.enqueue(needing(Requirements { labels, ..Requirements::default() })).await;
            let gpu = Capacity { labels: ["gpu".to_owned()].into(), ..Capacity::unlimited() };
            let one = Limits { running_max: 1, running_per_owner_max: 1 };
            assert!(claimed(fixture, &gpu, one).await.is_some());
            let plain = fixture.enqueue(new_job()).await.id;
            assert!(claimed(fixture, &Capacity::unlimited(), one).await.is_none());
            fixture.advance(TTL * 2).await;
            let lease = claimed(fixture, &Capacity::unlimited(), one).await.expect("nothing runs any more");
            assert_eq!(lease.job.id, plain);
        })
        .await;
    }

    #[tokio::test]
    async fn a_worker_that_takes_nothing_over_leaves_leases_that_have_run_out() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            fixture.claim().await;
            fixture.advance(TTL * 2).await;
            let modest = Capacity { takes_over: false, ..Capacity::unlimited() };
            assert!(taken(fixture, &modest).await.is_none());
            assert_eq!(taken(fixture, &Capacity::unlimited()).await.unwrap().id, id);
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_goes_first_to_who_has_its_sources_and_then_to_anybody() {
        on_each_database(async |fixture| {
            let has = |sources: &[&str]| Capacity { sources: reading(sources).sources, ..Capacity::unlimited() };
            let other = WorkerId::generate("other");
            fixture.store.report_worker(&other, &json!({"slots": 1, "sources": ["a", "b"]})).await.unwrap();
            let there = fixture.enqueue(needing(reading(&["a", "b"]))).await.id;
            assert!(taken(fixture, &has(&["a"])).await.is_none(), "another is free and has it all");
            let elder = fixture.enqueue(needing(reading(&["c"]))).await.id;
            let here = fixture.enqueue(needing(reading(&["d"]))).await.id;
            assert_eq!(taken(fixture, &has(&["d"])).await.unwrap().id, here);
            assert_eq!(taken(fixture, &has(&["d"])).await.unwrap().id, elder);
            fixture.advance(SOURCES_PATIENCE).await;
            assert_eq!(taken(fixture, &has(&["d"])).await.unwrap().id, there);
        })
        .await;
    }

    #[tokio::test]
    async fn who_has_the_sources_but_no_slot_keeps_nobody_waiting() {
        on_each_database(async |fixture| {
            let other = WorkerId::generate("other");
            fixture.store.report_worker(&other, &json!({"slots": 1, "sources": ["a"]})).await.unwrap();
            fixture.enqueue(new_job()).await;
            fixture.store.claim(&other, TTL).await.unwrap().expect("a job that keeps it busy");
            let id = fixture.enqueue(needing(reading(&["a"]))).await.id;
            assert_eq!(taken(fixture, &Capacity::unlimited()).await.unwrap().id, id);
        })
        .await;
    }

    #[tokio::test]
    async fn a_claim_whose_answer_was_lost_is_found_again() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            let lease = fixture.claim().await;
            let held = fixture.store.held_by(&lease.worker, TTL).await.unwrap();
            assert_eq!(
                held.iter().map(|held| (&held.job, held.token)).collect::<Vec<_>>(),
                [(&lease.job, lease.token)]
            );
            fixture.store.release(&held[0]).await.unwrap();
            assert!(fixture.store.held_by(&lease.worker, TTL).await.unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_row_that_somebody_holds_and_forgot_stops_nobody() {
        on_each_database(async |fixture| {
            if fixture.store.is_sqlite() {
                // one writer: its transaction is all or nothing
                return;
            }
            fixture.enqueue(new_job()).await;
            fixture.claim().await;
            fixture.advance(TTL * 2).await;
            let waiting = fixture.enqueue(new_job()).await.id;
            let mut forgotten = fixture.store.shared.writer.begin().await.unwrap();
            sqlx::query("select id from jobs where status = 'running' for update")
                .fetch_one(&mut *forgotten)
                .await
                .unwrap();
            assert_eq!(fixture.claim().await.job.id, waiting);
        })
        .await;
    }

    #[tokio::test]
    async fn a_claimed_job_runs_under_its_lease() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            assert_eq!((&lease.job.id, lease.job.attempt, lease.token), (&id, 1, 1));
            assert_eq!((lease.job.status, lease.job.phase), (Status::Running, Some(Phase::Fetching)));
            assert_eq!(lease.job.worker.as_deref(), Some(lease.worker.as_str()));
            assert!(lease.job.started_at.is_some());
            assert_eq!(fixture.kinds(&id).await, [EventKind::Queued, EventKind::Started]);
            assert_eq!(fixture.count("select count(*) from tasks where status = 'running'").await, 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_held_lease_is_not_claimed() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            fixture.claim().await;
            assert!(fixture.try_claim().await.is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn expired_lease_is_claimed_again() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let first = fixture.claim().await;
            fixture.advance(TTL + Duration::from_secs(1)).await;
            let second = fixture.claim().await;
            assert_eq!(second.job.id, id);
            assert_eq!((second.job.attempt, second.token), (2, first.token + 1));
            assert_eq!(second.job.started_at, first.job.started_at);
            let kinds = fixture.kinds(&id).await;
            assert_eq!(kinds[1..], [EventKind::Started, EventKind::LeaseExpired, EventKind::Started]);
            assert_eq!(fixture.outcomes(&id).await, [Some("worker_lost".to_owned()), None]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_to_be_cancelled_is_not_claimed_again() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            fixture.claim().await;
            fixture.store.request_cancel(&id).await.unwrap();
            fixture.advance(TTL * 2).await;
            assert!(fixture.try_claim().await.is_none());
        })
        .await;
    }

    #[tokio::test]
    async fn higher_priority_goes_first_then_the_older() {
        on_each_database(async |fixture| {
            let mut made = Vec::new();
            for priority in [0, 0, 5] {
                made.push(fixture.enqueue(NewJob { priority, ..new_job() }).await.id);
            }
            let mut claimed = Vec::new();
            for _ in 0..3 {
                claimed.push(fixture.claim().await.job.id);
            }
            assert_eq!(claimed, [made[2].clone(), made[0].clone(), made[1].clone()]);
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_claimers_never_get_the_same_job() {
        const JOBS: usize = 40;
        on_each_database(async |fixture| {
            for _ in 0..JOBS {
                fixture.enqueue(new_job()).await;
            }
            let processes = [fixture.store.clone(), fixture.beside().await];
            let claimers: Vec<_> = (0..8)
                .map(|n| {
                    let store = processes[n % 2].clone();
                    tokio::spawn(async move {
                        let worker = WorkerId::generate(&format!("w{n}"));
                        let mut ids = Vec::new();
                        while let Some(lease) = store.claim(&worker, TTL).await.unwrap() {
                            ids.push(lease.job.id);
                        }
                        ids
                    })
                })
                .collect();
            let mut all = Vec::new();
            for claimer in claimers {
                all.extend(claimer.await.unwrap());
            }
            // a claimer on Postgres may pass over a row that another holds for a moment, and stop early
            while let Some(lease) = fixture.try_claim().await {
                all.push(lease.job.id);
            }
            assert_eq!(all.len(), JOBS);
            assert_eq!(all.iter().collect::<HashSet<_>>().len(), JOBS);
        })
        .await;
    }

    /// Enough of both for every lock to be fought over.
    #[tokio::test(flavor = "multi_thread")]
    async fn fifty_workers_and_a_thousand_jobs_meet_no_lock_error() {
        const WORKERS: usize = 50;
        const PROCESSES: usize = 5;
        on_each_database(async |fixture| {
            // a pooler in between makes it slower, and no more of a fight
            let count = if fixture.is_pooled() { 200 } else { 1000 };
            let mut processes = Vec::new();
            for _ in 0..PROCESSES {
                processes.push(fixture.beside().await);
            }
            let done = Arc::new(AtomicUsize::new(0));
            let workers: Vec<_> = (0..WORKERS)
                .map(|at| {
                    let (store, done) = (processes[at % PROCESSES].clone(), done.clone());
                    tokio::spawn(async move {
                        let worker = WorkerId::generate("crowd");
                        while done.load(Ordering::SeqCst) < count {
                            store.rescue().await.unwrap();
                            let Some(lease) = store.claim(&worker, TTL).await.unwrap() else {
                                store.changed(Duration::from_millis(20)).await;
                                continue;
                            };
                            store.heartbeat(&lease, None).await.unwrap();
                            let outcome = Outcome::Succeeded { publication: json!({}), published: None };
                            store.finish(&lease, outcome).await.unwrap();
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            for _ in 0..count {
                fixture.enqueue(new_job()).await;
            }
            for worker in workers {
                worker.await.unwrap();
            }
            assert_eq!(fixture.count("select count(*) from jobs where status = 'succeeded'").await, count as i64);
            assert_eq!(fixture.count("select count(*) from attempts").await, count as i64);
            assert_eq!(fixture.count("select count(*) from events").await, 3 * count as i64);
            for process in processes {
                process.close().await;
            }
        })
        .await;
    }
}
