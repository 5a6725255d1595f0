//! Asks for the end of a job.

use serde_json::json;

use super::statement::query;
use super::{Store, tasks, write::Write};
use crate::{Action, CancelOutcome, EventKind, Job, JobId, Level, NewEvent, Result, Status};

const CANCEL_QUEUED: &str = "\
    update jobs set status = 'cancelled', cancel_requested_at = $2, finished_at = $2 \
    where id = $1 and status = 'queued'";

const ASK_WORKER: &str = "\
    update jobs set cancel_requested_at = $2 \
    where id = $1 and status = 'running' and cancel_requested_at is null";

impl Store {
    /// A queued job is cancelled at once; a running one when its worker hears of it. `None` for an unknown job.
    pub async fn request_cancel(&self, id: &JobId) -> Result<Option<CancelOutcome>> {
        let mut write = self.write("store.cancel").await?;
        let Some(job) = write.job(id).await? else {
            write.abandon().await?;
            return Ok(None);
        };
        if !cancel(&mut write, &job).await? {
            write.abandon().await?;
            return Ok(Some(answer(job)));
        }
        let job = write.written_job(id).await?;
        write.audit(Action::JobCancelled, id.as_str()).await?;
        write.commit().await?;
        Ok(Some(answer(job)))
    }
}

/// Whether there was something to cancel.
pub(super) async fn cancel(write: &mut Write<'_>, job: &Job) -> Result<bool> {
    match job.status {
        Status::Queued => cancel_queued(write, &job.id).await?,
        Status::Running if job.cancel_requested_at.is_none() => ask_worker(write, &job.id).await?,
        Status::Running | Status::Succeeded | Status::Failed | Status::Cancelled => return Ok(false),
    }
    Ok(true)
}

async fn cancel_queued(write: &mut Write<'_>, id: &JobId) -> Result<()> {
    let now = write.now;
    query(CANCEL_QUEUED).bind(id.as_str()).bind(now).execute(write.connection()).await?;
    tasks::set_status(write, id, Status::Cancelled).await?;
    write.append(id, told(EventKind::Cancelled, "job cancelled")).await
}

async fn ask_worker(write: &mut Write<'_>, id: &JobId) -> Result<()> {
    let now = write.now;
    query(ASK_WORKER).bind(id.as_str()).bind(now).execute(write.connection()).await?;
    write.append(id, told(EventKind::CancelRequested, "cancel requested")).await
}

fn told(kind: EventKind, message: &str) -> NewEvent {
    NewEvent { kind, level: Level::Info, message: message.to_owned(), data: json!({}) }
}

fn answer(job: Job) -> CancelOutcome {
    match job.status {
        Status::Queued | Status::Running => CancelOutcome::Cancelling(job),
        Status::Cancelled => CancelOutcome::Cancelled(job),
        Status::Succeeded | Status::Failed => CancelOutcome::AlreadyFinished(job),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        CancelOutcome, EventKind, JobId, Outcome, Status,
        testing::{a_failure, new_job, on_each_database},
    };

    #[tokio::test]
    async fn cancel_of_a_queued_job_is_immediate() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let first = fixture.store.request_cancel(&id).await.unwrap().expect("known");
            let CancelOutcome::Cancelled(job) = &first else { panic!("{first:?}") };
            assert_eq!(job.status, Status::Cancelled);
            assert!(job.finished_at.is_some());
            assert!(fixture.try_claim().await.is_none());
            let again = fixture.store.request_cancel(&id).await.unwrap().expect("known");
            assert_eq!(again, first);
            assert_eq!(fixture.kinds(&id).await, [EventKind::Queued, EventKind::Cancelled]);
        })
        .await;
    }

    #[tokio::test]
    async fn cancel_of_a_running_job_is_told_once() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            for _ in 0..2 {
                let outcome = fixture.store.request_cancel(&id).await.unwrap().expect("known");
                assert!(matches!(&outcome, CancelOutcome::Cancelling(job) if job.is_cancelling()), "{outcome:?}");
            }
            assert_eq!(fixture.kinds(&id).await[2..], [EventKind::CancelRequested]);
            let job = fixture.store.finish(&lease, Outcome::Cancelled).await.unwrap();
            assert!(job.status.is_terminal() && !job.is_cancelling());
        })
        .await;
    }

    #[tokio::test]
    async fn cancel_of_a_finished_job_comes_too_late() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let failed = fixture.store.finish(&lease, Outcome::Failed(a_failure(1))).await.unwrap();
            let outcome = fixture.store.request_cancel(&id).await.unwrap().expect("known");
            assert_eq!(outcome, CancelOutcome::AlreadyFinished(failed));
        })
        .await;
    }

    /// Whichever comes first, the job must not run again.
    #[tokio::test(flavor = "multi_thread")]
    async fn cancel_and_retry_at_once_end_the_job() {
        on_each_database(async |fixture| {
            let worker = fixture.beside().await;
            for _ in 0..30 {
                let id = fixture.enqueue(new_job()).await.id;
                let lease = fixture.claim().await;
                let store = worker.clone();
                let outcome = Outcome::Retry { failure: a_failure(1), delay: Duration::ZERO };
                let retry = tokio::spawn(async move { store.finish(&lease, outcome).await });
                fixture.store.request_cancel(&id).await.unwrap();
                retry.await.unwrap().unwrap();
                assert_eq!(fixture.job(&id).await.status, Status::Cancelled);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn cancel_of_an_unknown_job_is_none() {
        on_each_database(async |fixture| {
            assert!(fixture.store.request_cancel(&JobId::generate()).await.unwrap().is_none());
        })
        .await;
    }
}
