//! A server that answers what a test has written down, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::Client;

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Response>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) struct Scripted {
    pub(crate) url: String,
    script: Script,
}

impl Scripted {
    /// Answers once with each; what is asked for after the last is not found.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Response>) -> Scripted {
        let script = Script::default();
        script.answers.lock().unwrap().extend(answers);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(next).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Scripted { url, script }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().unwrap().clone()
    }
}

async fn next(State(script): State<Script>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    script.seen.lock().unwrap().push(Seen { path: parts.uri.to_string(), headers: parts.headers });
    script.answers.lock().unwrap().pop_front().unwrap_or_else(|| answer(404, &[], r#"{"code":"not_found"}"#))
}

pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let builder = headers.iter().fold(Response::builder().status(status), |builder, (k, v)| builder.header(*k, *v));
    builder.body(Body::from(body.to_owned())).unwrap()
}

/// Its length is told, and it ends before.
pub(crate) fn cut(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
    let piece = futures::stream::iter([Ok(body.to_owned())]);
    // what is there is sent while the next is waited for
    let end = futures::stream::once(async {
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    let mut cut = answer(status, headers, "");
    *cut.body_mut() = Body::from_stream(futures::StreamExt::chain(piece, end));
    cut
}
