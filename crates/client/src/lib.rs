//! A client of the HTTP API: submit, look, and watch to the end through cuts.
//!
//! Invariant: this, `webhook` and later the Hub client are the only crates that make HTTP requests.

mod download;
mod error;
mod follow;
mod frames;
mod logs;
mod patience;
#[cfg(test)]
mod testing;
mod watch;

use std::time::Duration;

use serde_json::Value;

pub use download::digest_of;
pub use error::{ClientError, Refused};
pub use follow::Follow;
pub use watch::{StreamEvent, Watch};

use error::refused;
use patience::Patience;

/// A server that does not answer is told from one that is slow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams have a sign of life every 15 seconds, so this is silence.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that waits for hours is seen to be dead.
const KEEPALIVE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
    key: Option<String>,
    patience: Patience,
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
        let http = built(&base, |builder| builder.read_timeout(READ_TIMEOUT))?;
        Ok(Client { base, http, key: None, patience: Patience::default() })
    }

    /// For what may be silent for long.
    fn unhurried(&self) -> Result<reqwest::Client, ClientError> {
        built(&self.base, |builder| builder.tcp_keepalive(KEEPALIVE))
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
        self.submit_as(&new_key(), recipe, query).await
    }

    /// As `submit`, under a key of the caller's: again with the same key is the same job.
    pub async fn submit_as(&self, key: &str, recipe: String, query: &[(&str, String)]) -> Result<Value, ClientError> {
        let url = self.url("/v1/jobs", query);
        let request = || recipe_to(&self.http, &url, &recipe).header("idempotency-key", key);
        self.json(request, &url).await
    }

    /// As `submit_as`, answered when the job is over, or after so many seconds.
    pub async fn submit_and_wait(
        &self,
        key: &str,
        recipe: String,
        query: &[(&str, String)],
        seconds: u64,
    ) -> Result<Value, ClientError> {
        let url = self.url("/v1/jobs", query);
        // it is silent as long as it waits
        let (http, timeout) = (self.unhurried()?, READ_TIMEOUT + Duration::from_secs(seconds));
        let request = || {
            let request = recipe_to(&http, &url, &recipe).header("idempotency-key", key);
            request.header("prefer", format!("wait={seconds}")).timeout(timeout)
        };
        self.json(request, &url).await
    }

    /// A dry run.
    pub async fn plan(&self, recipe: String, query: &[(&str, String)]) -> Result<Value, ClientError> {
        let url = self.url("/v1/plans", query);
        self.json(|| recipe_to(&self.http, &url, &recipe), &url).await
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
        self.retry_as(&new_key(), id, &[]).await
    }

    /// As `retry`, under a key of the caller's; `query` may hold another `output`.
    pub async fn retry_as(&self, key: &str, id: &str, query: &[(&str, String)]) -> Result<Value, ClientError> {
        let url = self.url(&format!("/v1/jobs/{id}/retry"), query);
        self.json(|| self.http.post(&url).header("idempotency-key", key), &url).await
    }

    /// Forgets a job that is over.
    pub async fn delete(&self, id: &str) -> Result<Value, ClientError> {
        let url = self.url(&format!("/v1/jobs/{id}"), &[]);
        self.json(|| self.http.delete(&url), &url).await
    }

    /// Forgets a job that is over, and removes what it has published.
    pub async fn delete_with_artifacts(&self, id: &str) -> Result<Value, ClientError> {
        let url = self.url(&format!("/v1/jobs/{id}"), &[("artifacts", "true".to_owned())]);
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

    /// Follows the events of all jobs: from now on, or behind the event with this id.
    pub fn follow(&self, after: Option<&str>) -> Follow {
        Follow::new(self.clone(), after)
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
        let mut tries = self.tries();
        loop {
            match self.json_once(request(), url).await {
                Err(error) => tries.wait(error).await?,
                answer => return answer,
            }
        }
    }

    async fn json_once(&self, request: reqwest::RequestBuilder, url: &str) -> Result<Value, ClientError> {
        let response = self.opened_once(request, url).await?;
        let body = response.text().await.map_err(|source| ClientError::Unreachable { url: url.to_owned(), source })?;
        // that it was done may be all there is to say
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&body).map_err(|source| ClientError::NotJson { url: url.to_owned(), source })
    }

    /// An answer whose body is still to come.
    async fn opened(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
        url: &str,
    ) -> Result<reqwest::Response, ClientError> {
        let mut tries = self.tries();
        loop {
            match self.opened_once(request(), url).await {
                Err(error) => tries.wait(error).await?,
                answer => return answer,
            }
        }
    }

    async fn opened_once(&self, request: reqwest::RequestBuilder, url: &str) -> Result<reqwest::Response, ClientError> {
        let unreachable = |source| ClientError::Unreachable { url: url.to_owned(), source };
        let response = self.keyed(request).send().await.map_err(unreachable)?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
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

fn built(
    base: &str,
    more: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("amalgam/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT);
    if is_loopback(base) {
        builder = builder.no_proxy();
    }
    more(builder).build().map_err(|source| ClientError::Unreachable { url: base.to_owned(), source })
}

fn recipe_to(http: &reqwest::Client, url: &str, recipe: &str) -> reqwest::RequestBuilder {
    http.post(url).header("content-type", "application/yaml").body(recipe.to_owned())
}

/// A key of idempotency that was never used.
pub fn new_key() -> String {
    uuid::Uuid::now_v7().to_string()
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

    #[test]
    fn queries_are_encoded() {
        let client = Client::new("http://127.0.0.1:1/").unwrap();
        assert_eq!(
            client.url("/v1/jobs", &[("output", "a b&c".into()), ("limit", "2".into())]),
            "http://127.0.0.1:1/v1/jobs?output=a%20b%26c&limit=2"
        );
    }
}
