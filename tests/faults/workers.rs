//! Steps that a worker takes on the way of a job. Each case has a job and a worker of its own, brought together by a label, and
//! workers without faults take up what was left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::Client;
use serde_json::Value;
use testkit::TestServer;

use super::{BINARY, ERROR, FULL, KILL, PANIC, RECIPE, Side, reader};

pub const STEPS: &[&str] = &[
    "store.claim",
    "store.expire",
    "store.finish",
    "store.heartbeat",
    "store.plan_digest",
    "store.prune",
    "store.record",
    "store.release",
    "store.report",
    "store.stopped",
    "store.read",
    "journal.add",
    "journal.begin",
    "journal.remove",
    "shard.create",
    "shard.sync",
    "file.write",
    "manifest.write",
    "dir.sync",
    "publish.parents",
    "publish.rename",
    "publish.copy",
    "publish.sync",
    "work.remove",
];

/// Workers at work at once.
const AT_ONCE: usize = 4;
const LEASE_SECONDS: &str = "2";

/// What a case needs beside a job and a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Plain,
    /// Another worker died at the job before.
    Widowed,
    /// The worker is asked to stop while it is at the job.
    Stopped,
    /// The output is on another file system than the work.
    Elsewhere,
}

impl Scene {
    /// Any other worker would do what this one is to fail at.
    fn is_for_one(self) -> bool {
        matches!(self, Scene::Widowed)
    }
}

#[derive(Debug, Clone)]
struct Case {
    step: &'static str,
    point: String,
    how: &'static str,
    /// Times that the step is taken before it fails.
    spared: usize,
    scene: Scene,
}

impl Case {
    fn faults(&self) -> String {
        let how = format!("{}=1*{}", self.point, self.how);
        let how = match self.spared {
            0 => how,
            spared => format!("{}={spared}*off->1*{}", self.point, self.how),
        };
        match self.scene {
            // long enough to be asked to stop meanwhile
            Scene::Stopped => format!("{how};journal.begin:before=1*sleep(1500)"),
            _ => how,
        }
    }
}

fn cases(all_steps: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for step in STEPS.iter().filter(|step| all_steps || step.starts_with("store.")) {
        let scene = match *step {
            "store.expire" => Scene::Widowed,
            "store.release" => Scene::Stopped,
            "publish.copy" => Scene::Elsewhere,
            _ => Scene::Plain,
        };
        if scene == Scene::Elsewhere && elsewhere().is_none() || scene == Scene::Widowed && !all_steps {
            println!("{step} is not tested: there is no other file system, or no way to know the dead on Postgres");
            continue;
        }
        let ways: &[&str] =
            if step.starts_with("store.") { &[ERROR, PANIC, KILL] } else { &[ERROR, FULL, PANIC, KILL] };
        // of what is taken often, the later times matter as much: when an artifact is there already, as an example
        let spared: &[usize] = match *step {
            "store.record" => &[0, 2],
            "file.write" | "dir.sync" => &[0, 1],
            _ => &[0],
        };
        for side in Side::BOTH {
            if *step == "store.read" && side == Side::After {
                continue;
            }
            for how in ways {
                for spared in spared {
                    cases.push(Case { step, point: side.of(step), how, spared: *spared, scene });
                }
            }
        }
    }
    cases
}

/// A directory on another file system than temporary files.
fn elsewhere() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let there = Path::new("/dev/shm");
    let differs = there.metadata().ok()?.dev() != std::env::temp_dir().metadata().ok()?.dev();
    differs.then(|| there.to_owned())
}

struct Scenery {
    dir: tempfile::TempDir,
    other: Option<tempfile::TempDir>,
    database: String,
    server: TestServer,
}

impl Scenery {
    fn new(database: impl Fn(&Path) -> String) -> Scenery {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let other = elsewhere().map(|there| tempfile::tempdir_in(there).unwrap());
        let artifacts = dir.path().join("data/artifacts");
        let roots: Vec<&str> = [Some(artifacts.as_path()), other.as_ref().map(|other| other.path())]
            .into_iter()
            .flatten()
            .map(|root| root.to_str().unwrap())
            .collect();
        let roots = roots.join(":");
        let flags = ["--workers", "0", "--database", &database, "--output-root", &roots];
        let server = TestServer::start(BINARY, &dir.path().join("data"), &testkit::workspace(), &flags);
        Scenery { dir, other, database, server }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn client(&self) -> Client {
        Client::new(&self.server.url).unwrap()
    }

    async fn submit(&self, which: usize, case: &Case) -> String {
        let mut query = vec![("worker_label", label(which))];
        if let (Scene::Elsewhere, Some(other)) = (case.scene, &self.other) {
            query.push(("output", other.path().join(format!("out-{which}")).display().to_string()));
        }
        let job = self.client().submit(RECIPE.to_owned(), &query).await.unwrap();
        job["id"].as_str().unwrap().to_owned()
    }

    fn worker(&self, labels: &str, faults: &str, log: &Path) -> Child {
        let mut command = Command::new(BINARY);
        command
            .args(["worker", "--once", "--threads", "1", "--database", &self.database, "--worker-label", labels])
            .args(["--lease-seconds", LEASE_SECONDS, "--output-root"])
            .arg(self.data().join("artifacts"))
            .arg("--data-dir")
            .arg(self.data())
            .arg("--source-root")
            .arg(testkit::workspace())
            .env("FAILPOINTS", faults)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(log).unwrap());
        if let Some(other) = &self.other {
            command.arg("--output-root").arg(other.path());
        }
        command.spawn().unwrap()
    }

    fn wait_for(&self, log: &Path, word: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !std::fs::read_to_string(log).unwrap().contains(word) {
            assert!(Instant::now() < until, "{word:?} is not told");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has the step of a case fail, and gives what its worker told.
    fn play(&self, which: usize, case: &Case) -> String {
        let log = self.dir.path().join(format!("log-{which}"));
        match case.scene {
            Scene::Widowed => {
                let killed = self.worker(&label(which), "store.plan_digest:after=1*return(kill)", &log).wait().unwrap();
                assert!(!killed.success());
            }
            Scene::Plain | Scene::Stopped | Scene::Elsewhere => {}
        }
        let mut worker = self.worker(&label(which), &case.faults(), &log);
        if case.scene == Scene::Stopped {
            self.wait_for(&log, "job started");
            std::thread::sleep(Duration::from_millis(300));
            let id = worker.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        }
        let until = Instant::now() + Duration::from_secs(60);
        while worker.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                worker.kill().unwrap();
                worker.wait().unwrap();
                panic!("{case:?}: the worker does not end\n{}", std::fs::read_to_string(&log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::read_to_string(&log).unwrap()
    }
}

fn label(which: usize) -> String {
    format!("case-{which}")
}

/// Workers without faults run until every job is over.
async fn all_over(scenery: &Scenery, jobs: &[(usize, String)]) -> Vec<Value> {
    let labels: Vec<String> = jobs.iter().map(|(which, _)| label(*which)).collect();
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let log = scenery.dir.path().join("log-last");
        let ended = scenery.worker(&labels.join(","), "", &log).wait().unwrap();
        assert!(ended.success(), "{}", std::fs::read_to_string(&log).unwrap());
        let mut over = Vec::new();
        for (_, id) in jobs {
            let job = scenery.client().job(id).await.unwrap();
            if ["succeeded", "failed", "cancelled"].contains(&job["status"].as_str().unwrap()) {
                over.push(job);
            }
        }
        if over.len() == jobs.len() {
            return over;
        }
        assert!(Instant::now() < until, "{} of {} jobs are over", over.len(), jobs.len());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn check_end(case: &Case, job: &Value) {
    let error = job["error"]["code"].as_str();
    match case.how {
        // a panic in the merge itself is a bug of ours that another attempt would only meet again
        PANIC => assert!(job["status"] == "succeeded" || error == Some("internal"), "{case:?}: {job}"),
        _ => assert_eq!(job["status"], "succeeded", "{case:?}: {job}"),
    }
    // what the queue could not be told for a moment is told the next moment, in the same attempt
    if case.step.starts_with("store.") && case.how == ERROR && matches!(case.scene, Scene::Plain) {
        assert_eq!(job["attempt"], 1, "{case:?}: {job}");
    }
}

async fn every_step_fails(database: impl Fn(&Path) -> String, all_steps: bool) {
    let scenery = Scenery::new(database);
    let cases = cases(all_steps);
    let check_told = |case: &Case, told: &str| {
        let failed = told.contains(&format!("fault at {}", case.point))
            || told.contains(&format!("failpoint {} panic", case.point));
        assert!(failed, "{case:?}: the step was never come to\n{told}");
        // an answer that did not come is not an answer: what was heard after all is known to have been
        assert!(case.how != ERROR || !told.contains("cannot tell the queue"), "{case:?}\n{told}");
    };
    let mut jobs = Vec::new();
    for (which, case) in cases.iter().enumerate().filter(|(_, case)| case.scene.is_for_one()) {
        jobs.push((which, scenery.submit(which, case).await));
        check_told(case, &scenery.play(which, case));
    }
    for (which, case) in cases.iter().enumerate().filter(|(_, case)| !case.scene.is_for_one()) {
        jobs.push((which, scenery.submit(which, case).await));
    }
    jobs.sort();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let which = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some(case) = cases.get(which) else { return };
                    if !case.scene.is_for_one() {
                        check_told(case, &scenery.play(which, case));
                    }
                }
            });
        }
    });
    let ended = all_over(&scenery, &jobs).await;
    for (case, job) in cases.iter().zip(&ended) {
        let artifacts = scenery.data().join("artifacts");
        let kinds = reader::check(&scenery.client(), &artifacts, job).await;
        assert_eq!(kinds.contains(&"published".to_owned()), job["status"] == "succeeded", "{case:?}: {kinds:?}");
        check_end(case, job);
    }
    let left: Vec<_> =
        std::fs::read_dir(scenery.data().join("work")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    for entry in scenery.other.iter().flat_map(|other| std::fs::read_dir(other.path()).unwrap()) {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with("out-"), "a copy is left behind: {name}");
    }
    println!("{} cases, {} succeeded", cases.len(), ended.iter().filter(|job| job["status"] == "succeeded").count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_survives_each_step_that_fails_on_sqlite() {
    every_step_fails(|dir| format!("sqlite://{}", dir.join("jobs.db").display()), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_survives_each_transaction_that_fails_on_postgres() {
    match testkit::postgres::fresh_database() {
        Ok(url) => every_step_fails(|_| url.clone(), false).await,
        Err(reason) => println!("not tested on postgres: {reason}"),
    }
}
