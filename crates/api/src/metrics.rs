//! `GET /metrics` on a listener of its own, so that what watches the service needs no way to its API.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::header,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use jobs::{Census, Scope, Status, Store};
use meter::Meter;
use tokio::{net::TcpListener, sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::caller::{Needed, caller_of};
use crate::problem::{Problem, Result};
use crate::request_id::request_id;
use crate::same_origin;

/// How old what is told of the queue may be: many may ask, and the database answers one of them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever scrapes gets what the process knows of itself, whatever the database does.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// The names by which a listener for this machine alone may be addressed: none that a web page could have of its own.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What is told, and of what.
#[derive(Clone)]
pub struct Metrics {
    store: Store,
    meter: Arc<Meter>,
    /// Where merges are written.
    work: PathBuf,
    looked: Arc<Mutex<Option<Instant>>>,
    is_local: bool,
}

impl Metrics {
    pub fn new(store: Store, meter: Arc<Meter>, work: PathBuf) -> Self {
        Self { store, meter, work, looked: Arc::default(), is_local: true }
    }
}

/// Serves until `shutdown`. On an address that others reach a key with the scope `metrics` is asked for, once there are keys.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let is_local = listener.local_addr()?.ip().is_loopback();
    let service = router(Metrics { is_local, ..metrics }).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

fn router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .layer(middleware::from_fn_with_state(metrics.clone(), guard))
        .layer(middleware::from_fn(request_id))
        .with_state(metrics)
}

async fn guard(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    match admitted(&metrics, &request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The future of a request that is borrowed could not be sent: what is looked at is taken out first.
fn admitted(metrics: &Metrics, request: &Request) -> impl Future<Output = Result<()>> + use<> {
    let local = LOCAL.map(str::to_owned);
    let checked = same_origin::check(request, metrics.is_local.then_some(&local[..]), &[]);
    let shown = crate::caller::shown(request);
    let (store, is_local) = (metrics.store.clone(), metrics.is_local);
    async move {
        checked?;
        match is_local {
            true => Ok(()),
            false => caller_of(&store, Needed::Scope(Scope::Metrics), shown).await?.1.0,
        }
    }
}

async fn scrape(State(metrics): State<Metrics>) -> Result<Response, Problem> {
    look_at_queue(&metrics).await;
    if let Some(bytes) = free_bytes(&metrics.work) {
        metrics.meter.set_disk_free(bytes);
    }
    let headers = [(header::CONTENT_TYPE, meter::CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, metrics.meter.text()).into_response())
}

/// Those who come while one looks wait, and need not look then.
async fn look_at_queue(metrics: &Metrics) {
    let mut looked = metrics.looked.lock().await;
    if looked.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
        return;
    }
    let answer = tokio::time::timeout(LOOK_WITHIN, metrics.store.census()).await;
    match answer.unwrap_or_else(|_| Err(jobs::JobsError::no_answer(LOOK_WITHIN))) {
        Ok(Census { jobs, oldest_wait_ms }) => {
            let jobs = jobs.into_iter().map(|(status, count): (Status, i64)| (status.as_str(), count));
            metrics.meter.set_queue(jobs, oldest_wait_ms as f64 / 1000.0);
        }
        Err(error) => {
            tracing::warn!(%error, "cannot look at the queue for metrics");
            metrics.meter.forget_queue();
        }
    }
    *looked = Some(Instant::now());
}

/// The directory may not be there before the first merge.
fn free_bytes(work: &std::path::Path) -> Option<u64> {
    let exists = work.ancestors().find(|dir| dir.exists())?;
    let space = rustix::fs::statvfs(exists).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Method};
    use jobs::NewKey;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tower::ServiceExt;

    use super::*;
    use crate::testing::{Answer, Fixture, RECIPE, YAML};

    fn metrics(fixture: &Fixture, is_local: bool) -> Metrics {
        let metrics = Metrics::new(fixture.store.clone(), fixture.meter.clone(), fixture.path().join("work"));
        Metrics { is_local, ..metrics }
    }

    async fn ask(metrics: &Metrics, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get("/metrics");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        Answer::of(router(metrics.clone()).oneshot(request).await.unwrap()).await
    }

    async fn key(fixture: &Fixture, scope: Scope) -> String {
        let new =
            NewKey { name: "test".into(), tenant: "a".into(), scopes: [scope].into(), expires_at: None, adopts: false };
        format!("Bearer {}", fixture.store.create_key(new).await.unwrap().1.reveal())
    }

    /// Name, labels and value of each sample.
    fn samples(text: &str) -> Vec<(String, String, f64)> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
            (name.to_owned(), labels.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        };
        lines.map(sample).collect()
    }

    #[tokio::test]
    async fn a_scrape_over_a_real_listener_tells_how_the_queue_stands() {
        let fixture = Fixture::new().await;
        fixture.send(Method::POST, "/v1/jobs", &[("content-type", YAML)], RECIPE).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve_metrics(listener, metrics(&fixture, true), shutdown.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
        let samples = samples(body);
        let value = |name: &str, labels: &str| {
            let found = samples.iter().find(|(n, l, _)| n == name && l == labels);
            found.unwrap_or_else(|| panic!("{name}{{{labels}}} is not in\n{body}")).2
        };
        assert_eq!(value("merge_jobs", "status=\"queued\""), 1.0);
        assert_eq!(value("merge_jobs", "status=\"failed\""), 0.0);
        assert!(value("merge_queue_oldest_age_seconds", "") >= 0.0 && value("merge_disk_free_bytes", "") > 0.0);
        assert_eq!(value("http_requests_total", "method=\"POST\",route=\"/v1/jobs\",status=\"201\""), 1.0);
        assert_eq!(
            value(
                "merge_build_info",
                &format!("version=\"{}\",engine=\"{}\"", env!("CARGO_PKG_VERSION"), engine::VERSION)
            ),
            1.0
        );
        shutdown.cancel();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn where_others_reach_it_a_key_of_the_scope_is_asked_for() {
        let fixture = Fixture::new().await;
        let open = metrics(&fixture, false);
        assert_eq!(ask(&open, &[]).await.status, 200, "without keys the operator has said who may reach it");
        let right = key(&fixture, Scope::Metrics).await;
        for scope in Scope::ALL {
            let key = key(&fixture, scope).await;
            let expected = if scope == Scope::Metrics { 200 } else { 403 };
            assert_eq!(ask(&open, &[("authorization", &key)]).await.status, expected, "{scope:?}");
        }
        let refused = ask(&open, &[]).await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
        assert_eq!(ask(&open, &[("authorization", &right), ("host", "prometheus.example")]).await.status, 200);
        // on this machine's own address whoever reaches it may look, but no web page reaches it by a name of its own
        let local = metrics(&fixture, true);
        assert_eq!(ask(&local, &[("host", "localhost:9090")]).await.status, 200);
        assert_eq!(ask(&local, &[("host", "evil.example")]).await.status, 421);
    }

    #[tokio::test]
    async fn the_queue_is_looked_at_once_a_second_and_what_is_not_known_is_not_told() {
        let fixture = Fixture::new().await;
        let local = metrics(&fixture, true);
        let scrape = async || ask(&local, &[("host", "localhost")]).await.text();
        assert!(scrape().await.contains("merge_jobs{status=\"queued\"} 0"));
        fixture.submit().await;
        assert!(scrape().await.contains("merge_jobs{status=\"queued\"} 0"), "the look is a moment old");
        *local.looked.lock().await = None;
        assert!(scrape().await.contains("merge_jobs{status=\"queued\"} 1"));
        fixture.store.close().await;
        *local.looked.lock().await = None;
        let text = scrape().await;
        assert!(!text.contains("merge_jobs{") && text.contains("merge_build_info"), "{text}");
    }
}
