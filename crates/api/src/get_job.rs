//! `GET /v1/jobs/{id}`.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use jobs::{Job, JobId, Store};

use crate::Api;
use crate::caller::Caller;
use crate::etag::tagged;
use crate::fields::Fields;
use crate::job_object::JobObject;
use crate::problem::{AnyProblem, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::wait::Wait;

/// Read a job
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("fields" = Option<String>, Query, description = "Only these fields, joined by commas, as in `id,status,progress`"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the job is over, or after N seconds, at most 60"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an answer that the client has"),
    ),
    responses(
        (status = 200, description = "The job as it stands", body = JobObject, headers(
            ("ETag" = String, description = "Changes when the answer does"),
            ("Preference-Applied" = Option<String>, description = "That it was waited"),
        )),
        (status = 304, description = "The job stands as in the answer that the client has"),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn get_job(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    headers: HeaderMap,
) -> Result<Response> {
    query.only(&["fields"])?;
    let fields = Fields::asked(&query)?;
    let mut job = find(&api.store, &caller, &id).await?;
    let wait = Wait::preferred(&headers);
    if let Some(wait) = wait {
        job = wait.for_job(&api, &job.id).await?.ok_or_else(|| Problem::no_job(&id))?;
    }
    let attempts = api.store.attempts(&job.id).await?;
    let response = tagged(&headers, &fields.pick(&JobObject::from(job).with_attempts(attempts)));
    Ok(match wait {
        Some(wait) => wait.applied(response),
        None => response,
    })
}

/// What is no id names no job either, and another tenant's job is none.
pub(crate) async fn find(store: &Store, caller: &Caller, id: &str) -> Result<Job> {
    let unknown = || Problem::no_job(id);
    let parsed = JobId::parse(id).map_err(|_| unknown())?;
    store.job(&parsed).await?.filter(|job| job.tenant == caller.tenant).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use jobs::Phase;
    use serde_json::json;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_running_job_tells_its_progress() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        fixture.progress(&lease, 25).await;
        fixture.record(&lease, Phase::Merging).await;
        let job = fixture.get(&format!("/v1/jobs/{id}")).await.json();
        assert_eq!((&job["status"], &job["phase"], &job["attempt"]), (&json!("running"), &json!("merging"), &json!(1)));
        assert_eq!(job["progress"]["fraction"], 0.25);
        assert_eq!(job["worker"], lease.worker.as_str());
        assert_eq!(job["last_event_id"], "3");
    }

    #[tokio::test]
    async fn a_failed_job_tells_why() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        fixture.fail(&lease).await;
        let job = fixture.get(&format!("/v1/jobs/{id}")).await.json();
        assert_eq!(job["status"], "failed");
        assert_eq!(
            job["error"],
            json!({"code": "disk_full", "message": "the disk is full", "retryable": true, "attempt": 1})
        );
    }
}
