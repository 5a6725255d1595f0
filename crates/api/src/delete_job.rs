//! `DELETE /v1/jobs/{id}`: a job that is over is forgotten, with its artifact where that is asked for.

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use jobs::{Deleted, Job};

use crate::Api;
use crate::caller::Caller;
use crate::get_job::find;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};
use crate::remove_artifact::remove_artifact;

/// Forget a job
///
/// With its events and attempts. Its artifact stays where it is, unless `artifacts=true` has it removed: it is out of sight at
/// once, and the job is forgotten when all of it is gone; where something went wrong in between, ask again. An artifact that
/// another job has too (`reuse`) is not removed, nor is a folder that holds anything else than what was published.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("artifacts" = Option<bool>, Query, description = "Remove the artifact, too"),
    ),
    responses(
        (status = 204, description = "The job is forgotten"),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The job is not over: cancel it first; or its artifact cannot be removed, and nothing is changed", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn delete_job(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<StatusCode> {
    query.only(&["artifacts"])?;
    let with_artifact = query.flag("artifacts")?.unwrap_or_default();
    let job = find(&api.store, &caller, &id).await?;
    if with_artifact {
        if !job.status.is_terminal() {
            return Err(not_over(&job));
        }
        remove_artifact(&api, &job).await?;
    }
    match caller.store(&api).delete_job(&job.id).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::Unknown => Err(Problem::no_job(&id)),
        Deleted::NotOver => Err(not_over(&job)),
    }
}

fn not_over(job: &Job) -> Problem {
    Problem::new(Code::JobNotFinished, format!("job {} is {}; cancel it first", job.id, job.status.as_str()))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_job_is_forgotten_once_it_is_over() {
        let fixture = Fixture::new().await;
        let path = format!("/v1/jobs/{}", fixture.submit().await);
        let delete = async || fixture.send(Method::DELETE, &path, &[], "").await;
        let early = delete().await;
        assert_eq!((early.status, early.json()["code"].as_str()), (409, Some("job_not_finished")));
        fixture.post(&format!("{path}/cancel"), "").await;
        assert_eq!(delete().await.status, 204);
        assert_eq!(delete().await.status, 404);
        assert_eq!(fixture.get(&format!("{path}/events")).await.status, 404);
    }
}
