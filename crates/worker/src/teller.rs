//! What a worker tells the queue of its job, in spite of a database that is away for a moment: that costs no attempt.
//!
//! Invariant: what a call that seemed to fail has written after all is not written twice.

use std::time::Duration;

use jobs::{Heartbeat, Job, JobId, JobsError, Lease, NewEvent, Outcome, Phase, Progress, Store};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between tries, at first and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// A process that is to end waits so long for the database.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// No statement takes as long.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(15);

#[derive(Clone, Copy)]
pub(crate) struct Teller<'a> {
    pub store: &'a Store,
    pub lease: &'a Lease,
    pub shutdown: &'a CancellationToken,
}

/// How long a call is made again.
#[derive(Clone, Copy)]
enum Until {
    /// The lease may soon be another's.
    LeaseEnds,
    /// The database says yes or no: the last word on an attempt is not given up. What has happened meanwhile it knows by the
    /// lease's token. A process that is to end waits a little.
    Answered,
}

impl Teller<'_> {
    pub async fn record(&self, phase: Option<Phase>, event: NewEvent) -> Result<(), JobsError> {
        self.persistently(Until::LeaseEnds, |again| {
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
        self.persistently(Until::LeaseEnds, |_| self.store.set_plan_digest(self.lease, digest)).await
    }

    pub async fn published_by_plan(&self, digest: &str) -> Result<Vec<(JobId, Value)>, JobsError> {
        self.persistently(Until::LeaseEnds, |_| self.store.published_by_plan(&self.lease.job.tenant, digest)).await
    }

    /// Renews the lease, too, and brings the wish to cancel back.
    pub async fn heartbeat(&self, progress: Option<&Progress>) -> Result<Heartbeat, JobsError> {
        self.persistently(Until::LeaseEnds, |_| self.store.heartbeat(self.lease, progress)).await
    }

    /// The job as it stands after.
    pub async fn finish(&self, outcome: &Outcome) -> Result<Job, JobsError> {
        self.persistently(Until::Answered, |again| async move {
            match self.store.finish(self.lease, outcome.clone()).await {
                Err(JobsError::LeaseLost) if again => self.finished_before().await?.ok_or(JobsError::LeaseLost),
                result => result,
            }
        })
        .await
    }

    pub async fn release(&self) -> Result<(), JobsError> {
        self.persistently(Until::Answered, |again| async move {
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

    /// Every call but the first is told that an earlier one may have been heard.
    async fn persistently<T, F>(&self, until: Until, call: impl Fn(bool) -> F) -> Result<T, JobsError>
    where
        F: Future<Output = Result<T, JobsError>>,
    {
        let begun = Instant::now();
        let (mut wait, mut again, mut ending) = (AGAIN, false, None);
        let goes_on = |ending: &mut Option<Instant>| match until {
            Until::LeaseEnds => begun.elapsed() < self.lease.ttl.mul_f64(0.5),
            Until::Answered if !self.shutdown.is_cancelled() => true,
            Until::Answered => ending.get_or_insert_with(Instant::now).elapsed() < LAST_WORDS,
        };
        loop {
            // a call that hangs is as good as one that failed: the connection may be to nobody
            let answer = tokio::time::timeout(CALL_MAX, call(again)).await;
            match answer.unwrap_or_else(|_| Err(JobsError::no_answer(CALL_MAX))) {
                Err(error) if error.is_transient() && self.store.is_open() && goes_on(&mut ending) => {
                    tracing::warn!(job = self.lease.job.id.as_str(), %error, "the database did not answer; trying again");
                }
                result => return result,
            }
            tokio::time::sleep(wait).await;
            (wait, again) = ((wait * 2).min(AGAIN_MAX), true);
        }
    }
}
