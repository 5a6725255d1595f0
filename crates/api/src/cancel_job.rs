//! `POST /v1/jobs/{id}/cancel`. Asking again gives the same answer.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jobs::CancelOutcome;

use crate::Api;
use crate::caller::Caller;
use crate::get_job::find;
use crate::job_object::JobObject;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};

/// Cancel a job
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    tag = "jobs",
    params(("id" = String, Path, description = "The id of the job")),
    responses(
        (status = 200, description = "The job is cancelled", body = JobObject),
        (status = 202, description = "The job is `cancelling`: its worker will stop", body = JobObject),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The job succeeded or failed before", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn cancel_job(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<(StatusCode, Json<JobObject>)> {
    query.only(&[])?;
    let found = find(&api.store, &caller, &id).await?;
    let unknown = || Problem::no_job(&id);
    let (status, job) = match caller.store(&api).request_cancel(&found.id).await?.ok_or_else(unknown)? {
        CancelOutcome::Cancelled(job) => (StatusCode::OK, job),
        CancelOutcome::Cancelling(job) => (StatusCode::ACCEPTED, job),
        CancelOutcome::AlreadyFinished(job) => {
            let detail = format!("job {id} has {} and cannot be cancelled", job.status.as_str());
            return Err(Problem::new(Code::JobFinished, detail));
        }
    };
    Ok((status, Json(JobObject::from(job))))
}

#[cfg(test)]
mod tests {
    use crate::testing::Fixture;

    #[tokio::test]
    async fn cancel_of_a_queued_job_answers_cancelled() {
        let fixture = Fixture::new().await;
        let path = format!("/v1/jobs/{}/cancel", fixture.submit().await);
        for _ in 0..2 {
            let answer = fixture.post(&path, "").await;
            assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("cancelled")));
        }
    }

    #[tokio::test]
    async fn cancel_of_a_running_job_answers_cancelling() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        fixture.claim().await;
        for _ in 0..2 {
            let answer = fixture.post(&format!("/v1/jobs/{id}/cancel"), "").await;
            assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("cancelling")));
        }
    }

    #[tokio::test]
    async fn cancel_of_a_finished_job_is_a_conflict() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        fixture.succeed(&lease).await;
        let answer = fixture.post(&format!("/v1/jobs/{id}/cancel"), "").await;
        assert_eq!((answer.status, answer.json()["type"].as_str()), (409, Some("urn:amalgam:problem:job-finished")));
        assert_eq!(answer.json()["detail"], format!("job {id} has succeeded and cannot be cancelled"));
    }
}
