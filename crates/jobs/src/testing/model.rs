//! The lease protocol as a pure state machine, on a clock of its own, beside the store: whatever is done in whatever order, the
//! two agree, and no lease is ever held twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::json;

use super::{TTL, a_failure, new_job};
use crate::{
    CancelOutcome, Enqueued, Job, JobId, JobsError, Lease, NewJob, Outcome, Status, Store, WORKERS_LOST_MAX, WorkerId,
};

const TTL_MS: i64 = TTL.as_millis() as i64;

/// What may be done to the queue. A lease is any that was ever given, so most are stale.
#[derive(Debug, Clone)]
enum Op {
    Enqueue { max_attempts: i64, priority: i64 },
    Claim,
    Heartbeat(Index),
    Succeed(Index),
    Fail(Index),
    Retry(Index, i64),
    Release(Index),
    Cancel(Index),
    Advance(i64),
    Rescue,
    Pause(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..4i64, 0..2i64).prop_map(|(max_attempts, priority)| Op::Enqueue { max_attempts, priority }),
        6 => Just(Op::Claim),
        3 => any::<Index>().prop_map(Op::Heartbeat),
        2 => any::<Index>().prop_map(Op::Succeed),
        1 => any::<Index>().prop_map(Op::Fail),
        2 => (any::<Index>(), 0..2 * TTL_MS).prop_map(|(lease, delay)| Op::Retry(lease, delay)),
        1 => any::<Index>().prop_map(Op::Release),
        1 => any::<Index>().prop_map(Op::Cancel),
        4 => (0..2 * TTL_MS).prop_map(Op::Advance),
        2 => Just(Op::Rescue),
        1 => any::<bool>().prop_map(Op::Pause),
    ]
}

#[derive(Debug, Clone)]
struct Modelled {
    id: JobId,
    priority: i64,
    status: Status,
    run_at: i64,
    attempt: i64,
    max_attempts: i64,
    lost: i64,
    token: i64,
    expires_at: i64,
    cancelling: bool,
}

#[derive(Debug, Default)]
struct Model {
    now: i64,
    paused: bool,
    jobs: Vec<Modelled>,
}

impl Model {
    fn has_expired(&self, job: &Modelled) -> bool {
        job.status == Status::Running && job.expires_at < self.now
    }

    fn is_claimable(&self, job: &Modelled) -> bool {
        (job.status == Status::Queued && job.run_at <= self.now)
            || (self.has_expired(job) && job.lost + 1 < WORKERS_LOST_MAX && !job.cancelling)
    }

    /// The job that a claim gets, with its new token.
    fn claim(&mut self) -> Option<(JobId, i64)> {
        // they all have one owner, so that nobody has less running
        let key = |job: &Modelled| (-job.priority, job.run_at, job.id.clone());
        let claimable = (0..self.jobs.len()).filter(|i| !self.paused && self.is_claimable(&self.jobs[*i]));
        let first = claimable.min_by_key(|i| key(&self.jobs[*i]))?;
        let now = self.now;
        let job = &mut self.jobs[first];
        if job.status == Status::Running {
            job.lost += 1;
            job.max_attempts += 1;
        }
        job.status = Status::Running;
        job.attempt += 1;
        job.token += 1;
        job.expires_at = now + TTL_MS;
        Some((job.id.clone(), job.token))
    }

    /// The job that a lease still holds.
    fn held(&mut self, lease: &Lease) -> Option<&mut Modelled> {
        let holds =
            |job: &&mut Modelled| job.id == lease.job.id && job.token == lease.token && job.status == Status::Running;
        self.jobs.iter_mut().find(holds)
    }

    fn rescue(&mut self) -> u64 {
        let now = self.now;
        let mut rescued = 0;
        for job in &mut self.jobs {
            let has_expired = job.status == Status::Running && job.expires_at < now;
            if has_expired && (job.lost + 1 >= WORKERS_LOST_MAX || job.cancelling) {
                job.lost += 1;
                job.status = if job.cancelling { Status::Cancelled } else { Status::Failed };
                rescued += 1;
            }
        }
        rescued
    }
}

struct Pair {
    model: Model,
    store: Store,
    clock: Arc<AtomicI64>,
    worker: WorkerId,
    leases: Vec<Lease>,
}

impl Pair {
    async fn run(&mut self, op: &Op) {
        match op {
            Op::Enqueue { max_attempts, priority } => self.enqueue(*max_attempts, *priority).await,
            Op::Claim => self.claim().await,
            Op::Advance(ms) => {
                self.model.now += ms;
                self.clock.fetch_add(*ms, Ordering::SeqCst);
            }
            Op::Rescue => assert_eq!(self.store.rescue().await.unwrap(), self.model.rescue()),
            Op::Pause(paused) => {
                self.model.paused = *paused;
                if *paused {
                    self.store.pause().await.unwrap()
                } else {
                    self.store.resume().await.unwrap()
                };
            }
            Op::Cancel(which) => self.cancel(which).await,
            Op::Heartbeat(lease) | Op::Succeed(lease) | Op::Fail(lease) | Op::Retry(lease, _) | Op::Release(lease) => {
                if !self.leases.is_empty() {
                    let lease = self.leases[lease.index(self.leases.len())].clone();
                    self.use_lease(op, &lease).await;
                }
            }
        }
    }

    async fn enqueue(&mut self, max_attempts: i64, priority: i64) {
        let enqueued = self.store.enqueue(NewJob { max_attempts, priority, ..new_job() }).await.unwrap();
        let Enqueued::Created(job) = enqueued else { panic!("replayed") };
        self.model.jobs.push(Modelled {
            id: job.id,
            priority,
            status: Status::Queued,
            run_at: self.model.now,
            attempt: 0,
            max_attempts,
            lost: 0,
            token: 0,
            expires_at: 0,
            cancelling: false,
        });
    }

    async fn claim(&mut self) {
        let lease = self.store.claim(&self.worker, TTL).await.unwrap();
        let got = lease.as_ref().map(|lease| (lease.job.id.clone(), lease.token));
        assert_eq!(got, self.model.claim());
        self.leases.extend(lease);
    }

    async fn cancel(&mut self, which: &Index) {
        if self.model.jobs.is_empty() {
            return;
        }
        let at = which.index(self.model.jobs.len());
        let job = &mut self.model.jobs[at];
        let outcome = self.store.request_cancel(&job.id).await.unwrap().unwrap();
        match job.status {
            Status::Queued => {
                job.status = Status::Cancelled;
                assert!(matches!(outcome, CancelOutcome::Cancelled(_)));
            }
            Status::Running => {
                job.cancelling = true;
                assert!(matches!(outcome, CancelOutcome::Cancelling(_)));
            }
            Status::Cancelled => assert!(matches!(outcome, CancelOutcome::Cancelled(_))),
            Status::Succeeded | Status::Failed => assert!(matches!(outcome, CancelOutcome::AlreadyFinished(_))),
        }
    }

    async fn use_lease(&mut self, op: &Op, lease: &Lease) {
        let now = self.model.now;
        let held = self.model.held(lease);
        let failure = a_failure(lease.job.attempt);
        match op {
            Op::Heartbeat(_) => {
                let beat = self.store.heartbeat(lease, None).await;
                let told = held.map(|job| {
                    job.expires_at = now + TTL_MS;
                    job.cancelling
                });
                assert_eq!(beat.ok().map(|beat| beat.cancel_requested), told);
            }
            Op::Release(_) => {
                let released = self.store.release(lease).await;
                let may = held.filter(|job| !job.cancelling);
                assert_eq!(released.is_ok(), may.is_some());
                if let Some(job) = may {
                    (job.status, job.run_at, job.max_attempts) = (Status::Queued, now, job.max_attempts + 1);
                }
            }
            Op::Succeed(_) | Op::Fail(_) | Op::Retry(..) => {
                let outcome = match op {
                    Op::Succeed(_) => Outcome::Succeeded { publication: json!({}), published: None },
                    Op::Fail(_) => Outcome::Failed(failure),
                    Op::Retry(_, delay) => {
                        Outcome::Retry { failure, delay: Duration::from_millis(delay.unsigned_abs()) }
                    }
                    _ => unreachable!(),
                };
                let finished = self.store.finish(lease, outcome).await;
                let Some(job) = held else {
                    assert!(matches!(finished, Err(JobsError::LeaseLost)), "a stale lease finished {}", lease.job.id);
                    return;
                };
                match op {
                    Op::Succeed(_) => job.status = Status::Succeeded,
                    Op::Fail(_) => job.status = Status::Failed,
                    Op::Retry(..) if job.cancelling => job.status = Status::Cancelled,
                    Op::Retry(..) if job.attempt >= job.max_attempts => job.status = Status::Failed,
                    Op::Retry(_, delay) => (job.status, job.run_at) = (Status::Queued, now + delay),
                    _ => unreachable!(),
                }
                assert_eq!(finished.unwrap().status, job.status);
            }
            _ => unreachable!("no other takes a lease"),
        }
    }

    /// Every job is as the model says, and its log says no more and no less.
    async fn agree(&self) {
        for expected in &self.model.jobs {
            let job: Job = self.store.job(&expected.id).await.unwrap().unwrap();
            let found = (job.status, job.attempt, job.max_attempts, job.lost, job.is_cancelling());
            let cancelling = expected.cancelling && expected.status == Status::Running;
            let wanted = (expected.status, expected.attempt, expected.max_attempts, expected.lost, cancelling);
            assert_eq!(found, wanted, "{}", job.id);
            let events = self.store.events(&job.id, 0, 1000).await.unwrap();
            let numbers: Vec<i64> = events.iter().map(|event| event.seq).collect();
            assert_eq!(numbers, (1..=job.last_seq).collect::<Vec<_>>());
            let ends = events.iter().filter(|event| event.kind.is_terminal()).count();
            assert_eq!(ends, usize::from(job.status.is_terminal()));
            assert!(ends == 0 || events.last().unwrap().kind.is_terminal());
        }
    }
}

async fn check(ops: &[Op]) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
    let url = format!("sqlite://{}/jobs.db", dir.path().display());
    let store = Store::open_with_clock(&url, super::reading(&clock)).await.unwrap();
    let model = Model { now: clock.load(Ordering::SeqCst), ..Model::default() };
    let mut pair = Pair { model, store, clock, worker: WorkerId::generate("model"), leases: Vec::new() };
    for op in ops {
        pair.run(op).await;
        pair.agree().await;
    }
    pair.store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_state_machine_says(ops in vec(op(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(check(&ops));
    }
}
