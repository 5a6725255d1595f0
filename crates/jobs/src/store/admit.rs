//! Whether the queue has room for the jobs that a transaction has written.
//!
//! Asked last, so that a request that is replayed is never refused, and locks are held for the shortest time.

use super::connect::Dialect;
use super::statement::{query, query_scalar};
use super::write::Write;
use crate::{JobsError, QueueLimits, Result};

/// Not one more than the limit is counted.
const WAITING: &str = "select count(*) from (select 1 from jobs where status = 'queued' limit $1) waiting";

const WAITING_OF_OWNER: &str =
    "select count(*) from (select 1 from jobs where status = 'queued' and owner = $2 limit $1) waiting";

/// The numbers are any that no other program is likely to choose: "amalqueu" and "amal" as bytes.
const QUEUE_LOCK: &str = "select pg_advisory_xact_lock(7020374512528352629)";
const OWNER_LOCK: &str = "select pg_advisory_xact_lock(1634558316, hashtext($1))";

/// Far more jobs than transactions that run at once can have written unseen by each other. Only where the queue is nearer than
/// that to being full do they wait for each other.
const UNSEEN_MAX: i64 = 20_000;

/// Whoever has no key has no number of jobs of its own.
pub(super) async fn admit(write: &mut Write<'_>, owner: &str, limits: QueueLimits) -> Result<()> {
    let QueueLimits { queued_max, queued_per_owner_max } = limits;
    if !owner.is_empty() && !has_room_of(write, owner, queued_per_owner_max).await? {
        return Err(JobsError::TooManyQueued { max: queued_per_owner_max });
    }
    if !has_room(write, queued_max).await? {
        return Err(JobsError::QueueFull { max: queued_max });
    }
    Ok(())
}

async fn has_room_of(write: &mut Write<'_>, owner: &str, max: u32) -> Result<bool> {
    if max == u32::MAX {
        return Ok(true);
    }
    if write.dialect() == Dialect::Postgres {
        query(OWNER_LOCK).bind(owner).execute(write.connection()).await?;
    }
    let waiting: i64 =
        query_scalar(WAITING_OF_OWNER).bind(i64::from(max) + 1).bind(owner).fetch_one(write.connection()).await?;
    Ok(waiting <= i64::from(max))
}

async fn has_room(write: &mut Write<'_>, max: u32) -> Result<bool> {
    if max == u32::MAX {
        return Ok(true);
    }
    let max = i64::from(max);
    let waiting = waiting(write, max).await?;
    // SQLite has one writer, and sees all that is written
    if write.dialect() == Dialect::Sqlite || waiting > max || waiting <= max - UNSEEN_MAX {
        return Ok(waiting <= max);
    }
    query(QUEUE_LOCK).execute(write.connection()).await?;
    Ok(self::waiting(write, max).await? <= max)
}

async fn waiting(write: &mut Write<'_>, max: i64) -> Result<i64> {
    Ok(query_scalar(WAITING).bind(max + 1).fetch_one(write.connection()).await?)
}

#[cfg(test)]
mod tests {
    use crate::{
        Admission, Enqueued, Idempotency, JobsError, NewJob, QueueLimits, Status,
        testing::{new_group, new_job, on_each_database},
    };

    fn of(owner: &str) -> NewJob {
        NewJob { admission: Admission { owner: owner.to_owned(), ..Admission::default() }, ..new_job() }
    }

    fn group_of(owner: &str, variants: &[&str]) -> Vec<NewJob> {
        let mut jobs = new_group(variants);
        jobs.iter_mut().for_each(|job| job.admission.owner = owner.to_owned());
        jobs
    }

    const ONE_OWNER: QueueLimits = QueueLimits { queued_max: u32::MAX, queued_per_owner_max: 2 };
    const ALL: QueueLimits = QueueLimits { queued_max: 3, queued_per_owner_max: u32::MAX };

    #[tokio::test]
    async fn an_owner_has_so_many_jobs_waiting_and_others_are_not_in_its_way() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            for _ in 0..2 {
                store.enqueue_within(of("a"), ONE_OWNER).await.unwrap();
            }
            let refused = store.enqueue_within(of("a"), ONE_OWNER).await;
            assert!(matches!(refused, Err(JobsError::TooManyQueued { max: 2 })), "{refused:?}");
            store.enqueue_within(of("b"), ONE_OWNER).await.unwrap();
            for _ in 0..3 {
                // nobody's
                store.enqueue_within(of(""), ONE_OWNER).await.unwrap();
            }
            // one that runs waits no more
            assert_eq!(fixture.claim().await.job.status, Status::Running);
            store.enqueue_within(of("a"), ONE_OWNER).await.unwrap();
            assert!(store.enqueue_within(of("a"), ONE_OWNER).await.is_err());
            assert_eq!(fixture.count("select count(*) from jobs").await, 7);
            assert_eq!(fixture.count("select count(*) from events where type = 'queued'").await, 7);
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_queue_takes_nothing_from_anyone() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            for owner in ["a", "", "b"] {
                store.enqueue_within(of(owner), ALL).await.unwrap();
            }
            for owner in ["a", "", "c"] {
                let refused = store.enqueue_within(of(owner), ALL).await;
                assert!(matches!(refused, Err(JobsError::QueueFull { max: 3 })), "{refused:?}");
            }
            fixture.claim().await;
            store.enqueue_within(of("c"), ALL).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn a_group_is_taken_whole_or_not_at_all() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            store.enqueue_group_within(group_of("a", &["1", "2"]), ALL).await.unwrap();
            let refused = store.enqueue_group_within(group_of("a", &["1", "2"]), ALL).await;
            assert!(matches!(refused, Err(JobsError::QueueFull { .. })), "{refused:?}");
            let refused = store.enqueue_group_within(group_of("b", &["1", "2", "3"]), ONE_OWNER).await;
            assert!(matches!(refused, Err(JobsError::TooManyQueued { .. })), "{refused:?}");
            assert_eq!(fixture.count("select count(*) from jobs").await, 2);
            assert_eq!(fixture.count("select count(*) from tasks").await, 2);
            store.enqueue_group_within(group_of("b", &["1"]), ALL).await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn a_request_that_made_its_jobs_before_is_answered_when_the_queue_is_full() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            let key = |key: &str| Idempotency { key: key.to_owned(), request_digest: "d".to_owned() };
            let alone = NewJob { idempotency: Some(key("alone")), ..of("a") };
            let mut group = group_of("a", &["1", "2"]);
            group[0].idempotency = Some(key("group"));
            store.enqueue_within(alone.clone(), ALL).await.unwrap();
            store.enqueue_group_within(group.clone(), ALL).await.unwrap();
            assert!(store.enqueue_within(of("a"), ALL).await.is_err());
            for limits in [ALL, QueueLimits { queued_max: 1, queued_per_owner_max: 1 }] {
                let again = store.enqueue_within(alone.clone(), limits).await.unwrap();
                assert!(matches!(again, Enqueued::Replayed(_)));
                let again = store.enqueue_group_within(group.clone(), limits).await.unwrap();
                assert!(matches!(again, Enqueued::Replayed(jobs) if jobs.len() == 2));
            }
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_at_once_fill_the_queue_and_no_more() {
        on_each_database(async |fixture| {
            let (other, mut calls) = (fixture.beside().await, Vec::new());
            let limits = [
                ("a", QueueLimits { queued_max: u32::MAX, queued_per_owner_max: 5 }),
                ("b", QueueLimits { queued_max: u32::MAX, queued_per_owner_max: 4 }),
            ];
            for i in 0..24 {
                let (owner, limits) = limits[i % 2];
                let store = if i % 3 == 0 { other.clone() } else { fixture.store.clone() };
                calls.push(tokio::spawn(async move { store.enqueue_within(of(owner), limits).await }));
            }
            for call in calls {
                let answer = call.await.unwrap();
                assert!(matches!(answer, Ok(_) | Err(JobsError::TooManyQueued { .. })), "{answer:?}");
            }
            assert_eq!(fixture.count("select count(*) from jobs where owner = 'a'").await, 5);
            assert_eq!(fixture.count("select count(*) from jobs where owner = 'b'").await, 4);
            let (limits, mut calls) = (QueueLimits { queued_max: 12, queued_per_owner_max: 100 }, Vec::new());
            for i in 0..16 {
                let store = if i % 3 == 0 { other.clone() } else { fixture.store.clone() };
                calls.push(tokio::spawn(async move { store.enqueue_within(of(&format!("{i}")), limits).await }));
            }
            for call in calls {
                let answer = call.await.unwrap();
                assert!(matches!(answer, Ok(_) | Err(JobsError::QueueFull { .. })), "{answer:?}");
            }
            assert_eq!(fixture.count("select count(*) from jobs").await, 12);
            other.close().await;
        })
        .await;
    }
}
