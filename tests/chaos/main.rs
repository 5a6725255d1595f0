//! Workers are killed, frozen and left without their database, and an independent reader of the event log and of the published
//! folders then says whether every accepted job ended once, well, and whole.
//!
//! `AMALGAM_CHAOS_SECONDS` makes it longer than the few seconds it takes by default.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

#[path = "../support/reader.rs"]
mod reader;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::TestServer;

const BINARY: &str = env!("CARGO_BIN_EXE_amalgam");

/// Short, so that frozen workers lose it in a test's time.
const LEASE_SECONDS: u64 = 2;
const WORKERS: usize = 3;
const SECONDS: u64 = 12;
const KILLS_MIN: usize = 15;
/// A call that takes longer is given up; it may be done all the same.
const SUBMIT_MAX: Duration = Duration::from_secs(3);

const RECIPES: [&str; 3] = [
    "merge_method: linear\nmodels: [{model: examples/models/sort, parameters: {weight: 1}}, {model: examples/models/upper, parameters: {weight: 2}}]\n",
    "merge_method: slerp\nbase_model: examples/models/base\nmodels: [{model: examples/models/base}, {model: examples/models/reverse}]\nparameters: {t: 0.5}\n",
    "merge_method: ties\nbase_model: examples/models/base\nmodels: [{model: examples/models/sort, parameters: {weight: 1, density: 0.5}}, {model: examples/models/reverse, parameters: {weight: 1, density: 0.5}}]\n",
];

#[derive(Debug, Default)]
struct Count {
    jobs: usize,
    cancels: usize,
    kills: usize,
    freezes: usize,
    interruptions: usize,
    server_kills: usize,
}

/// The same numbers in every run, so that one that fails can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27) % end
    }
}

struct Fleet {
    dir: tempfile::TempDir,
    server: TestServer,
    database: String,
    workers: Vec<Child>,
}

impl Fleet {
    fn start(database: impl Fn(&Path) -> String) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let lease = LEASE_SECONDS.to_string();
        let flags = ["--workers", "0", "--database", &database, "--lease-seconds", &lease];
        let server = TestServer::start(BINARY, &dir.path().join("data"), &testkit::workspace(), &flags);
        let mut fleet = Fleet { dir, server, database, workers: Vec::new() };
        fleet.workers = (0..WORKERS).map(|_| fleet.worker()).collect();
        fleet
    }

    fn worker(&self) -> Child {
        Command::new(BINARY)
            .args(["worker", "--threads", "1", "--database", &self.database])
            .args(["--lease-seconds", &LEASE_SECONDS.to_string()])
            .arg("--data-dir")
            .arg(self.data())
            .arg("--source-root")
            .arg(testkit::workspace())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn client(&self) -> client::Client {
        client::Client::new(&self.server.url).unwrap()
    }

    fn kill_worker(&mut self, which: usize) {
        self.workers[which].kill().unwrap();
        self.workers[which].wait().unwrap();
        self.workers[which] = self.worker();
    }

    fn signal_worker(&self, which: usize, signal: &str) {
        // it may have ended by itself, as when its database was away when it started
        let _ = Command::new("kill").args([signal, &self.workers[which].id().to_string()]).status();
    }

    /// A worker that could not start without its database is started again, as whatever watches over it would do.
    fn revive(&mut self) {
        for which in 0..self.workers.len() {
            if self.workers[which].try_wait().unwrap().is_some() {
                self.workers[which] = self.worker();
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

fn duration() -> Duration {
    let seconds = std::env::var("AMALGAM_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

async fn submit(fleet: &Fleet, dice: &mut Dice, accepted: &mut Vec<String>, count: &mut Count) {
    let recipe = RECIPES[dice.below(RECIPES.len() as u64) as usize];
    // what was not accepted is no promise: the server may be away, or a frozen process hold the one lock of SQLite
    let client = fleet.client();
    let submit = tokio::time::timeout(SUBMIT_MAX, client.submit(recipe.to_owned(), &[]));
    let Ok(Ok(job)) = submit.await else { return };
    let id = job["id"].as_str().unwrap().to_owned();
    count.jobs += 1;
    accepted.push(id.clone());
    if dice.below(20) == 0 && matches!(tokio::time::timeout(SUBMIT_MAX, client.cancel(&id)).await, Ok(Ok(_))) {
        count.cancels += 1;
    }
}

async fn havoc(fleet: &mut Fleet, dice: &mut Dice, has_postgres: bool) -> (Vec<String>, Count) {
    let (mut accepted, mut count) = (Vec::new(), Count::default());
    let mut frozen: Vec<(usize, Instant)> = Vec::new();
    let started = Instant::now();
    // on a machine busy with other things it takes longer until enough has happened
    while started.elapsed() < duration() || (count.kills < KILLS_MIN && started.elapsed() < 10 * duration()) {
        for _ in 0..=dice.below(3) {
            submit(fleet, dice, &mut accepted, &mut count).await;
        }
        let which = dice.below(WORKERS as u64) as usize;
        match dice.below(40) {
            0..16 => {
                frozen.retain(|(worker, _)| *worker != which);
                fleet.kill_worker(which);
                count.kills += 1;
            }
            16..20 if frozen.is_empty() => {
                fleet.signal_worker(which, "-STOP");
                frozen.push((which, Instant::now()));
                count.freezes += 1;
            }
            20 => {
                fleet.server.kill();
                fleet.server.restart();
                count.server_kills += 1;
            }
            21 if has_postgres => {
                testkit::postgres::interrupt(Duration::from_millis(300));
                count.interruptions += 1;
            }
            _ => {}
        }
        // longer than the lease: others have taken its job over by then
        let (long, short): (Vec<_>, Vec<_>) =
            frozen.into_iter().partition(|(_, since)| since.elapsed() > Duration::from_secs(LEASE_SECONDS + 1));
        for (worker, _) in long {
            fleet.signal_worker(worker, "-CONT");
        }
        frozen = short;
        fleet.revive();
        tokio::time::sleep(Duration::from_millis(20 + dice.below(80))).await;
    }
    for (worker, _) in frozen {
        fleet.signal_worker(worker, "-CONT");
    }
    (accepted, count)
}

/// Every job there is, also those whose acceptance was not heard of.
async fn listed(fleet: &Fleet) -> Vec<String> {
    let (mut ids, mut query) = (Vec::new(), vec![("limit", "100".to_owned())]);
    loop {
        let page = fleet.client().jobs(&query).await.unwrap();
        ids.extend(page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { return ids };
        query = vec![("limit", "100".to_owned()), ("after", next.to_owned())];
    }
}

async fn all_over(fleet: &mut Fleet, accepted: &[String]) -> Vec<Value> {
    let until = Instant::now() + Duration::from_secs(180);
    let mut jobs = Vec::new();
    let all = listed(fleet).await;
    assert!(accepted.iter().all(|id| all.contains(id)), "an accepted job is lost");
    for id in &all {
        loop {
            fleet.revive();
            let job = fleet.client().job(id).await.unwrap();
            if ["succeeded", "failed", "cancelled"].contains(&job["status"].as_str().unwrap()) {
                jobs.push(job);
                break;
            }
            assert!(Instant::now() < until, "{id} does not end: {job}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    jobs
}

async fn chaos(name: &str, database: impl Fn(&Path) -> String, has_postgres: bool) {
    // one fleet at a time: leases are short, and two fleets on a small machine would lose them by themselves
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let mut fleet = Fleet::start(database);
    let (accepted, count) = havoc(&mut fleet, &mut Dice(7), has_postgres).await;
    let jobs = all_over(&mut fleet, &accepted).await;
    for job in &jobs {
        reader::check(&fleet.client(), &fleet.data().join("artifacts"), job).await;
        if job["status"] == "failed" {
            assert_eq!(job["error"]["code"], "worker_lost", "{job}");
            assert_eq!(job["workers_lost"], 3, "{job}");
        }
    }
    let of = |status: &str| jobs.iter().filter(|job| job["status"] == status).count();
    println!(
        "{name}: {count:?}; {} succeeded, {} failed by lost workers, {} cancelled",
        of("succeeded"),
        of("failed"),
        of("cancelled")
    );
    assert!(jobs.len() >= count.jobs);
    assert!(count.kills >= KILLS_MIN && of("succeeded") > 10, "too little has happened to say anything: {count:?}");
    // each is published once, and nothing half made is left behind
    let published = std::fs::read_dir(fleet.data().join("artifacts")).unwrap().count();
    let cancelled_late = published - of("succeeded");
    assert!(cancelled_late <= count.cancels, "{published} artifacts of {} jobs", of("succeeded"));
    for which in 0..WORKERS {
        fleet.signal_worker(which, "-TERM");
    }
    for worker in &mut fleet.workers {
        worker.wait().unwrap();
    }
    // the next worker clears away what killed ones left
    assert!(fleet.worker_once().success());
    let left: Vec<_> =
        std::fs::read_dir(fleet.data().join("work")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(fleet.server.terminate());
}

impl Fleet {
    fn worker_once(&self) -> std::process::ExitStatus {
        Command::new(BINARY)
            .args(["worker", "--once", "--database", &self.database])
            .arg("--data-dir")
            .arg(self.data())
            .arg("--source-root")
            .arg(testkit::workspace())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    }
}

#[tokio::test]
async fn every_job_ends_once_on_sqlite_whatever_dies() {
    chaos("sqlite", |dir| format!("sqlite://{}", dir.join("jobs.db").display()), false).await;
}

#[tokio::test]
async fn every_job_ends_once_on_postgres_whatever_dies() {
    match testkit::postgres::fresh_database() {
        Ok(url) => chaos("postgres", |_| url.clone(), true).await,
        Err(reason) => println!("not tested on postgres: {reason}"),
    }
}
