//! `POST /v1/jobs`: a recipe is checked, planned from headers, and queued.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::Plan;
use jobs::{Enqueued, Idempotency, Job, JobId, NewJob};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::Api;
use crate::job_object::JobObject;
use crate::limits::IDEMPOTENCY_KEY_CHARS_MAX;
use crate::merge_request::{MergeRequest, MergeRequestBody};
use crate::planning;
use crate::problem::{AnyProblem, Code, Finding, Problem, ProblemDocument, Result};
use crate::query::Pairs;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedJob {
    #[serde(flatten)]
    job: JobObject,
    /// What to look at in the recipe; none of it stops the job.
    warnings: Vec<Finding>,
}

/// Submit a recipe
///
/// The recipe is checked against the headers of its models at once. Once answered with 201, the job survives a restart.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    tag = "jobs",
    params(
        ("output" = Option<String>, Query, description = "With a YAML body: where the artifact goes, a folder below an output root that does not exist yet"),
        ("lenient" = Option<bool>, Query, description = "With a YAML body: unknown names in the recipe are warnings"),
        ("priority" = Option<i64>, Query, description = "With a YAML body: -1000 to 1000, higher goes first"),
        ("label" = Option<Vec<String>>, Query, description = "With a YAML body: `key=value`, repeatable"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters. The same request with the same key makes one job"),
    ),
    request_body(
        description = "The recipe as YAML, or a JSON object that holds it",
        content(
            (String = "application/yaml", example = json!("merge_method: linear\nmodels:\n  - model: org/base\n    parameters: {weight: 0.6}\n  - model: org/chat\n    parameters: {weight: 0.4}\ndtype: bfloat16\n")),
            (MergeRequestBody = "application/json", example = json!({
                "recipe": {
                    "merge_method": "slerp",
                    "base_model": "org/base",
                    "models": [{"model": "org/base"}, {"model": "org/chat"}],
                    "parameters": {"t": 0.5},
                    "dtype": "bfloat16"
                },
                "output": "team/merged",
                "labels": {"team": "research"}
            })),
        ),
    ),
    responses(
        (status = 201, description = "The job is queued, or the same request had made it before", body = CreatedJob, headers(
            ("Location" = String, description = "The path of the job"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` when an earlier request made the job"),
        )),
        (status = 400, description = "The body, the query or a header cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than 1 MiB", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is neither YAML nor JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The recipe, its output or the idempotency key is refused", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn create_job(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Pairs,
    body: Bytes,
) -> Result<Response> {
    let key = idempotency_key(&headers)?;
    let request = MergeRequest::read(&headers, &query, &[], &body)?;
    if let Some(job) = replayed(&api, key.as_deref(), &request).await? {
        return Ok(answer(Enqueued::Replayed(job), Vec::new()));
    }
    let (request, plan) = planning::plan(&api, request).await?;
    let warnings = Finding::all(plan.warnings.clone());
    let enqueued = api.store.enqueue(job(request, &plan, key)).await?;
    Ok(answer(enqueued, warnings))
}

/// Looked for before the recipe is planned: its output exists by now, and a model may be gone.
async fn replayed(api: &Api, key: Option<&str>, request: &MergeRequest) -> Result<Option<Job>> {
    let Some(key) = key else { return Ok(None) };
    let idempotency = Idempotency { key: key.to_owned(), request_digest: request.digest.clone() };
    Ok(api.store.replayed(&idempotency).await?)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("`Idempotency-Key` has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters");
            Err(Problem::new(Code::InvalidHeader, detail))
        }
    }
}

fn job(request: MergeRequest, plan: &Plan, key: Option<String>) -> NewJob {
    let (recipe, recipe_format) = request.recipe.into_text();
    NewJob {
        id: JobId::generate(),
        recipe,
        recipe_format,
        method: plan.about.name.to_owned(),
        lenient: request.lenient,
        output: output(request.output),
        labels: request.labels,
        metadata: request.metadata,
        priority: request.priority,
        max_attempts: request.max_attempts,
        idempotency: key.map(|key| Idempotency { key, request_digest: request.digest }),
    }
}

fn output(path: Option<String>) -> Value {
    match path {
        Some(path) => json!({"kind": "folder", "path": path}),
        None => json!({"kind": "folder"}),
    }
}

fn answer(enqueued: Enqueued, warnings: Vec<Finding>) -> Response {
    let (job, replayed) = match enqueued {
        Enqueued::Created(job) => (job, false),
        Enqueued::Replayed(job) => (job, true),
    };
    let location = format!("/v1/jobs/{}", job.id);
    let body = CreatedJob { job: JobObject::from(job), warnings };
    let mut response = (StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response();
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::testing::{Fixture, RECIPE, YAML};

    #[tokio::test]
    async fn a_posted_recipe_becomes_a_queued_job() {
        let fixture = Fixture::new().await;
        let answer =
            fixture.post_as("/v1/jobs?output=team/one&priority=5&label=team=a&label=run=7%3D8", YAML, RECIPE).await;
        assert_eq!(answer.status, 201);
        let body = answer.json();
        assert_eq!(answer.header("location"), format!("/v1/jobs/{}", body["id"].as_str().unwrap()));
        assert_eq!(body["recipe"], RECIPE);
        assert_eq!(body["labels"], json!({"team": "a", "run": "7=8"}));
        let stored = fixture.get(answer.header("location")).await.json();
        assert_eq!(stored["last_event_id"], "1");
        insta::with_settings!({filters => vec![
            (r"job_[0-9a-f]{32}", "[job]"), (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
        ]}, { insta::assert_json_snapshot!(body) });
    }

    #[tokio::test]
    async fn an_object_holds_all_that_a_query_does() {
        let fixture = Fixture::new().await;
        let recipe = json!({"merge_method": "linear", "models": [
            {"model": "a", "parameters": {"weight": 1}}, {"model": "b", "parameters": {"weight": 1}}]});
        let body = json!({"recipe": recipe, "output": {"kind": "folder", "path": "x"}, "metadata": {"who": "me"},
            "max_attempts": 1, "lenient": true});
        let job = fixture.post_json("/v1/jobs", &body).await.json();
        assert_eq!(job["recipe_format"], "json");
        assert_eq!(job["recipe"], recipe.to_string());
        assert_eq!(job["output"], json!({"kind": "folder", "path": "x"}));
        assert_eq!((&job["max_attempts"], &job["lenient"]), (&json!(1), &json!(true)));
        assert_eq!(job["metadata"], json!({"who": "me"}));
        let job = fixture.post_json("/v1/jobs", &json!({"recipe_yaml": RECIPE})).await.json();
        assert_eq!((&job["recipe_format"], &job["output"]), (&json!("yaml"), &json!({"kind": "folder"})));
    }

    #[tokio::test]
    async fn a_bad_recipe_is_refused_with_line_and_column() {
        let fixture = Fixture::new().await;
        let recipe = "merge_method: linear\nmodels:\n  - model: a\n    parameters:\n      wieght: 0.5\n  - model: b\n    parameters:\n      weight: 0.5\nunknown: 1\n";
        let answer = fixture.post("/v1/jobs", recipe).await;
        assert_eq!(answer.status, 422);
        insta::with_settings!({filters => vec![(r"[0-9a-f-]{36}", "[request id]")]}, {
            insta::assert_json_snapshot!(answer.json())
        });
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn what_headers_tell_is_told_at_submit() {
        let fixture = Fixture::new().await;
        let answer = fixture.post("/v1/jobs", &RECIPE.replace("model: b", "model: deeper")).await;
        assert_eq!(answer.status, 422);
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn models_outside_the_roots_are_not_told_from_missing_ones() {
        let fixture = Fixture::new().await;
        let outside = fixture.path().join("outside").display().to_string();
        let missing = fixture.path().join("nowhere").display().to_string();
        let mut answers = Vec::new();
        for path in [&outside, &missing, "../outside", "../nowhere"] {
            let answer = fixture.post("/v1/jobs", &RECIPE.replace("model: b", &format!("model: {path}"))).await;
            assert_eq!(answer.status, 422);
            assert_eq!(answer.json()["errors"][0]["code"], "model_not_found");
            answers.push(answer.json()["detail"].as_str().unwrap().replace(path, "PATH"));
        }
        assert_eq!((&answers[0], &answers[2]), (&answers[1], &answers[3]));
    }

    #[tokio::test]
    async fn an_output_that_is_outside_or_exists_is_refused() {
        let fixture = Fixture::new().await;
        std::fs::create_dir_all(fixture.path().join("out/taken")).unwrap();
        for (output, code) in [("../x", "invalid_output"), ("/etc/x", "invalid_output"), ("taken", "output_exists")] {
            let answer = fixture.post_as(&format!("/v1/jobs?output={output}"), YAML, RECIPE).await;
            assert_eq!(answer.status, 422, "{output}");
            let body = answer.json();
            assert_eq!(body["code"], code);
            assert_eq!((&body["errors"][0]["pointer"], &body["errors"][0]["code"]), (&json!("/output"), &json!(code)));
        }
    }

    #[tokio::test]
    async fn the_same_key_replays_and_another_body_is_refused() {
        let fixture = Fixture::new().await;
        let headers = [("content-type", YAML), ("idempotency-key", "key 1")];
        let first = fixture.send(Method::POST, "/v1/jobs?output=x", &headers, RECIPE).await;
        let again = fixture.send(Method::POST, "/v1/jobs?output=x", &headers, RECIPE).await;
        assert_eq!((first.status, again.status), (201, 201));
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(first.header("idempotent-replayed"), "");
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.json(), first.json());
        let other_query = fixture.send(Method::POST, "/v1/jobs?output=y", &headers, RECIPE).await;
        let other_body = fixture.send(Method::POST, "/v1/jobs?output=x", &headers, &format!("{RECIPE}\n")).await;
        for refused in [other_query, other_body] {
            assert_eq!((refused.status, refused.json()["code"].as_str()), (422, Some("idempotency_mismatch")));
        }
        assert_eq!(fixture.count().await, 1);
    }

    #[tokio::test]
    async fn a_key_of_no_use_is_refused() {
        let fixture = Fixture::new().await;
        let long = "k".repeat(256);
        for key in ["", "\u{e9}", &long] {
            let headers = [("content-type", YAML), ("idempotency-key", key)];
            let answer = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("invalid_header")));
        }
    }
}
