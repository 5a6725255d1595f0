//! What a worker tells of a job in its log and in its metrics.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};

use checkpoint::{Access, OutputRoots};
use jobs::{EventKind, Limits, NewJob, Origin, Retention, Status, Store};
use meter::Meter;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;
use worker::WorkerConfig;

const RECIPE: &str = "\
merge_method: linear
models:
  - model: nowhere
    parameters: {weight: 0.5}
  - model: nowhere-else
    parameters: {weight: 0.5}
";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What is logged is cached by the process, so that tests beside each other would change what each sees.
static ONE_BY_ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn config(dir: &std::path::Path, meter: &Arc<Meter>) -> WorkerConfig {
    WorkerConfig {
        name: "test".to_owned(),
        access: Access::Under(vec![dir.to_owned()]),
        private: Vec::new(),
        outputs: OutputRoots::new(vec![dir.join("out")]),
        artifacts: dir.join("out"),
        alive: dir.join("alive"),
        work: dir.join("work"),
        settings: engine::Settings::default(),
        lease: worker::LEASE,
        heartbeat: worker::HEARTBEAT,
        poll: worker::POLL,
        slots: 1,
        memory: None,
        labels: BTreeSet::new(),
        limits: Limits { running_max: u32::MAX, running_per_owner_max: u32::MAX },
        stall: worker::STALL,
        grace: worker::GRACE,
        once: true,
        retention: Retention::default(),
        meter: meter.clone(),
        link: |_, _| {},
    }
}

#[tokio::test]
async fn log_lines_of_a_job_tell_its_request_and_trace_and_its_end_is_counted() {
    let _alone = ONE_BY_ONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("sqlite://{}", dir.path().join("jobs.db").display())).await.unwrap();
    let origin = Origin {
        request_id: Some("request-7".to_owned()),
        traceparent: Some(format!("00-{TRACE}-00f067aa0ba902b7-01")),
    };
    let job = NewJob { origin, max_attempts: 1, ..NewJob::of(RECIPE, "linear") };
    let id = job.id.clone();
    store.enqueue(job).await.unwrap();
    let (log, meter) = (Log::default(), Arc::new(Meter::new("1", "1")));
    let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
    let logged = tracing::subscriber::set_default(subscriber);
    worker::run(store.clone(), config(dir.path(), &meter), CancellationToken::new()).await.unwrap();
    drop(logged);
    assert_eq!(store.job(&id).await.unwrap().unwrap().status, Status::Failed);
    let text = log.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_job: Vec<_> = lines.iter().filter(|line| line["span"]["name"] == "job").collect();
    assert!(of_job.len() >= 2, "{text}");
    for line in of_job {
        let span = &line["span"];
        assert_eq!(
            (&span["id"], &span["request_id"], &span["trace_id"]),
            (&id.as_str().into(), &"request-7".into(), &TRACE.into())
        );
    }
    let counted = meter.text();
    for line in
        ["merge_jobs_total{status=\"failed\",method=\"linear\"} 1", "merge_job_attempts_total{outcome=\"failed\"} 1"]
    {
        assert!(counted.lines().any(|found| found == line), "{counted}");
    }
}

#[tokio::test]
async fn code_that_is_left_out_is_told_in_an_event_of_the_job() {
    let _alone = ONE_BY_ONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    for (name, seed) in [("nowhere", 1), ("nowhere-else", 2)] {
        testkit::TinyCheckpoint::llama(1, checkpoint::Dtype::F32, seed).write(&dir.path().join(name));
    }
    std::fs::write(dir.path().join("nowhere/modeling_own.py"), "raise SystemExit").unwrap();
    let store = Store::open(&format!("sqlite://{}", dir.path().join("jobs.db").display())).await.unwrap();
    let job = NewJob::of(RECIPE, "linear");
    let id = job.id.clone();
    store.enqueue(job).await.unwrap();
    let meter = Arc::new(Meter::new("1", "1"));
    worker::run(store.clone(), config(dir.path(), &meter), CancellationToken::new()).await.unwrap();
    assert_eq!(store.job(&id).await.unwrap().unwrap().status, Status::Succeeded);
    let events = store.events(&id, 0, 100).await.unwrap();
    let told = events.iter().find(|e| e.kind == EventKind::Warning && e.data["code"] == "code_left_out");
    assert!(told.is_some_and(|e| e.message.contains("modeling_own.py")), "{events:?}");
}
