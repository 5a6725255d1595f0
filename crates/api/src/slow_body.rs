//! A body must come within its time: one byte now and then holds a connection, and what is buffered of it, for ever.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};

use crate::Api;
use crate::problem::{Code, Problem};

pub(crate) async fn slow_body(State(api): State<Api>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let limit = api.config.connections.body;
    let (parts, body) = request.into_parts();
    let is_late = Arc::<AtomicBool>::default();
    let late = is_late.clone();
    let deadline = tokio::time::Instant::now() + limit;
    let chunks = stream::unfold(Some(body.into_data_stream()), move |chunks| {
        let late = late.clone();
        async move {
            let mut chunks = chunks?;
            match tokio::time::timeout_at(deadline, chunks.next()).await {
                Ok(chunk) => chunk.map(|chunk| (chunk, Some(chunks))),
                Err(_) => {
                    late.store(true, Ordering::Relaxed);
                    Some((Err(axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut))), None))
                }
            }
        }
    });
    let response = next.run(Request::from_parts(parts, Body::from_stream(chunks))).await;
    if !is_late.load(Ordering::Relaxed) {
        return response;
    }
    let detail = format!("the body was not there within {} s", limit.as_secs_f64());
    Problem::new(Code::RequestTimeout, detail).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};
    use futures::{StreamExt, stream};

    use crate::testing::{Answer, Fixture, RECIPE, YAML};

    #[tokio::test]
    async fn a_body_that_does_not_end_in_time_is_turned_away() {
        let fixture = Fixture::new().await;
        let bytes = stream::iter(RECIPE.bytes().map(|byte| Ok::<_, std::io::Error>(vec![byte])));
        for (rest, status) in [(stream::pending().boxed(), 408), (stream::empty().boxed(), 201)] {
            let body = Body::from_stream(bytes.clone().chain(rest));
            let request = Request::post("/v1/jobs").header("host", "localhost").header("content-type", YAML);
            let answer = Answer::of(fixture.ask(request.body(body).unwrap()).await).await;
            assert_eq!(answer.status, status, "{}", answer.text());
            if status == 408 {
                assert_eq!(
                    (answer.json()["code"].as_str(), answer.header("connection")),
                    (Some("request_timeout"), "close")
                );
            }
        }
        assert_eq!(fixture.count().await, 1);
    }
}
