//! What the tests share: a receiver, and a check of signatures that is not the one they are made by.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jobs::{DeliveryId, Sending};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::Secret;

/// Far above what a delivery takes: one that does not come fails its test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came.
pub(crate) struct Got {
    headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    /// Empty for a header that is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An HTTP server that answers as it is told, the last for good.
pub(crate) struct Receiver {
    port: u16,
    got: mpsc::UnboundedReceiver<Got>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Receiver {
    pub(crate) async fn start(address: &str, answers: &[(u16, &[(&str, &str)])]) -> Self {
        Self::start_at(address, 0, answers).await
    }

    pub(crate) async fn start_at(address: &str, port: u16, answers: &[(u16, &[(&str, &str)])]) -> Self {
        let listener = TcpListener::bind((address, port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, got) = mpsc::unbounded_channel();
        let answers: Arc<Vec<(StatusCode, HeaderMap)>> = Arc::new(answers.iter().map(answer).collect());
        let count = Arc::new(AtomicUsize::new(0));
        let handler = move |headers: HeaderMap, body: String| async move {
            tell.send(Got { headers, body }).unwrap();
            let at = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            answers[at].clone()
        };
        let router = Router::new().route("/hook", post(handler));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { port, got, serving }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As one writes it who knows it by that host.
    pub(crate) fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.port)
    }

    pub(crate) async fn next(&mut self) -> Got {
        tokio::time::timeout(PATIENCE, self.got.recv()).await.expect("a delivery comes").unwrap()
    }

    pub(crate) fn got_nothing(&mut self) -> bool {
        self.got.try_recv().is_err()
    }
}

fn answer((status, headers): &(u16, &[(&str, &str)])) -> (StatusCode, HeaderMap) {
    let header =
        |(name, value): &(&str, &str)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    (StatusCode::from_u16(*status).unwrap(), headers.iter().map(header).collect())
}

pub(crate) fn a_sending(url: &str) -> Sending {
    Sending {
        id: DeliveryId::generate(),
        tenant: "a".to_owned(),
        url: url.to_owned(),
        endpoint: None,
        payload: "{\"type\":\"job.succeeded\",\"data\":{\"labels\":{\"ü\":\"1\"}}}".to_owned(),
        attempt: 1,
        token: 1,
    }
}

/// As a receiver does it, from what it was shown: HMAC of RFC 2104, written out.
pub(crate) fn is_signed_by(secret: &Secret, signatures: &str, id: &DeliveryId, time: i64, body: &str) -> bool {
    let shown = secret.reveal();
    let mut key = STANDARD.decode(shown.strip_prefix("whsec_").unwrap()).unwrap();
    key.resize(64, 0);
    let padded = |with: u8| key.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([padded(0x36), format!("{id}.{time}.{body}").into_bytes()].concat());
    let outer = Sha256::digest([padded(0x5c), inner.to_vec()].concat());
    let expected = format!("v1,{}", STANDARD.encode(outer));
    signatures.split(' ').any(|signature| signature == expected)
}
