//! What a worker tells the queue of its job, in spite of a database that is away for a moment: that costs no attempt.
//!
//! Invariant: what a call that seemed to fail has written after all is not written twice.

use std::time::Duration;

use jobs::{Job, JobId, JobsError, Lease, NewEvent, Outcome, Phase, Progress, Store};
use serde_json::Value;
use tokio::time::Instant;

/// Between tries, at first and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(crate) struct Teller<'a> {
    pub store: &'a Store,
    pub lease: &'a Lease,
}

impl Teller<'_> {
    pub async fn record(&self, phase: Option<Phase>, event: NewEvent) -> Result<(), JobsError> {
        self.persistently(|again| {
            let event = event.clone();
            async move {
                match again {
                    false => self.store.record(self.lease, phase, event).await,
                    true => self.store.record_unless_told(self.lease, phase, event).await,
                }
            }
        })
        .await
    }

    pub async fn plan_digest(&self, digest: &str) -> Result<(), JobsError> {
        self.persistently(|_| self.store.set_plan_digest(self.lease, digest)).await
    }

    pub async fn published_by_plan(&self, digest: &str) -> Result<Vec<(JobId, Value)>, JobsError> {
        self.persistently(|_| self.store.published_by_plan(digest)).await
    }

    pub async fn progress(&self, progress: Option<&Progress>) -> Result<(), JobsError> {
        self.persistently(|_| self.store.heartbeat(self.lease, progress)).await.map(drop)
    }

    /// The job as it stands after.
    pub async fn finish(&self, outcome: &Outcome) -> Result<Job, JobsError> {
        self.persistently(|again| async move {
            match self.store.finish(self.lease, outcome.clone()).await {
                Err(JobsError::LeaseLost) if again => self.finished_before().await?.ok_or(JobsError::LeaseLost),
                result => result,
            }
        })
        .await
    }

    pub async fn release(&self) -> Result<(), JobsError> {
        self.persistently(|again| async move {
            match self.store.release(self.lease).await {
                Err(JobsError::LeaseLost) if again => {
                    self.finished_before().await?.map(drop).ok_or(JobsError::LeaseLost)
                }
                result => result,
            }
        })
        .await
    }

    /// The job, where this attempt is its last and has ended: by the call whose answer never came.
    async fn finished_before(&self) -> Result<Option<Job>, JobsError> {
        let job = self.store.job(&self.lease.job.id).await?;
        Ok(job.filter(|job| job.attempt == self.lease.job.attempt && job.status != jobs::Status::Running))
    }

    /// Calls until the database answers, as long as the lease can still be held. Every call but the first is told that an
    /// earlier one may have been heard.
    async fn persistently<T, F>(&self, call: impl Fn(bool) -> F) -> Result<T, JobsError>
    where
        F: Future<Output = Result<T, JobsError>>,
    {
        let until = Instant::now() + self.lease.ttl.mul_f64(0.5);
        let (mut wait, mut again) = (AGAIN, false);
        loop {
            match call(again).await {
                Err(JobsError::Database(error)) if Instant::now() < until => {
                    tracing::warn!(job = self.lease.job.id.as_str(), %error, "the database did not answer; trying again");
                }
                result => return result,
            }
            tokio::time::sleep(wait).await;
            (wait, again) = ((wait * 2).min(AGAIN_MAX), true);
        }
    }
}
