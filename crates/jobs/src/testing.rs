//! What the tests share. Every claim about the queue is tested on SQLite and on a real Postgres, one fresh database a test.

mod model;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, json};
use sqlx::Row;
use tempfile::TempDir;

use crate::store::statement::{query, query_scalar};
use crate::{
    Clock, Enqueued, EventKind, GroupId, Job, JobFailure, JobId, Lease, Level, Member, NewEvent, NewJob, Store,
    WorkerId,
};

pub(crate) const TTL: Duration = Duration::from_secs(60);
const EVENTS_MAX: u32 = 1000;

/// Runs a test on each kind of database. A failure shows the kind in the test's output.
pub(crate) async fn on_each_database(test: impl AsyncFn(&Fixture)) {
    on_each_url(async |url| {
        let fixture = Fixture::open(url, None).await;
        test(&fixture).await;
        fixture.store.close().await;
    })
    .await;
    println!("on postgres behind pgbouncer:");
    match testkit::postgres::fresh_database_behind_pooler() {
        Ok((url, direct)) => {
            let fixture = Fixture::open(&url, Some(&direct)).await;
            test(&fixture).await;
            fixture.store.close().await;
        }
        Err(reason) => println!("not tested behind pgbouncer: {reason}"),
    }
}

/// As `on_each_database`, for tests that open it themselves.
pub(crate) async fn on_each_url(test: impl AsyncFn(&str)) {
    println!("on sqlite:");
    let directory = TempDir::new().unwrap();
    test(&format!("sqlite://{}/jobs.db", directory.path().display())).await;
    println!("on postgres:");
    match testkit::postgres::fresh_database() {
        Ok(url) => test(&url).await,
        Err(reason) => println!("not tested on postgres: {reason}"),
    }
}

pub(crate) struct Fixture {
    pub(crate) store: Store,
    url: String,
    /// Past a pooler.
    direct: Option<String>,
    clock: Arc<AtomicI64>,
    worker: WorkerId,
}

impl Fixture {
    async fn open(url: &str, direct: Option<&str>) -> Self {
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
        let store = Store::open_with(url, direct, reading(&clock)).await.unwrap();
        let direct = direct.map(str::to_owned);
        Self { store, url: url.to_owned(), direct, clock, worker: WorkerId::generate("test") }
    }

    pub(crate) fn is_pooled(&self) -> bool {
        self.direct.is_some()
    }

    /// The same database, as a process that starts after this one sees it.
    pub(crate) async fn reopen(&self) -> Store {
        self.store.close().await;
        self.beside().await
    }

    /// The same database, as another process sees it.
    pub(crate) async fn beside(&self) -> Store {
        Store::open_with(&self.url, self.direct.as_deref(), reading(&self.clock)).await.unwrap()
    }

    /// Lets time pass: SQLite's clock is ours to move; on Postgres all deadlines come nearer instead.
    pub(crate) async fn advance(&self, span: Duration) {
        let ms = i64::try_from(span.as_millis()).unwrap();
        if self.store.is_sqlite() {
            self.clock.fetch_add(ms, Ordering::SeqCst);
            return;
        }
        let mut transaction = self.store.shared.writer.begin().await.unwrap();
        query(
            "update jobs set run_at = run_at - $1, start_by = start_by - $1, lease_expires_at = lease_expires_at - $1",
        )
        .bind(ms)
        .execute(&mut *transaction)
        .await
        .unwrap();
        query("update deliveries set next_at = next_at - $1, lease_expires_at = lease_expires_at - $1")
            .bind(ms)
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> Job {
        match self.store.enqueue(job).await.unwrap() {
            Enqueued::Created(job) => job,
            Enqueued::Replayed(job) => panic!("{} was replayed", job.id),
        }
    }

    /// A group of one job for each name.
    pub(crate) async fn enqueue_group(&self, variants: &[&str]) -> Vec<Job> {
        match self.store.enqueue_group(new_group(variants)).await.unwrap() {
            Enqueued::Created(jobs) => jobs,
            Enqueued::Replayed(jobs) => panic!("{jobs:?} were replayed"),
        }
    }

    pub(crate) async fn try_claim(&self) -> Option<Lease> {
        self.store.claim(&self.worker, TTL).await.unwrap()
    }

    pub(crate) async fn claim(&self) -> Lease {
        self.try_claim().await.expect("a job to claim")
    }

    pub(crate) async fn job(&self, id: &JobId) -> Job {
        self.store.job(id).await.unwrap().expect("the job exists")
    }

    pub(crate) async fn kinds(&self, id: &JobId) -> Vec<EventKind> {
        let events = self.store.events(id, 0, EVENTS_MAX).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    /// How each attempt ended, in order.
    pub(crate) async fn outcomes(&self, id: &JobId) -> Vec<Option<String>> {
        let rows = query("select outcome from attempts where job_id = $1 order by attempt")
            .bind(id.as_str())
            .fetch_all(&mut *self.store.reading().await.unwrap())
            .await
            .unwrap();
        rows.iter().map(|row| row.get("outcome")).collect()
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        query_scalar(sql).fetch_one(&mut *self.store.reading().await.unwrap()).await.unwrap()
    }

    /// As `count`, with one value.
    pub(crate) async fn count_where(&self, sql: &'static str, value: &str) -> i64 {
        let value = format!("%{value}%");
        query_scalar(sql).bind(value).fetch_one(&mut *self.store.reading().await.unwrap()).await.unwrap()
    }

    pub(crate) async fn sql(&self, sql: &'static str) {
        let mut transaction = self.store.shared.writer.begin().await.unwrap();
        query(sql).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

fn reading(clock: &Arc<AtomicI64>) -> Clock {
    let clock = clock.clone();
    Arc::new(move || clock.load(Ordering::SeqCst))
}

pub(crate) fn new_job() -> NewJob {
    NewJob::of("merge_method: linear", "linear")
}

pub(crate) fn new_group(variants: &[&str]) -> Vec<NewJob> {
    let group = GroupId::generate();
    let member = |(position, variant): (usize, &&str)| Member {
        group: group.clone(),
        position: position as i64,
        variant: (*variant).to_owned(),
        settings: Map::new(),
    };
    variants.iter().enumerate().map(|it| NewJob { member: Some(member(it)), ..new_job() }).collect()
}

pub(crate) fn a_warning() -> NewEvent {
    NewEvent { kind: EventKind::Warning, level: Level::Warn, message: "look".to_owned(), data: json!({}) }
}

pub(crate) fn a_failure(attempt: i64) -> JobFailure {
    JobFailure { code: "disk_full".to_owned(), message: "the disk is full".to_owned(), retryable: true, attempt }
}
