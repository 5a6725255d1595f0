//! What the tests share: the router on a SQLite store, with tiny models below its source root.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, BodyDataStream},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, Method},
    response::Response,
};
use checkpoint::{Access, Dtype, OutputRoots};
use engine::Settings;
use futures::StreamExt;
use jobs::{
    EventKind, JobFailure, JobFilter, JobId, Lease, Level, NewEvent, Outcome, Phase, Progress, Store, WorkerId,
};
use meter::Meter;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::TinyCheckpoint;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use utoipa::ToSchema;

use crate::{Api, ApiConfig};

pub(crate) const YAML: &str = "application/yaml";
pub(crate) const RECIPE: &str = "\
merge_method: linear
models:
  - model: a
    parameters: {weight: 0.5}
  - model: b
    parameters: {weight: 0.5}
";
pub(crate) const VARIANTS: &str = "\
merge_method: linear
models:
  - model: a
    parameters: {weight: 0.5}
  - model: b
    parameters: {weight: 0.5}
variants:
  - name: plain
  - name: strong
    parameters: {normalize: false}
    models: {b: {weight: 0.9}}
";
const TTL: Duration = Duration::from_secs(60);
/// Far above what an answer takes: a stream that does not end fails its test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) shutdown: CancellationToken,
    pub(crate) meter: Arc<Meter>,
    config: Arc<ApiConfig>,
    router: Router,
    worker: WorkerId,
    directory: TempDir,
}

impl Fixture {
    /// Models `a` and `b` can be merged; `deeper` fits neither; `outside` is not below the source root.
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let models = directory.path().join("models");
        TinyCheckpoint::llama(1, Dtype::F32, 1).write(&models.join("a"));
        TinyCheckpoint::llama(1, Dtype::F32, 2).write(&models.join("b"));
        TinyCheckpoint::llama(2, Dtype::F32, 3).write(&models.join("deeper"));
        TinyCheckpoint::llama(1, Dtype::F32, 4).write(&directory.path().join("outside"));
        let config = Arc::new(ApiConfig {
            access: Access::Under(vec![models]),
            private: Vec::new(),
            outputs: OutputRoots::new(vec![directory.path().join("out")]),
            settings: Settings::default(),
            allowed_hosts: Some(["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()),
        });
        let store = Store::open(&format!("sqlite://{}/jobs.db", directory.path().display())).await.unwrap();
        let shutdown = CancellationToken::new();
        let api = Api::new(store.clone(), config.clone(), shutdown.clone());
        let (meter, router) = (api.meter.clone(), crate::router(api));
        Self { store, shutdown, meter, config, router, worker: WorkerId::generate("test"), directory }
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(self.store.clone(), self.config.clone(), self.shutdown.clone())
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) async fn respond(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, value.as_bytes());
        }
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 40_000))));
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Answer::of(self.respond(method, path, headers, body).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, recipe: &str) -> Answer {
        self.post_as(path, YAML, recipe).await
    }

    pub(crate) async fn post_as(&self, path: &str, content_type: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[("content-type", content_type)], body).await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post_as(path, "application/json", &body.to_string()).await
    }

    pub(crate) async fn submit(&self) -> JobId {
        let answer = self.post("/v1/jobs", RECIPE).await;
        JobId::parse(answer.json()["id"].as_str().expect("a job")).unwrap()
    }

    pub(crate) async fn count(&self) -> usize {
        let filter = JobFilter { limit: 100, ..JobFilter::default() };
        self.store.list(&filter).await.unwrap().jobs.len()
    }

    pub(crate) async fn claim(&self) -> Lease {
        self.store.claim(&self.worker, TTL).await.unwrap().expect("a job to claim")
    }

    pub(crate) async fn progress(&self, lease: &Lease, percent: u64) {
        let progress = Progress {
            tensors_done: percent,
            tensors_total: 100,
            bytes_done: percent,
            bytes_total: 100,
            bytes_per_second: Some(10),
            updated_at: 1_700_000_000_000,
        };
        self.store.heartbeat(lease, Some(&progress)).await.unwrap();
    }

    pub(crate) async fn record(&self, lease: &Lease, phase: Phase) {
        let event = NewEvent {
            kind: EventKind::Warning,
            level: Level::Warn,
            message: "look\nhere".to_owned(),
            data: json!({"phase": phase}),
        };
        self.store.record(lease, Some(phase), event).await.unwrap();
    }

    pub(crate) async fn succeed(&self, lease: &Lease) {
        self.store
            .finish(lease, Outcome::Succeeded { publication: json!({"uri": "file:///out"}), published: None })
            .await
            .unwrap();
    }

    pub(crate) async fn fail(&self, lease: &Lease) {
        let failure = JobFailure {
            code: "disk_full".to_owned(),
            message: "the disk is full".to_owned(),
            retryable: true,
            attempt: lease.job.attempt,
        };
        self.store.finish(lease, Outcome::Failed(failure)).await.unwrap();
    }
}

/// Every method and path of the contract.
pub(crate) fn routes() -> Vec<(Method, String)> {
    let document: Value = serde_yaml::from_str(&crate::openapi_yaml()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods
            .filter_map(move |method| Some((Method::from_bytes(method.to_uppercase().as_bytes()).ok()?, path.clone())))
    });
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    operations.filter(|(method, _)| known.contains(method)).collect()
}

/// Of these, the ones that may change something.
pub(crate) fn changing_routes() -> Vec<(Method, String)> {
    routes().into_iter().filter(|(method, _)| *method != Method::GET).collect()
}

/// A response read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let read = timeout(PATIENCE, axum::body::to_bytes(response.into_body(), usize::MAX)).await;
        let body = read.expect("the body ends").unwrap().to_vec();
        Self { status, headers, body }
    }

    /// Empty for a header that is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.text().split_terminator("\n\n").filter_map(Frame::parse).collect()
    }
}

/// One event of a stream, as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: Value,
}

impl Frame {
    /// `None` for a comment.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let data = serde_json::from_str(field("data")?).unwrap();
        Some(Self { id: field("id").map(str::to_owned), event: field("event")?.to_owned(), data })
    }
}

/// A stream read as it comes.
pub(crate) struct Reader {
    body: BodyDataStream,
    buffer: String,
}

impl Reader {
    pub(crate) async fn open(fixture: &Fixture, path: &str) -> Self {
        let response = fixture.respond(Method::GET, path, &[("accept", "text/event-stream")], "").await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body().into_data_stream(), buffer: String::new() }
    }

    pub(crate) async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("the stream goes on or ends")
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some((text, rest)) = self.buffer.split_once("\n\n") {
                let frame = Frame::parse(text);
                self.buffer = rest.to_owned();
                if frame.is_some() {
                    return frame;
                }
                continue;
            }
            let chunk = self.body.next().await?.unwrap();
            self.buffer.push_str(str::from_utf8(&chunk).unwrap());
        }
    }
}

/// A body has every key that its schema requires, and none that it does not know.
pub(crate) fn assert_documented<T: ToSchema>(body: &Value) {
    let schema = serde_json::to_value(T::schema()).unwrap();
    let body = body.as_object().expect("an object");
    for key in body.keys() {
        assert!(schema["properties"].get(key).is_some(), "{} does not document `{key}`", T::name());
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        assert!(body.contains_key(key.as_str().unwrap()), "{} requires {key}", T::name());
    }
}
