//! The heartbeat of one lease: carries progress out and the wish to cancel back, beside the merge.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jobs::{JobsError, Lease, Phase, Progress, Store};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why a run must stop before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The user cancelled the job.
    Cancelled,
    /// Another worker may hold the job by now.
    LeaseLost,
    /// This process is to end.
    Shutdown,
}

/// What the run and its heartbeat share.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Told to the engine, which looks at it between spans.
    pub cancel: AtomicBool,
    progress: Mutex<Option<Progress>>,
    stop: Mutex<Option<Stop>>,
}

impl Pulse {
    /// Called from merge threads, often: only the latest counts.
    pub fn set_progress(&self, progress: engine::Progress, phase: Phase, now_ms: i64) {
        *self.lock(&self.progress) = Some(Progress {
            phase,
            tensors_done: progress.tensors_done,
            tensors_total: progress.tensors_total,
            bytes_done: progress.bytes_done,
            bytes_total: progress.bytes_total,
            updated_at: now_ms,
        });
    }

    pub fn progress(&self) -> Option<Progress> {
        self.lock(&self.progress).clone()
    }

    pub fn stop(&self) -> Option<Stop> {
        *self.lock(&self.stop)
    }

    /// The first reason stands.
    fn set_stop(&self, stop: Stop) {
        self.lock(&self.stop).get_or_insert(stop);
        self.cancel.store(true, Ordering::Relaxed);
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        mutex.lock().expect("nothing panics while it holds this")
    }
}

/// A running heartbeat; it ends with [`Heart::still`].
pub(crate) struct Heart {
    pub pulse: Arc<Pulse>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl Heart {
    pub fn start(store: &Store, lease: &Lease, every: Duration, shutdown: &CancellationToken) -> Heart {
        let pulse = Arc::<Pulse>::default();
        let ended = CancellationToken::new();
        let beat = Beat { store: store.clone(), lease: lease.clone(), every, pulse: pulse.clone() };
        let task = tokio::spawn(beat.run(ended.clone(), shutdown.clone()));
        Heart { pulse, ended, task }
    }

    /// Ends the heartbeat and waits until no beat is under way.
    pub async fn still(self) {
        self.ended.cancel();
        // a panic in it is told by the runtime; the lease then runs out
        let _ = self.task.await;
    }
}

struct Beat {
    store: Store,
    lease: Lease,
    every: Duration,
    pulse: Arc<Pulse>,
}

impl Beat {
    async fn run(self, ended: CancellationToken, shutdown: CancellationToken) {
        let mut accepted = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = ended.cancelled() => return,
                () = shutdown.cancelled(), if self.pulse.stop().is_none() => {
                    self.pulse.set_stop(Stop::Shutdown);
                    continue;
                }
            }
            let sent = Instant::now();
            match self.beat(accepted).await {
                Ok(true) => accepted = sent,
                // no answer in time is no lease renewed
                Ok(false) => tracing::warn!(job = self.lease.job.id.as_str(), "heartbeat got no answer"),
                Err(JobsError::LeaseLost) => return self.pulse.set_stop(Stop::LeaseLost),
                Err(error) => tracing::warn!(job = self.lease.job.id.as_str(), %error, "heartbeat failed"),
            }
            // a database that does not answer says nothing about who owns the job; the clock does
            if Instant::now() >= self.watchdog(accepted) {
                return self.pulse.set_stop(Stop::LeaseLost);
            }
        }
    }

    /// When a lease that was last renewed then is no longer safe to work under.
    fn watchdog(&self, accepted: Instant) -> Instant {
        accepted + self.lease.ttl.mul_f64(0.8)
    }

    /// Whether the database took the beat in time.
    async fn beat(&self, accepted: Instant) -> Result<bool, JobsError> {
        let progress = self.pulse.progress();
        let heartbeat = self.store.heartbeat(&self.lease, progress.as_ref());
        // a beat that hangs must not keep the watchdog from its look at the clock
        let Ok(answer) =
            tokio::time::timeout_at(self.watchdog(accepted).min(Instant::now() + self.lease.ttl / 4), heartbeat).await
        else {
            return Ok(false);
        };
        if answer?.cancel_requested {
            self.pulse.set_stop(Stop::Cancelled);
        }
        Ok(true)
    }
}
