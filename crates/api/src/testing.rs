//! What the tests share: the router on a SQLite store, with tiny models below its source root.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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
    EventKind, JobFailure, JobFilter, JobId, Lease, Level, NewEvent, NewKey, Outcome, Phase, Progress, Scope, Store,
    WorkerId,
};
use meter::Meter;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::TinyCheckpoint;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use utoipa::ToSchema;
use webhook::{MasterKey, Reach, WebhookConfig};

use crate::{Api, ApiConfig, ApiLimits};

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
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) shutdown: CancellationToken,
    pub(crate) meter: Arc<Meter>,
    config: Arc<ApiConfig>,
    router: Router,
    /// Milliseconds, as the limits on requests see them.
    clock: Arc<AtomicU64>,
    worker: WorkerId,
    directory: TempDir,
}

impl Fixture {
    /// Models `a` and `b` can be merged; `deeper` fits neither; `outside` is not below the source root.
    pub(crate) async fn new() -> Self {
        Self::with_limits(limits()).await
    }

    pub(crate) async fn with_limits(limits: ApiLimits) -> Self {
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
            connections: crate::ConnectionLimits {
                body: Duration::from_millis(300),
                ..crate::ConnectionLimits::default()
            },
            streams: crate::StreamLimits { max: 5, per_key_max: 3 },
            allowed_origins: vec!["https://dash.example.org".to_owned()],
            limits,
            data_dir: directory.path().to_owned(),
            allowed_hosts: Some(["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()),
            webhooks: WebhookConfig { reach: Reach::default(), key: MasterKey::generate() },
        });
        let store = Store::open(&format!("sqlite://{}/jobs.db", directory.path().display())).await.unwrap();
        let shutdown = CancellationToken::new();
        let clock = Arc::new(AtomicU64::new(0));
        let (meter, router) = router(&store, &config, &shutdown, &clock);
        Self { store, shutdown, meter, config, router, clock, worker: WorkerId::generate("test"), directory }
    }

    /// The same server, started again with other limits.
    pub(crate) fn again_with(self, limits: ApiLimits) -> Self {
        let config = Arc::new(ApiConfig { limits, ..(*self.config).clone() });
        let (meter, router) = router(&self.store, &config, &self.shutdown, &self.clock);
        Self { config, meter, router, ..self }
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(self.store.clone(), self.config.clone(), self.shutdown.clone())
    }

    /// An API of its own on the same store.
    pub(crate) fn api_with(&self, connections: crate::ConnectionLimits) -> Api {
        let config = ApiConfig { connections, ..ApiConfig::clone(&self.config) };
        Api::new(self.store.clone(), Arc::new(config), self.shutdown.clone())
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.clock.fetch_add(span.as_millis() as u64, Ordering::SeqCst);
    }

    /// As the header `Authorization` has it.
    pub(crate) async fn key(&self, tenant: &str, scopes: &[Scope]) -> String {
        let new = NewKey {
            name: "test".into(),
            tenant: tenant.into(),
            scopes: scopes.iter().copied().collect(),
            expires_at: None,
            adopts: false,
        };
        format!("Bearer {}", self.store.create_key(new).await.unwrap().1.reveal())
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
        self.ask(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(crate) async fn ask(&self, mut request: Request) -> Response {
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

    /// The id of a new job of the key's tenant.
    pub(crate) async fn submit_as(&self, key: &str) -> String {
        let headers = [("authorization", key), ("content-type", YAML)];
        let answer = self.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
        answer.json()["id"].as_str().expect("a job").to_owned()
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

    /// An event of so many bytes.
    pub(crate) async fn record_long(&self, lease: &Lease, bytes: usize) {
        let (kind, level) = (EventKind::Warning, Level::Warn);
        let event = NewEvent { kind, level, message: "x".repeat(bytes), data: json!({}) };
        self.store.record(lease, None, event).await.unwrap();
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

/// The default ones, whatever disk the tests are run on.
pub(crate) fn limits() -> ApiLimits {
    ApiLimits { disk_floor_bytes: 0, ..ApiLimits::default() }
}

/// Its limits go by a clock of the test's.
fn router(
    store: &Store,
    config: &Arc<ApiConfig>,
    shutdown: &CancellationToken,
    clock: &Arc<AtomicU64>,
) -> (Arc<Meter>, Router) {
    let mut api = Api::new(store.clone(), config.clone(), shutdown.clone());
    let clock = clock.clone();
    api.clock = Arc::new(move || Duration::from_millis(clock.load(Ordering::SeqCst)));
    (api.meter.clone(), crate::router(api))
}

/// An endpoint, and a delivery to it.
pub(crate) async fn a_delivery(fixture: &Fixture, key: &str) -> (String, String) {
    let headers = [("authorization", key), ("content-type", "application/json")];
    let body = json!({"url": "https://example.org/"}).to_string();
    let webhook = fixture.send(Method::POST, "/v1/webhooks", &headers, &body).await.json();
    let headers = [("authorization", key), ("content-type", YAML)];
    let job = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.json();
    let path = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    fixture.send(Method::POST, &path, &headers[..1], "").await;
    let path = webhook["links"]["deliveries"].as_str().unwrap();
    let deliveries = fixture.send(Method::GET, path, &headers[..1], "").await.json();
    let id = |of: &Value| of["id"].as_str().unwrap().to_owned();
    (id(&webhook), id(&deliveries["data"][0]))
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
        Self::open_as(fixture, path, &[]).await
    }

    pub(crate) async fn open_as(fixture: &Fixture, path: &str, headers: &[(&str, &str)]) -> Self {
        let headers = [&[("accept", "text/event-stream")], headers].concat();
        let response = fixture.respond(Method::GET, path, &headers, "").await;
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
