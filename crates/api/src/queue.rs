//! The queue as a whole: how it stands, and whether its jobs are begun.

use axum::{Json, extract::State};
use jobs::QueueState;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::problem::{AnyProblem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};
use crate::timestamp::rfc3339;

#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
pub(crate) struct QueueObject {
    /// Always `queue`.
    object: &'static str,
    /// Jobs are accepted, and those that run go on, but none is begun.
    paused: bool,
    #[schema(required, format = DateTime)]
    paused_at: Option<String>,
    queued: i64,
    running: i64,
    /// When the job that waits longest could have begun.
    #[schema(required, format = DateTime)]
    oldest_run_at: Option<String>,
}

impl From<QueueState> for QueueObject {
    fn from(state: QueueState) -> Self {
        Self {
            object: "queue",
            paused: state.paused_at.is_some(),
            paused_at: state.paused_at.map(rfc3339),
            queued: state.queued,
            running: state.running,
            oldest_run_at: state.oldest_run_at.map(rfc3339),
        }
    }
}

/// How the queue stands
#[utoipa::path(
    get,
    path = "/v1/queue",
    tag = "workers",
    responses((status = 200, description = "The queue", body = QueueObject), AnyProblem)
)]
pub(crate) async fn get_queue(State(api): State<Api>) -> Result<Json<QueueObject>> {
    Ok(Json(api.store.queue().await?.into()))
}

/// Begin no more jobs
///
/// Jobs are accepted, and those that run go on. Asking again is no error.
#[utoipa::path(
    post,
    path = "/v1/queue/pause",
    tag = "workers",
    responses(
        (status = 200, description = "The queue, paused", body = QueueObject),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn pause_queue(
    State(api): State<Api>,
    caller: Caller,
    query: Pairs,
    _: NoBody,
) -> Result<Json<QueueObject>> {
    query.only(&[])?;
    Ok(Json(caller.store(&api).pause().await?.into()))
}

/// Begin jobs again
#[utoipa::path(
    post,
    path = "/v1/queue/resume",
    tag = "workers",
    responses(
        (status = 200, description = "The queue, going on", body = QueueObject),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn resume_queue(
    State(api): State<Api>,
    caller: Caller,
    query: Pairs,
    _: NoBody,
) -> Result<Json<QueueObject>> {
    query.only(&[])?;
    Ok(Json(caller.store(&api).resume().await?.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_queue_is_paused_and_goes_on() {
        let fixture = Fixture::new().await;
        let queue = fixture.get("/v1/queue").await.json();
        assert_eq!((&queue["paused"], &queue["queued"]), (&json!(false), &json!(0)));
        let paused = fixture.post("/v1/queue/pause", "").await.json();
        assert_eq!(paused["paused"], true);
        assert_eq!(fixture.get("/v1/queue").await.json(), paused);
        assert_eq!(fixture.post("/v1/queue/resume", "").await.json()["paused_at"], json!(null));
    }
}
