//! The outermost layer: every request has an id, a span and one log line, and every error its document.

use std::time::Instant;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::Instrument;
use uuid::Uuid;

use crate::limits::REQUEST_ID_CHARS_MAX;
use crate::{problem, secrets, sender::traceparent};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every part of the request may tell it by.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

pub(crate) async fn request_id(mut request: Request, next: Next) -> Response {
    let id = chosen(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    // the path alone: a query may hold what does not belong in a log
    let path = secrets::redacted(request.uri().path());
    let trace_id = tracing::field::Empty;
    let span = tracing::info_span!("request", id, method = %request.method(), path = path.as_ref(), trace_id);
    if let Some(traceparent) = traceparent(request.headers()) {
        span.record("trace_id", traceparent.split('-').nth(1));
    }
    answer(request, next, id).instrument(span).await
}

async fn answer(request: Request, next: Next, id: String) -> Response {
    let began = Instant::now();
    let mut response = problem::render(next.run(request).await, &id);
    tracing::debug!(status = response.status().as_u16(), ms = began.elapsed().as_millis() as u64, "request answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's own id, if it is fit for a log line.
fn chosen(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    ((1..=REQUEST_ID_CHARS_MAX).contains(&id.len()) && id.chars().all(sane) && !secrets::is_in(id))
        .then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_sane_request_id_is_echoed_and_another_replaced() {
        let fixture = Fixture::new().await;
        let answer = fixture.send(Method::GET, "/healthz", &[("x-request-id", "trace-1.a")], "").await;
        assert_eq!(answer.header("x-request-id"), "trace-1.a");
        let long = "x".repeat(65);
        for id in ["two words", "<b>", &long] {
            let answer = fixture.send(Method::GET, "/nosuch", &[("x-request-id", id)], "").await;
            assert_eq!(answer.header("x-request-id").len(), 36, "{id:?}");
            assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
        }
    }
}
