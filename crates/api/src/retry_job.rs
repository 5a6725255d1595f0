//! `POST /v1/jobs/{id}/retry`: the same request once more, as a new job.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use jobs::{Job, RecipeFormat};
use serde_json::Map;

use crate::Api;
use crate::caller::Caller;
use crate::create_job::{Submission, submit};
use crate::get_job::find;
use crate::merge_request::MergeRequest;
use crate::posted_recipe::{Posted, PostedRecipe};
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};

/// Do a job again
///
/// Makes a new job of the recipe, output, labels, webhook and limits of one that is over, to be begun at once; `retry_of` names that. It is checked and planned
/// as any other. Of a job with variants only this one is done again.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/retry",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("output" = Option<String>, Query, description = "Another place for the artifact than that of the job"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the new job is over, or after N seconds, at most 60"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters. The same request with the same key makes one job"),
    ),
    responses(
        (status = 201, description = "The new job is queued", body = crate::create_job::CreatedJob, headers(
            ("Location" = String, description = "The path of the new job"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` when an earlier request made the job"),
            ("Preference-Applied" = Option<String>, description = "That it was waited"),
        )),
        (status = 400, description = "The query, a header or a body that should not be there", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The job is not over, or a request with the same idempotency key is being worked on", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The recipe or its output is refused now", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 507, description = "The disk of the data directory is nearly full", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn retry_job(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    headers: HeaderMap,
    _: NoBody,
) -> Result<Response> {
    query.only(&["output"])?;
    let job = find(&api.store, &caller, &id).await?;
    if !job.status.is_terminal() {
        let detail = format!("job {id} is {} and cannot be done again before it is over", job.status.as_str());
        return Err(Problem::new(Code::JobNotFinished, detail));
    }
    let request = again(&job, query.parsed("output")?)?;
    submit(&api, &caller, &headers, Submission { request, retry_of: Some(job.id) }).await
}

/// What was asked for. The time to begin is now, whatever `run_at` was.
fn again(job: &Job, output: Option<String>) -> Result<MergeRequest> {
    let posted = match job.recipe_format {
        RecipeFormat::Yaml => Posted::Yaml(job.recipe.clone()),
        RecipeFormat::Json => Posted::Json(serde_json::from_str(&job.recipe).map_err(|_| Problem::internal())?),
    };
    let seconds = |ms: i64| ms / 1000;
    let digest = checkpoint::digest_bytes(format!("retry {} {output:?}", job.id).as_bytes());
    Ok(MergeRequest {
        recipe: PostedRecipe { posted, options: Map::new(), variants: None, grid: None },
        output: output.or_else(|| job.output["path"].as_str().map(str::to_owned)),
        labels: job.labels.clone(),
        metadata: job.metadata.clone(),
        lenient: job.lenient,
        priority: job.priority,
        // attempts that were no fault of the job were added to these
        max_attempts: (job.max_attempts - job.lost).clamp(1, *crate::limits::ATTEMPTS.end()),
        timeout_seconds: job.timeout_ms.map(seconds),
        queue_ttl_seconds: queue_ttl_ms(job).map(seconds),
        run_at: None,
        reuse: job.reuse,
        worker_labels: job.requirements.labels.clone(),
        webhook: job.webhook.clone(),
        digest,
    })
}

/// An attempt that is tried again moves the time from which a job may be begun.
fn queue_ttl_ms(job: &Job) -> Option<i64> {
    let from = if job.started_at.is_some() { job.created_at } else { job.run_at };
    Some((job.start_by? - from).max(1000))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::json;

    use crate::testing::{Fixture, RECIPE};

    #[tokio::test]
    async fn a_job_that_failed_is_done_again_as_a_new_one() {
        let fixture = Fixture::new().await;
        let query = "output=team/one&priority=5&label=team=a&metadata=who=me&timeout_seconds=9&max_attempts=2";
        let first = fixture.post(&format!("/v1/jobs?{query}"), RECIPE).await.json();
        let retry = format!("/v1/jobs/{}/retry", first["id"].as_str().unwrap());
        let early = fixture.post(&retry, "").await;
        assert_eq!((early.status, early.json()["code"].as_str()), (409, Some("job_not_finished")));
        let lease = fixture.claim().await;
        fixture.fail(&lease).await;
        let answer = fixture.send(Method::POST, &retry, &[("idempotency-key", "k")], "").await;
        assert_eq!(answer.status, 201);
        let second = answer.json();
        assert_eq!(answer.header("location"), format!("/v1/jobs/{}", second["id"].as_str().unwrap()));
        assert_eq!((&second["retry_of"], &first["retry_of"]), (&first["id"], &json!(null)));
        for same in ["recipe", "output", "labels", "metadata", "priority", "timeout_seconds", "max_attempts", "method"]
        {
            assert_eq!(second[same], first[same], "{same}");
        }
        let again = fixture.send(Method::POST, &retry, &[("idempotency-key", "k")], "").await.json();
        assert_eq!(again["id"], second["id"]);
        assert_ne!(fixture.post(&retry, "").await.json()["id"], second["id"]);
        let elsewhere = fixture.post(&format!("{retry}?output=team/two"), "").await.json();
        assert_eq!(elsewhere["output"]["path"], "team/two");
        for (path, body) in [(format!("{retry}?priority=1"), ""), (retry.clone(), "{}")] {
            assert_eq!(fixture.post(&path, body).await.status, 400, "{path} {body}");
        }
    }

    #[tokio::test]
    async fn the_time_in_the_queue_is_limited_again() {
        let fixture = Fixture::new().await;
        let first = fixture.post("/v1/jobs?queue_ttl_seconds=100", RECIPE).await.json();
        let path = format!("/v1/jobs/{}", first["id"].as_str().unwrap());
        fixture.post(&format!("{path}/cancel"), "").await;
        let second = fixture.post(&format!("{path}/retry"), "").await.json();
        let time =
            |job: &serde_json::Value, key: &str| crate::timestamp::milliseconds(job[key].as_str().unwrap()).unwrap();
        assert_eq!(time(&second, "start_by") - time(&second, "run_at"), 100_000);
    }
}
