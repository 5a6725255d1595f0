//! `DELETE /v1/jobs/{id}`: a job that is over is forgotten.

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use jobs::Deleted;

use crate::Api;
use crate::caller::Caller;
use crate::get_job::find;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};

/// Forget a job
///
/// With its events and attempts. Its artifact stays where it is.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = String, Path, description = "The id of the job")),
    responses(
        (status = 204, description = "The job is forgotten"),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The job is not over: cancel it first", body = ProblemDocument, content_type = "application/problem+json"),
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
    query.only(&[])?;
    let job = find(&api.store, &caller, &id).await?;
    match caller.store(&api).delete_job(&job.id).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::Unknown => Err(Problem::no_job(&id)),
        Deleted::NotOver => {
            let detail = format!("job {id} is {}; cancel it first", job.status.as_str());
            Err(Problem::new(Code::JobNotFinished, detail))
        }
    }
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
