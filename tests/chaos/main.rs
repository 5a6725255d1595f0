//! Workers are killed, frozen and left without their database, and an independent reader of the event log and of the published
//! folders then says whether every accepted job ended once, well, and whole.
//!
//! `AMALGAM_CHAOS_SECONDS` makes it longer than the few seconds it takes by default.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

#[path = "../support/reader.rs"]
mod reader;

use std::collections::BTreeSet;
use std::io::Write;
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
/// How long a disk stays full: attempts meet it, and the next ones do not.
const FULL: Duration = Duration::from_secs(1);
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
    full_disks: usize,
}

/// Where a fleet lives, and what may befall it.
#[derive(Clone, Copy)]
struct World {
    name: &'static str,
    /// A Postgres of its own, which is taken away at times.
    has_postgres: bool,
    /// All of it on a file system so small that it is filled at times.
    is_small: bool,
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

/// A file system in memory, for whoever may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    const BYTES: u64 = 512 << 20;

    fn mount(dir: &Path) -> Option<SmallDisk> {
        let size = format!("size={}", Self::BYTES);
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(dir.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Until not a byte is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let zeros = vec![0; 1 << 20];
        while file.write_all(&zeros).is_ok() {}
        while file.write_all(&zeros[..4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    /// Artifacts are kept, so that there is an end to what is submitted.
    fn is_half_used(&self) -> bool {
        let space = rustix::fs::statvfs(&self.0).unwrap();
        space.f_bavail * space.f_frsize < Self::BYTES / 2
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A directory on another file system than temporary files: what is published there is copied.
fn elsewhere() -> Option<tempfile::TempDir> {
    use std::os::unix::fs::MetadataExt;
    let there = Path::new("/dev/shm");
    let differs = there.metadata().ok()?.dev() != std::env::temp_dir().metadata().ok()?.dev();
    differs.then(|| tempfile::tempdir_in(there).unwrap())
}

struct Fleet {
    // dropped after all that runs in it, and before its directory goes
    disk: Option<SmallDisk>,
    dir: tempfile::TempDir,
    other: Option<tempfile::TempDir>,
    server: TestServer,
    database: String,
    workers: Vec<Child>,
}

impl Fleet {
    fn start(world: World, database: impl Fn(&Path) -> String) -> Option<Fleet> {
        let dir = tempfile::tempdir().unwrap();
        let disk = if world.is_small { Some(SmallDisk::mount(dir.path())?) } else { None };
        let other = elsewhere();
        let database = database(dir.path());
        let lease = LEASE_SECONDS.to_string();
        let roots = output_roots(dir.path(), other.as_ref());
        let flags = ["--workers", "0", "--database", &database, "--lease-seconds", &lease, "--output-root", &roots];
        // the disk is to be met when it is full, not before
        let flags = [&flags[..], &["--disk-floor", "1MiB"]].concat();
        let server = TestServer::start(BINARY, &dir.path().join("data"), &testkit::workspace(), &flags);
        let mut fleet = Fleet { disk, dir, other, server, database, workers: Vec::new() };
        fleet.workers = (0..WORKERS).map(|_| fleet.worker()).collect();
        Some(fleet)
    }

    fn worker(&self) -> Child {
        Command::new(BINARY)
            .args(["worker", "--threads", "1", "--database", &self.database])
            .args(["--lease-seconds", &LEASE_SECONDS.to_string()])
            .args(["--output-root", &output_roots(self.dir.path(), self.other.as_ref())])
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

fn output_roots(dir: &Path, other: Option<&tempfile::TempDir>) -> String {
    let own = dir.join("data/artifacts").display().to_string();
    other.map_or(own.clone(), |other| format!("{own}:{}", other.path().display()))
}

fn duration() -> Duration {
    let seconds = std::env::var("AMALGAM_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

async fn submit(fleet: &Fleet, dice: &mut Dice, accepted: &mut Vec<String>, count: &mut Count) {
    let recipe = RECIPES[dice.below(RECIPES.len() as u64) as usize];
    // what was not accepted is no promise: the server may be away, or a frozen process hold the one lock of SQLite
    let client = fleet.client();
    let mut query = Vec::new();
    if let (0, Some(other)) = (dice.below(4), &fleet.other) {
        let name = format!("out-{}", accepted.len());
        query.push(("output", other.path().join(name).display().to_string()));
    }
    let submit = tokio::time::timeout(SUBMIT_MAX, client.submit(recipe.to_owned(), &query));
    let Ok(Ok(job)) = submit.await else { return };
    let id = job["id"].as_str().unwrap().to_owned();
    count.jobs += 1;
    accepted.push(id.clone());
    if dice.below(20) == 0 && matches!(tokio::time::timeout(SUBMIT_MAX, client.cancel(&id)).await, Ok(Ok(_))) {
        count.cancels += 1;
    }
}

async fn havoc(fleet: &mut Fleet, dice: &mut Dice, world: World) -> (Vec<String>, Count) {
    let (mut accepted, mut count) = (Vec::new(), Count::default());
    let mut frozen: Vec<(usize, Instant)> = Vec::new();
    let mut full: Option<Instant> = None;
    let started = Instant::now();
    // on a machine busy with other things it takes longer until enough has happened
    while started.elapsed() < duration() || (count.kills < KILLS_MIN && started.elapsed() < 10 * duration()) {
        let submits = if fleet.disk.as_ref().is_some_and(|disk| full.is_none() && disk.is_half_used()) { 0 } else { 1 };
        for _ in 0..submits * (1 + dice.below(3)) {
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
                while !fleet.server.try_restart() {
                    // on a disk without a free byte it does not start; whatever watches over it tries again
                    let (Some(disk), Some(_)) = (&fleet.disk, full.take()) else { panic!("the server does not start") };
                    disk.free();
                }
                count.server_kills += 1;
            }
            22 | 23 if full.is_none() => {
                if let Some(disk) = &fleet.disk {
                    disk.fill();
                    full = Some(Instant::now());
                    count.full_disks += 1;
                }
            }
            21 if world.has_postgres => {
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
        if let (Some(disk), Some(_)) = (&fleet.disk, full.take_if(|since| since.elapsed() > FULL)) {
            disk.free();
        }
        fleet.revive();
        tokio::time::sleep(Duration::from_millis(20 + dice.below(80))).await;
    }
    for (worker, _) in frozen {
        fleet.signal_worker(worker, "-CONT");
    }
    if let (Some(disk), Some(_)) = (&fleet.disk, full) {
        disk.free();
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

async fn chaos(world: World, database: impl Fn(&Path) -> String) {
    // one fleet at a time: leases are short, and two fleets on a small machine would lose them by themselves
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let Some(mut fleet) = Fleet::start(world, database) else {
        return println!("{}: not tested, since no file system may be mounted here", world.name);
    };
    let (accepted, count) = havoc(&mut fleet, &mut Dice(7), world).await;
    let jobs = all_over(&mut fleet, &accepted).await;
    for job in &jobs {
        reader::check(&fleet.client(), &fleet.data().join("artifacts"), job).await;
        if job["status"] == "failed" {
            let code = job["error"]["code"].as_str().unwrap();
            assert!(code == "worker_lost" || (world.is_small && code == "disk_full"), "{job}");
            assert!(code != "worker_lost" || job["workers_lost"] == 3, "{job}");
        }
    }
    let of = |status: &str| jobs.iter().filter(|job| job["status"] == status).count();
    println!(
        "{}: {count:?}; {} succeeded, {} failed, {} cancelled",
        world.name,
        of("succeeded"),
        of("failed"),
        of("cancelled")
    );
    assert!(jobs.len() >= count.jobs);
    assert!(count.kills >= KILLS_MIN && of("succeeded") > 10, "too little has happened to say anything: {count:?}");
    // each is published once, and nothing half made is left behind
    assert!(!world.is_small || count.full_disks > 0, "the disk was never full");
    assert_accounted_for(&fleet, &jobs);
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

/// Each artifact is of a job that succeeded, or of one that was cancelled or lost its last worker in the very moment in which
/// it was published; and beside them there is nothing.
fn assert_accounted_for(fleet: &Fleet, jobs: &[Value]) {
    let own = fleet.data().join("artifacts");
    let mut unknown: BTreeSet<PathBuf> = [Some(own.as_path()), fleet.other.as_ref().map(|other| other.path())]
        .into_iter()
        .flatten()
        .flat_map(|root| std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    for job in jobs {
        let named = job["output"]["path"].as_str().map(PathBuf::from);
        let place = named.unwrap_or_else(|| own.join(job["id"].as_str().unwrap()));
        let is_there = unknown.remove(&place);
        assert!(is_there || job["status"] != "succeeded", "{} is not there: {job}", place.display());
        let told = |kind: &str| job["attempts"].as_array().unwrap().iter().any(|attempt| attempt["outcome"] == kind);
        let may_be = job["status"] == "succeeded" || told("worker_lost") || told("released");
        assert!(!is_there || may_be, "published by no attempt that was cut off: {job}");
    }
    assert!(unknown.is_empty(), "of no job: {unknown:?}");
}

impl Fleet {
    fn worker_once(&self) -> std::process::ExitStatus {
        Command::new(BINARY)
            .args(["worker", "--once", "--database", &self.database])
            .args(["--output-root", &output_roots(self.dir.path(), self.other.as_ref())])
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
    let world = World { name: "sqlite", has_postgres: false, is_small: false };
    chaos(world, |dir| format!("sqlite://{}", dir.join("jobs.db").display())).await;
}

#[tokio::test]
async fn every_job_ends_once_on_a_disk_that_fills_up() {
    let world = World { name: "sqlite on a small disk", has_postgres: false, is_small: true };
    chaos(world, |dir| format!("sqlite://{}", dir.join("jobs.db").display())).await;
}

#[tokio::test]
async fn every_job_ends_once_on_postgres_whatever_dies() {
    match testkit::postgres::fresh_database() {
        Ok(url) => chaos(World { name: "postgres", has_postgres: true, is_small: false }, |_| url.clone()).await,
        Err(reason) => println!("not tested on postgres: {reason}"),
    }
}
