//! The worker's last word on its attempt: the job ends, or is queued again.

use std::time::Duration;

use serde_json::json;

use super::statement::query;
use super::{
    Store, attempts,
    end::{End, end},
    millis, row, tasks,
    write::Write,
};
use crate::{EventKind, Job, JobFailure, JobsError, Lease, Level, NewEvent, Outcome, Result, Status};

const HELD: &str = "where id = $1 and lease_token = $2 and status = 'running'";

const REQUEUE: &str = "\
    update jobs set status = 'queued', phase = null, run_at = $3, lease_owner = null, lease_expires_at = null \
    where id = $1 and lease_token = $2 and status = 'running'";

#[derive(Debug, PartialEq)]
enum Settled {
    End(End),
    Requeue { failure: JobFailure, delay: Duration },
}

impl Store {
    /// Gives the job as it stands after. `LeaseLost` when the lease is no longer the worker's; then nothing has changed.
    pub async fn finish(&self, lease: &Lease, outcome: Outcome) -> Result<Job> {
        let mut write = self.write("store.finish").await?;
        let held = held(&mut write, lease).await?;
        if let Outcome::Succeeded { published: Some(event), .. } = &outcome {
            write.append(&held.id, event.clone()).await?;
        }
        match settle(&held, outcome) {
            Settled::End(how) => end(&mut write, &held.id, lease.token, lease.job.attempt, &how).await?,
            Settled::Requeue { failure, delay } => requeue(&mut write, lease, &failure, delay).await?,
        }
        let job = write.written_job(&held.id).await?;
        write.commit().await?;
        Ok(job)
    }
}

/// The job, if the lease is still good. Locked, so that no cancel comes between reading and writing.
async fn held(write: &mut Write<'_>, lease: &Lease) -> Result<Job> {
    let sql = row::select_job(HELD, write.dialect().for_update());
    let found = query(sql).bind(lease.job.id.as_str()).bind(lease.token).fetch_optional(write.connection()).await?;
    row::job(&found.ok_or(JobsError::LeaseLost)?)
}

fn settle(job: &Job, outcome: Outcome) -> Settled {
    match outcome {
        Outcome::Succeeded { publication, .. } => Settled::End(End::Succeeded { publication }),
        Outcome::Failed(failure) => Settled::End(End::Failed(failure)),
        Outcome::Cancelled => Settled::End(End::Cancelled),
        Outcome::Retry { .. } if job.is_cancelling() => Settled::End(End::Cancelled),
        Outcome::Retry { failure, .. } if job.attempt >= job.max_attempts => Settled::End(End::Failed(failure)),
        Outcome::Retry { failure, delay } => Settled::Requeue { failure, delay },
    }
}

async fn requeue(write: &mut Write<'_>, lease: &Lease, failure: &JobFailure, delay: Duration) -> Result<()> {
    let id = &lease.job.id;
    let run_at = write.now.saturating_add(millis(delay));
    let requeued = query(REQUEUE).bind(id.as_str()).bind(lease.token).bind(run_at).execute(write.connection()).await?;
    if requeued.rows_affected() == 0 {
        return Err(JobsError::LeaseLost);
    }
    attempts::close(write, id, lease.job.attempt, attempts::RETRIED, Some(failure)).await?;
    tasks::set_status(write, id, Status::Queued).await?;
    write.append(id, retry_scheduled(failure, run_at)).await
}

fn retry_scheduled(failure: &JobFailure, run_at: i64) -> NewEvent {
    NewEvent {
        kind: EventKind::RetryScheduled,
        level: Level::Warn,
        message: failure.message.clone(),
        data: json!({"attempt": failure.attempt, "code": failure.code, "run_at": run_at}),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use crate::{
        EventKind, JobsError, NewEvent, NewJob, Outcome, Status,
        testing::{TTL, a_failure, a_warning, new_job, on_each_database},
    };

    const DELAY: Duration = Duration::from_secs(30);

    fn retry() -> Outcome {
        Outcome::Retry { failure: a_failure(1), delay: DELAY }
    }

    #[tokio::test]
    async fn a_finished_job_keeps_its_publication() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let publication = json!({"uri": "file:///out"});
            let outcome = Outcome::Succeeded { publication: publication.clone(), published: None };
            let job = fixture.store.finish(&lease, outcome).await.unwrap();
            assert_eq!(
                (job.status, job.publication.as_ref(), job.phase),
                (Status::Succeeded, Some(&publication), None)
            );
            assert_eq!(job, fixture.job(&id).await);
            assert!(job.finished_at.is_some());
            assert_eq!(job.worker.as_deref(), Some(lease.worker.as_str()));
            assert_eq!(fixture.kinds(&id).await.last(), Some(&EventKind::Succeeded));
            assert_eq!(fixture.outcomes(&id).await, [Some("succeeded".to_owned())]);
            assert_eq!(fixture.count("select count(*) from tasks where status = 'succeeded'").await, 1);
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_published_is_told_with_the_end() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let published = NewEvent { kind: EventKind::Published, ..a_warning() };
            let outcome = Outcome::Succeeded { publication: json!({}), published: Some(published) };
            fixture.store.finish(&lease, outcome.clone()).await.unwrap();
            assert!(matches!(fixture.store.finish(&lease, outcome).await, Err(JobsError::LeaseLost)));
            assert_eq!(fixture.kinds(&id).await[2..], [EventKind::Published, EventKind::Succeeded]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_failed_job_keeps_its_error() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            let lease = fixture.claim().await;
            let job = fixture.store.finish(&lease, Outcome::Failed(a_failure(1))).await.unwrap();
            assert_eq!((job.status, job.error), (Status::Failed, Some(a_failure(1))));
        })
        .await;
    }

    #[tokio::test]
    async fn a_retry_waits_for_its_time() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let job = fixture.store.finish(&lease, retry()).await.unwrap();
            assert_eq!((job.status, job.worker), (Status::Queued, None));
            assert!(fixture.try_claim().await.is_none());
            fixture.advance(DELAY).await;
            assert_eq!(fixture.claim().await.job.attempt, 2);
            let kinds = fixture.kinds(&id).await;
            assert_eq!(kinds[2..], [EventKind::RetryScheduled, EventKind::Started]);
            assert_eq!(fixture.outcomes(&id).await, [Some("retried".to_owned()), None]);
            assert_eq!(fixture.count("select count(*) from attempts where error like '%disk%'").await, 1);
        })
        .await;
    }

    #[tokio::test]
    async fn the_last_attempt_has_no_retry() {
        on_each_database(async |fixture| {
            fixture.enqueue(NewJob { max_attempts: 1, ..new_job() }).await;
            let lease = fixture.claim().await;
            let job = fixture.store.finish(&lease, retry()).await.unwrap();
            assert_eq!((job.status, job.error), (Status::Failed, Some(a_failure(1))));
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_to_be_cancelled_is_not_queued_again() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            fixture.store.request_cancel(&id).await.unwrap();
            let job = fixture.store.finish(&lease, retry()).await.unwrap();
            assert_eq!(job.status, Status::Cancelled);
        })
        .await;
    }

    #[tokio::test]
    async fn stale_token_changes_nothing() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let stale = fixture.claim().await;
            fixture.advance(TTL * 2).await;
            let current = fixture.claim().await;
            let before = (fixture.job(&id).await, fixture.outcomes(&id).await);
            let store = &fixture.store;
            let outcomes = [
                Outcome::Succeeded { publication: json!({}), published: None },
                Outcome::Failed(a_failure(1)),
                Outcome::Cancelled,
                retry(),
            ];
            for outcome in outcomes {
                assert!(matches!(store.finish(&stale, outcome).await, Err(JobsError::LeaseLost)));
            }
            assert!(matches!(store.heartbeat(&stale, None).await, Err(JobsError::LeaseLost)));
            assert!(matches!(store.record(&stale, None, a_warning()).await, Err(JobsError::LeaseLost)));
            assert!(matches!(store.set_plan_digest(&stale, "x").await, Err(JobsError::LeaseLost)));
            assert_eq!((fixture.job(&id).await, fixture.outcomes(&id).await), before);
            store
                .finish(&current, Outcome::Succeeded { publication: json!({}), published: None })
                .await
                .expect("the owner finishes");
        })
        .await;
    }

    #[tokio::test]
    async fn a_finished_job_cannot_be_finished_again() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let job = fixture.store.finish(&lease, Outcome::Cancelled).await.unwrap();
            assert!(matches!(fixture.store.finish(&lease, Outcome::Cancelled).await, Err(JobsError::LeaseLost)));
            assert!(matches!(fixture.store.heartbeat(&lease, None).await, Err(JobsError::LeaseLost)));
            assert_eq!(fixture.job(&id).await, job);
        })
        .await;
    }
}
