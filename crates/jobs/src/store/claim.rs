//! Leases the next job to a worker: one that waits, or one whose worker stopped renewing.

use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use super::{Store, attempts, millis, row, tasks, write::Write};
use crate::{
    Capacity, EventKind, JobId, Lease, Level, Limits, NewEvent, Requirements, Result, Status, WORKERS_LOST_MAX,
    WorkerId,
};

/// A job that was to be cancelled, or that has lost too many workers, is not claimed again: `rescue` ends it.
/// `$1` is the time, `$2` how many lost workers are one too many.
const CLAIMABLE: &str = "\
    ((status = 'queued' and run_at <= $1 and (start_by is null or start_by > $1 or started_at is not null)) \
    or (status = 'running' and lease_expires_at < $1 and lost + 1 < $2 and cancel_requested_at is null))";

/// In their order: by priority, then those first whose owner has less running, then by age. A job whose lease has run out
/// does not stand in its own way.
const CANDIDATES: &str = "\
    select id, requirements, \
    (select count(*) from jobs r where r.status = 'running' and r.owner = jobs.owner and r.id <> jobs.id) as share \
    from jobs \
    where {claimable} \
    and not exists (select 1 from queues where name = 'default' and paused_at is not null) \
    and (select count(*) from jobs r where r.status = 'running' and r.id <> jobs.id) < $3 \
    and (select count(*) from jobs r where r.status = 'running' and r.owner = jobs.owner and r.id <> jobs.id) < $4 \
    order by priority desc, share, run_at, id limit $5 offset $6";

/// A leased job begins by fetching. An attempt whose worker was lost is no failure of the job, so it does not count against
/// `max_attempts`.
const TAKE: &str = "\
    update jobs set status = 'running', phase = 'fetching', progress = null, attempt = attempt + 1, lease_owner = $3, \
    lease_token = lease_token + 1, lease_expires_at = $4, started_at = coalesce(started_at, $1), \
    lost = lost + case status when 'running' then 1 else 0 end, \
    max_attempts = max_attempts + case status when 'running' then 1 else 0 end \
    where id = $5 and {claimable} \
    returning id, lease_token, attempt";

/// Candidates looked at in one go.
const CANDIDATES_MAX: i64 = 100;
/// Candidates looked at in all: a worker that fits none of them tries again later.
const LOOKED_AT_MAX: i64 = 10_000;

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
        let mut write = self.write().await?;
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
}

/// The first candidate that fits.
async fn take_first(
    write: &mut Write<'_>,
    worker: &WorkerId,
    ttl: Duration,
    capacity: &Capacity,
    limits: Limits,
) -> Result<Option<Taken>> {
    let mut offset = 0;
    while offset < LOOKED_AT_MAX {
        let rows = sqlx::query(with_claimable(CANDIDATES))
            .bind(write.now)
            .bind(WORKERS_LOST_MAX)
            .bind(i64::from(limits.running_max))
            .bind(i64::from(limits.running_per_owner_max))
            .bind(CANDIDATES_MAX)
            .bind(offset)
            .fetch_all(write.connection())
            .await?;
        for candidate in &rows {
            if !capacity.fits(&row::json::<Requirements>(candidate, "requirements")?) {
                continue;
            }
            // a cancel may have come between
            if let Some(taken) = take(write, &row::parsed(candidate, "id")?, worker, ttl).await? {
                return Ok(Some(taken));
            }
        }
        if (rows.len() as i64) < CANDIDATES_MAX {
            return Ok(None);
        }
        offset += CANDIDATES_MAX;
    }
    Ok(None)
}

async fn take(write: &mut Write<'_>, id: &JobId, worker: &WorkerId, ttl: Duration) -> Result<Option<Taken>> {
    let now = write.now;
    let taken = sqlx::query(with_claimable(TAKE))
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

fn with_claimable(sql: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql.replace("{claimable}", CLAIMABLE))
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
    use std::{collections::HashSet, time::Duration};

    use crate::{
        EventKind, NewJob, Phase, Status, WorkerId,
        testing::{TTL, new_job, on_each_database},
    };

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
}
