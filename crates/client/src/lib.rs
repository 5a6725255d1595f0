//! A client of the HTTP API: submit, look, and watch to the end through cuts.
//!
//! Invariant: this, `webhook` and later the Hub client are the only crates that make HTTP requests.

mod download;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

pub use watch::{StreamEvent, Watch};

/// What the server said no with.
#[derive(Debug, Clone)]
pub struct Refused {
    pub status: u16,
    /// The problem document, or the text where it was none.
    pub problem: Value,
}

impl Refused {
    /// What was sent before, and not answered, is still being worked on.
    fn is_in_flight(&self) -> bool {
        self.problem["code"] == "idempotency_in_flight"
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{}", told(.0))]
    Refused(Refused),
    #[error("cannot reach {url}: {}", innermost(.source))]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{url} answered with something that is not JSON: {source}")]
    NotJson { url: String, source: serde_json::Error },
    #[error("{url} is not the file that the server told of: its SHA-256 differs")]
    Changed { url: String },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the stream of job {0} ended before the job did, and did not come back")]
    StreamLost(String),
}

impl ClientError {
    /// Whether the same request may succeed in a moment. A server that is not there at all is not waited for.
    fn may_pass(&self) -> bool {
        match self {
            ClientError::Refused(refused) => matches!(refused.status, 502..=504) || refused.is_in_flight(),
            ClientError::Unreachable { source, .. } => !source.is_connect() && !source.is_timeout(),
            ClientError::NotJson { .. }
            | ClientError::Changed { .. }
            | ClientError::Io { .. }
            | ClientError::StreamLost(_) => false,
        }
    }
}

/// What really went wrong, as "connection refused"; the outer errors only repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    let outer: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(outer), |error| error.source());
    causes.last().unwrap_or(outer).to_string()
}

/// The problem as a person reads it: the detail, then each finding with its place.
fn told(refused: &Refused) -> String {
    let text = |key: &str| refused.problem.get(key).and_then(Value::as_str);
    let errors = refused.problem.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if errors.is_empty() {
        return text("detail").or(text("title")).map_or_else(|| refused.problem.to_string(), str::to_owned);
    }
    errors.iter().map(line).collect::<Vec<_>>().join("\n  ")
}

fn line(error: &Value) -> String {
    let mut line = String::new();
    if let (Some(row), Some(column)) = (error["line"].as_u64(), error["column"].as_u64()) {
        line += &format!("line {row}, column {column}: ");
    }
    if let Some(pointer) = error["pointer"].as_str().filter(|p| !p.is_empty()) {
        line += &format!("{pointer}: ");
    }
    line + error["detail"].as_str().unwrap_or_default()
}

/// A server that does not answer is told from one that is slow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams have a sign of life every 15 seconds, so this is silence.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Between tries of a request, at first and at most: some seconds in all.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
    key: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // not its key
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// `base` is the server's address, as in `http://127.0.0.1:8080`.
    pub fn new(base: &str) -> Result<Client, ClientError> {
        // an error says that a provider is installed already, which is as good
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = base.trim_end_matches('/').to_owned();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("amalgam/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|source| ClientError::Unreachable { url: base.clone(), source })?;
        Ok(Client { base, http, key: None })
    }

    /// Sends an API key with every request.
    pub fn with_key(self, key: Option<String>) -> Client {
        Client { key, ..self }
    }

    fn keyed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Submits a recipe's text; `query` holds options such as `output`. Gives the job, or of a recipe with variants the group.
    /// Tried again while the server is not available, under one key, so that it makes one job.
    pub async fn submit(&self, recipe: String, query: &[(&str, String)]) -> Result<Value, ClientError> {
        self.submit_as(&uuid::Uuid::now_v7().to_string(), recipe, query).await
    }

    /// As `submit`, under a key of the caller's: again with the same key is the same job.
    pub async fn submit_as(&self, key: &str, recipe: String, query: &[(&str, String)]) -> Result<Value, ClientError> {
        let url = self.url("/v1/jobs", query);
        let request = || self.recipe(&url, &recipe).header("idempotency-key", key);
        self.json(request, &url).await
    }

    /// A dry run.
    pub async fn plan(&self, recipe: String, query: &[(&str, String)]) -> Result<Value, ClientError> {
        let url = self.url("/v1/plans", query);
        self.json(|| self.recipe(&url, &recipe), &url).await
    }

    pub async fn job(&self, id: &str) -> Result<Value, ClientError> {
        self.get(&format!("/v1/jobs/{id}"), &[]).await
    }

    /// One page of jobs, newest first.
    pub async fn jobs(&self, query: &[(&str, String)]) -> Result<Value, ClientError> {
        self.get("/v1/jobs", query).await
    }

    /// The jobs of one request, one for each variant.
    pub async fn group(&self, id: &str) -> Result<Value, ClientError> {
        self.get(&format!("/v1/groups/{id}"), &[]).await
    }

    pub async fn cancel_group(&self, id: &str) -> Result<Value, ClientError> {
        self.post(&format!("/v1/groups/{id}/cancel")).await
    }

    pub async fn cancel(&self, id: &str) -> Result<Value, ClientError> {
        self.post(&format!("/v1/jobs/{id}/cancel")).await
    }

    /// No job is begun from now on.
    pub async fn pause(&self) -> Result<Value, ClientError> {
        self.post("/v1/queue/pause").await
    }

    pub async fn resume(&self) -> Result<Value, ClientError> {
        self.post("/v1/queue/resume").await
    }

    /// Asks a worker to begin no more jobs, and to end when those it has are done.
    pub async fn drain(&self, worker: &str) -> Result<Value, ClientError> {
        self.post(&format!("/v1/workers/{}/drain", percent_encoded(worker))).await
    }

    /// Does a job that is over again, as a new one.
    pub async fn retry(&self, id: &str) -> Result<Value, ClientError> {
        self.post(&format!("/v1/jobs/{id}/retry")).await
    }

    /// Forgets a job that is over.
    pub async fn delete(&self, id: &str) -> Result<Value, ClientError> {
        let url = self.url(&format!("/v1/jobs/{id}"), &[]);
        self.json(|| self.http.delete(&url), &url).await
    }

    /// The files of the artifact of a job.
    pub async fn artifacts(&self, id: &str) -> Result<Value, ClientError> {
        self.get(&format!("/v1/jobs/{id}/artifacts"), &[]).await
    }

    /// Makes an endpoint that is told of every event of every job. Where an answer was lost, there may be two.
    pub async fn create_webhook(&self, webhook: &str) -> Result<Value, ClientError> {
        let url = self.url("/v1/webhooks", &[]);
        self.json(|| self.http.post(&url).json(&serde_json::json!({"url": webhook})), &url).await
    }

    pub async fn webhooks(&self) -> Result<Value, ClientError> {
        self.get("/v1/webhooks", &[]).await
    }

    pub async fn rotate_webhook(&self, id: &str) -> Result<Value, ClientError> {
        self.post(&format!("/v1/webhooks/{id}/rotate")).await
    }

    pub async fn delete_webhook(&self, id: &str) -> Result<Value, ClientError> {
        let url = self.url(&format!("/v1/webhooks/{id}"), &[]);
        self.json(|| self.http.delete(&url), &url).await
    }

    /// What webhooks were told of a job, newest first.
    pub async fn deliveries(&self, job: &str) -> Result<Value, ClientError> {
        self.get(&format!("/v1/jobs/{job}/deliveries"), &[]).await
    }

    pub async fn redeliver(&self, delivery: &str) -> Result<Value, ClientError> {
        self.post(&format!("/v1/deliveries/{delivery}/redeliver")).await
    }

    /// Watches a job from its first event on.
    pub fn watch(&self, id: &str) -> Watch {
        Watch::new(self.clone(), id.to_owned())
    }

    fn recipe(&self, url: &str, recipe: &str) -> reqwest::RequestBuilder {
        self.http.post(url).header("content-type", "application/yaml").body(recipe.to_owned())
    }

    async fn post(&self, path: &str) -> Result<Value, ClientError> {
        let url = self.url(path, &[]);
        self.json(|| self.http.post(&url), &url).await
    }

    async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ClientError> {
        let url = self.url(path, query);
        self.json(|| self.http.get(&url), &url).await
    }

    /// Every request of this client may be made again: a server that is not available for a moment is asked again.
    async fn json(&self, request: impl Fn() -> reqwest::RequestBuilder, url: &str) -> Result<Value, ClientError> {
        let mut wait = AGAIN;
        loop {
            match self.json_once(request(), url).await {
                Err(error) if error.may_pass() && wait <= AGAIN_MAX => tokio::time::sleep(wait).await,
                result => return result,
            }
            wait *= 2;
        }
    }

    async fn json_once(&self, request: reqwest::RequestBuilder, url: &str) -> Result<Value, ClientError> {
        let unreachable = |source| ClientError::Unreachable { url: url.to_owned(), source };
        let response = self.keyed(request).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let body = response.text().await.map_err(unreachable)?;
        // that it was done may be all there is to say
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&body).map_err(|source| ClientError::NotJson { url: url.to_owned(), source })
    }

    fn url(&self, path: &str, query: &[(&str, String)]) -> String {
        let mut url = format!("{}{path}", self.base);
        for (i, (key, value)) in query.iter().enumerate() {
            url += if i == 0 { "?" } else { "&" };
            url += &format!("{key}={}", percent_encoded(value));
        }
        url
    }
}

async fn refused(response: reqwest::Response) -> ClientError {
    let status = response.status().as_u16();
    let body = response.text().await.unwrap_or_default();
    let problem = serde_json::from_str(&body).unwrap_or(Value::String(body));
    ClientError::Refused(Refused { status, problem })
}

fn is_loopback(base: &str) -> bool {
    ["http://127.", "http://localhost", "http://[::1]"].iter().any(|prefix| base.starts_with(prefix))
}

fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_reads_like_a_compiler() {
        let problem = json!({"detail": "the recipe has 1 problem", "errors": [
            {"pointer": "/models/0", "line": 3, "column": 5, "detail": "no `weight`"}]});
        let error = ClientError::Refused(Refused { status: 422, problem });
        assert_eq!(error.to_string(), "line 3, column 5: /models/0: no `weight`");
    }

    #[test]
    fn a_submit_that_is_still_worked_on_is_asked_for_again_and_other_conflicts_are_not() {
        let refused = |code: &str| ClientError::Refused(Refused { status: 409, problem: json!({ "code": code }) });
        assert!(refused("idempotency_in_flight").may_pass() && !refused("job_finished").may_pass());
    }

    #[test]
    fn queries_are_encoded() {
        let client = Client::new("http://127.0.0.1:1/").unwrap();
        assert_eq!(
            client.url("/v1/jobs", &[("output", "a b&c".into()), ("limit", "2".into())]),
            "http://127.0.0.1:1/v1/jobs?output=a%20b%26c&limit=2"
        );
    }
}
