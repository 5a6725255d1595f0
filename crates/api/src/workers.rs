//! `GET /v1/workers`, and asking one to drain.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jobs::WorkerRow;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};
use crate::timestamp::rfc3339;

/// A worker that was not heard of for so long is not listed.
const SILENT: Duration = Duration::from_secs(60);

#[derive(Serialize, ToSchema)]
pub(crate) struct WorkerList {
    /// Always `list`.
    object: &'static str,
    data: Vec<WorkerObject>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerObject {
    #[schema(example = "node-7-3f9c2b1a")]
    id: String,
    /// Always `worker`.
    object: &'static str,
    status: WorkerStatus,
    /// What it says of itself: `name`, `version`, `slots`, `running`, `threads`, `memory_bytes`, `labels`.
    #[schema(value_type = Object)]
    about: Value,
    /// The jobs whose leases it holds, of the key's tenant.
    jobs: Vec<String>,
    #[schema(format = DateTime)]
    started_at: String,
    #[schema(format = DateTime)]
    seen_at: String,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerStatus {
    Active,
    /// It was asked to begin no more jobs.
    Draining,
}

impl From<WorkerRow> for WorkerObject {
    fn from(row: WorkerRow) -> Self {
        Self {
            id: row.id,
            object: "worker",
            status: if row.drain_requested_at.is_some() { WorkerStatus::Draining } else { WorkerStatus::Active },
            about: row.about,
            jobs: row.jobs,
            started_at: rfc3339(row.started_at),
            seen_at: rfc3339(row.seen_at),
        }
    }
}

/// List the workers
#[utoipa::path(
    get,
    path = "/v1/workers",
    tag = "workers",
    responses((status = 200, description = "The workers that were heard of in the last minute", body = WorkerList), AnyProblem)
)]
pub(crate) async fn list_workers(State(api): State<Api>, caller: Caller) -> Result<Json<WorkerList>> {
    let workers = api.store.workers(SILENT, &caller.tenant).await?;
    Ok(Json(WorkerList { object: "list", data: workers.into_iter().map(WorkerObject::from).collect() }))
}

/// Drain a worker
///
/// It begins no more jobs, and ends when those it has are done. Asking again is no error.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/drain",
    tag = "workers",
    params(("id" = String, Path, description = "Id of the worker")),
    responses(
        (status = 202, description = "It is told within ten seconds"),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such worker, or it has stopped", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem
    )
)]
pub(crate) async fn drain_worker(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<StatusCode> {
    query.only(&[])?;
    // Postgres has no text with a NUL in it
    if !id.contains('\0') && caller.store(&api).drain_worker(&id).await? {
        return Ok(StatusCode::ACCEPTED);
    }
    Err(Problem::new(Code::NotFound, format!("there is no worker {id:?} that runs; `GET /v1/workers` lists them")))
}

#[cfg(test)]
mod tests {
    use jobs::WorkerId;
    use serde_json::json;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn workers_are_listed_and_asked_to_drain() {
        let fixture = Fixture::new().await;
        let worker = WorkerId::generate("node");
        fixture.store.report_worker(&worker, &json!({"slots": 2})).await.unwrap();
        let list = fixture.get("/v1/workers").await.json();
        let listed = &list["data"][0];
        assert_eq!((&listed["id"], &listed["status"]), (&json!(worker.as_str()), &json!("active")));
        assert_eq!((&listed["about"]["slots"], &listed["jobs"]), (&json!(2), &json!([])));
        let drain = format!("/v1/workers/{}/drain", worker.as_str());
        assert_eq!(fixture.post(&drain, "").await.status, 202);
        assert_eq!(fixture.get("/v1/workers").await.json()["data"][0]["status"], "draining");
        assert_eq!(fixture.post("/v1/workers/a%00/drain", "").await.status, 404);
        let unknown = fixture.post("/v1/workers/nobody/drain", "").await;
        assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("not_found")));
    }
}
