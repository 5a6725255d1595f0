//! The heartbeat of one lease: carries progress out and the wish to cancel back, beside the merge.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use jobs::{JobsError, Lease, Progress, Store};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::rate::Rate;

/// Why a run must stop before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The user cancelled the job.
    Cancelled,
    /// Another worker holds the job, or it has ended.
    LeaseLost,
    /// The database has not answered for so long that another worker may hold the job soon.
    OutOfTouch,
    /// This process is to end.
    Shutdown,
    /// It took longer than the job may.
    TimedOut,
    /// Nothing has moved for too long.
    Stalled,
}

/// When a run is to be stopped without being asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For all of the attempt.
    pub timeout: Option<Duration>,
    /// Without progress.
    pub stall: Duration,
}

/// What the run and its heartbeat share.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Told to the engine, which looks at it between spans.
    pub cancel: AtomicBool,
    progress: Mutex<Option<Progress>>,
    rate: Mutex<Rate>,
    stop: Mutex<Option<Stop>>,
    /// How often something moved.
    moves: AtomicU64,
}

impl Pulse {
    /// Called from merge threads, often: the furthest counts, since a thread may be interrupted between counting and telling.
    pub fn set_progress(&self, progress: engine::Progress, now_ms: i64) {
        // told while inputs are read, too, when no byte of the output is written yet
        self.moved();
        let mut told = self.lock(&self.progress);
        let (tensors, bytes) = told.as_ref().map_or((0, 0), |told| (told.tensors_done, told.bytes_done));
        let bytes_done = progress.bytes_done.max(bytes);
        let bytes_per_second = self.lock(&self.rate).at(bytes_done, now_ms);
        *told = Some(Progress {
            tensors_done: progress.tensors_done.max(tensors),
            tensors_total: progress.tensors_total,
            bytes_done,
            bytes_total: progress.bytes_total,
            bytes_per_second,
            updated_at: now_ms,
        });
    }

    /// Tells that the run goes on, as when a phase ends.
    pub fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    pub fn progress(&self) -> Option<Progress> {
        self.lock(&self.progress).clone()
    }

    pub fn stop(&self) -> Option<Stop> {
        *self.lock(&self.stop)
    }

    /// The first reason stands.
    pub fn set_stop(&self, stop: Stop) {
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
    pub fn start(
        store: &Store,
        lease: &Lease,
        every: Duration,
        patience: Patience,
        shutdown: &CancellationToken,
    ) -> Heart {
        let pulse = Arc::<Pulse>::default();
        let ended = CancellationToken::new();
        let beat = Beat { store: store.clone(), lease: lease.clone(), every, patience, pulse: pulse.clone() };
        let beating = AssertUnwindSafe(beat.run(ended.clone(), shutdown.clone())).catch_unwind();
        let stopped = pulse.clone();
        let watched = async move {
            if beating.await.is_err() {
                // nobody renews the lease any more
                stopped.set_stop(Stop::OutOfTouch);
            }
        };
        let task = tokio::spawn(watched.in_current_span());
        Heart { pulse, ended, task }
    }

    /// Ends the heartbeat and waits until no beat is under way.
    pub async fn still(mut self) {
        self.ended.cancel();
        // a panic in it is told by the runtime; the lease then runs out
        let _ = (&mut self.task).await;
    }
}

struct Beat {
    store: Store,
    lease: Lease,
    every: Duration,
    patience: Patience,
    pulse: Arc<Pulse>,
}

impl Drop for Heart {
    /// A heart that outlived its run would hold the lease for ever.
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// How often a wish to cancel is looked for between beats: a look costs the database no write.
const LOOK: Duration = Duration::from_millis(250);

impl Beat {
    async fn run(self, ended: CancellationToken, shutdown: CancellationToken) {
        let mut accepted = Instant::now();
        let mut watch = Watch { started: accepted, moves: 0, moved: accepted };
        loop {
            tokio::select! {
                () = self.pause() => {}
                () = ended.cancelled() => return,
                () = shutdown.cancelled(), if self.pulse.stop().is_none() => {
                    self.pulse.set_stop(Stop::Shutdown);
                    continue;
                }
            }
            if let Some(stop) = watch.look(self.pulse.moves.load(Ordering::Relaxed), self.patience) {
                self.pulse.set_stop(stop);
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
                return self.pulse.set_stop(Stop::OutOfTouch);
            }
        }
    }

    /// Until the next beat, or until the job is to be cancelled.
    async fn pause(&self) {
        let until = Instant::now() + self.every;
        while Instant::now() < until {
            tokio::time::sleep(LOOK.min(self.every)).await;
            if self.pulse.stop().is_none() && self.is_cancelling().await {
                return;
            }
        }
    }

    /// Without an answer there is the next beat: a look must not keep that waiting.
    async fn is_cancelling(&self) -> bool {
        let look = self.store.is_cancelling(&self.lease.job.id);
        matches!(tokio::time::timeout(LOOK.min(self.every), look).await, Ok(Ok(true)))
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

/// What a run's time is measured by.
struct Watch {
    started: Instant,
    /// How often something had moved when that was last seen to change, and when that was.
    moves: u64,
    moved: Instant,
}

impl Watch {
    fn look(&mut self, moves: u64, patience: Patience) -> Option<Stop> {
        if moves != self.moves {
            (self.moves, self.moved) = (moves, Instant::now());
        }
        if patience.timeout.is_some_and(|timeout| self.started.elapsed() >= timeout) {
            return Some(Stop::TimedOut);
        }
        (self.moved.elapsed() >= patience.stall).then_some(Stop::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use jobs::{Enqueued, NewJob, WorkerId};

    use super::*;

    const EVERY: Duration = Duration::from_millis(5);
    const TTL: Duration = Duration::from_secs(60);

    const PATIENT: Patience = Patience { timeout: None, stall: TTL };

    struct Fixture {
        store: Store,
        clock: Arc<AtomicI64>,
        lease: Lease,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        /// A queue with one job, leased.
        async fn new() -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
            let reading = clock.clone();
            let url = format!("sqlite://{}/jobs.db", dir.path().display());
            let store = Store::open_with_clock(&url, Arc::new(move || reading.load(Ordering::SeqCst))).await.unwrap();
            let job = NewJob::of("", "linear");
            assert!(matches!(store.enqueue(job).await.unwrap(), Enqueued::Created(_)));
            let lease = store.claim(&WorkerId::generate("first"), TTL).await.unwrap().unwrap();
            Fixture { store, clock, lease, _dir: dir }
        }

        fn heart(&self, shutdown: &CancellationToken) -> Heart {
            self.heart_of(PATIENT, shutdown)
        }

        fn heart_of(&self, patience: Patience, shutdown: &CancellationToken) -> Heart {
            Heart::start(&self.store, &self.lease, EVERY, patience, shutdown)
        }
    }

    /// Waits for the heart to say that the run must stop.
    async fn stopped(heart: &Heart) -> Stop {
        let stop = async {
            loop {
                if let Some(stop) = heart.pulse.stop() {
                    return stop;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), stop).await.expect("the heart stops the run")
    }

    #[tokio::test]
    async fn a_lease_that_another_took_stops_the_run() {
        let fixture = Fixture::new().await;
        fixture.clock.fetch_add(TTL.as_millis() as i64 + 1, Ordering::SeqCst);
        fixture.store.claim(&WorkerId::generate("second"), TTL).await.unwrap().unwrap();
        let heart = fixture.heart(&CancellationToken::new());
        assert_eq!(stopped(&heart).await, Stop::LeaseLost);
        assert!(heart.pulse.cancel.load(Ordering::Relaxed), "the engine is told");
        heart.still().await;
    }

    #[tokio::test]
    async fn a_wish_to_cancel_and_a_shutdown_stop_the_run() {
        let fixture = Fixture::new().await;
        fixture.store.request_cancel(&fixture.lease.job.id).await.unwrap();
        let heart = fixture.heart(&CancellationToken::new());
        assert_eq!(stopped(&heart).await, Stop::Cancelled);
        heart.still().await;
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let heart = Fixture::new().await.heart(&shutdown);
        assert_eq!(stopped(&heart).await, Stop::Shutdown);
        heart.still().await;
    }

    #[tokio::test]
    async fn a_database_that_does_not_answer_ends_the_run_before_the_lease_ends() {
        let mut fixture = Fixture::new().await;
        fixture.lease.ttl = Duration::from_millis(50);
        fixture.store.close().await;
        let heart = fixture.heart(&CancellationToken::new());
        assert_eq!(stopped(&heart).await, Stop::OutOfTouch);
        heart.still().await;
    }

    #[tokio::test]
    async fn progress_reaches_the_job() {
        let fixture = Fixture::new().await;
        let heart = fixture.heart(&CancellationToken::new());
        let progress = engine::Progress { tensors_done: 1, tensors_total: 2, bytes_done: 3, bytes_total: 4 };
        heart.pulse.set_progress(progress, 5);
        let told = async {
            while fixture.store.job(&fixture.lease.job.id).await.unwrap().unwrap().progress.is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
        heart.still().await;
    }

    #[test]
    fn progress_never_goes_back() {
        let pulse = Pulse::default();
        let at = |done| engine::Progress { tensors_done: done, tensors_total: 9, bytes_done: done, bytes_total: 9 };
        for (now_ms, done) in [4, 9, 7].into_iter().enumerate() {
            pulse.set_progress(at(done), now_ms as i64);
        }
        let told = pulse.progress().unwrap();
        assert_eq!((told.tensors_done, told.bytes_done), (9, 9));
    }

    #[tokio::test]
    async fn a_run_that_takes_too_long_or_does_not_move_is_stopped() {
        let fixture = Fixture::new().await;
        let short = Duration::from_millis(30);
        let heart = fixture.heart_of(Patience { timeout: Some(short), stall: TTL }, &CancellationToken::new());
        assert_eq!(stopped(&heart).await, Stop::TimedOut);
        heart.still().await;
        let heart = fixture.heart_of(Patience { timeout: None, stall: short }, &CancellationToken::new());
        assert_eq!(stopped(&heart).await, Stop::Stalled);
        heart.still().await;
    }

    #[tokio::test]
    async fn a_run_that_moves_is_let_alone() {
        let mut watch = Watch { started: Instant::now(), moves: 0, moved: Instant::now() };
        let patience = Patience { timeout: None, stall: Duration::from_millis(20) };
        for moves in 1..5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(watch.look(moves, patience), None);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(watch.look(4, patience), Some(Stop::Stalled));
    }
}
