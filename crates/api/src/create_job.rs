//! `POST /v1/jobs`: a recipe is checked, planned from headers, and queued; of one with variants each, or none.

use std::collections::BTreeSet;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use engine::StagedPlan;
use jobs::{Admission, Enqueued, GroupId, Idempotency, Job, JobId, Member, NewJob, Requirements};
use recipe::Variant;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::group_object::GroupObject;
use crate::job_object::JobObject;
use crate::limits::IDEMPOTENCY_KEY_CHARS_MAX;
use crate::merge_request::{MergeRequest, MergeRequestBody};
use crate::planning::{self, Planned, PlannedMerge};
use crate::problem::{AnyProblem, Code, Finding, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::secrets;
use crate::wait::Wait;
use crate::webhooks;
use crate::{Api, disk_floor};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A job, or for a recipe with variants their group.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Created {
    Job(Box<CreatedJob>),
    Group(Box<CreatedGroup>),
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedJob {
    #[serde(flatten)]
    job: JobObject,
    /// What to look at in the recipe; none of it stops the job. Empty where an earlier request made the job.
    warnings: Vec<Finding>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedGroup {
    #[serde(flatten)]
    group: GroupObject,
    /// What to look at in the recipe; none of it stops the jobs.
    warnings: Vec<Finding>,
}

impl Created {
    fn job(job: Job, warnings: Vec<Finding>) -> Self {
        Self::Job(Box::new(CreatedJob { job: JobObject::from(job), warnings }))
    }

    fn group(jobs: Vec<Job>, warnings: Vec<Finding>) -> Self {
        let group = GroupObject::of(jobs).expect("a group has jobs, and they say which it is");
        Self::Group(Box::new(CreatedGroup { group, warnings }))
    }

    fn location(&self) -> String {
        match self {
            Self::Job(created) => created.job.location().to_owned(),
            Self::Group(created) => created.group.location().to_owned(),
        }
    }
}

/// Submit a recipe
///
/// The recipe is checked against the headers of its models at once. Once answered with 201, the job survives a restart. A
/// recipe with `variants` or a `grid` makes a job for each and answers with their group; if one of them is refused, all are.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    tag = "jobs",
    params(
        ("output" = Option<String>, Query, description = "With a YAML body: where the artifact goes, a folder below an output root that does not exist yet"),
        ("lenient" = Option<bool>, Query, description = "With a YAML body: unknown names in the recipe are warnings"),
        ("priority" = Option<i64>, Query, description = "With a YAML body: -1000 to 1000, higher goes first"),
        ("max_attempts" = Option<i64>, Query, description = "With a YAML body: 1 to 10, else 3"),
        ("timeout_seconds" = Option<i64>, Query, description = "With a YAML body: an attempt that takes longer is stopped, and the job fails"),
        ("queue_ttl_seconds" = Option<i64>, Query, description = "With a YAML body: a job that no worker has begun for so long fails"),
        ("run_at" = Option<String>, Query, description = "With a YAML body: not to be begun before this time, as 2026-01-31T08:00:00Z"),
        ("reuse" = Option<bool>, Query, description = "With a YAML body: succeed with what another job published for the same plan, if it is still there"),
        ("worker_label" = Option<Vec<String>>, Query, description = "With a YAML body: only workers that carry it take the job; repeatable"),
        ("webhook" = Option<String>, Query, description = "With a YAML body: an `https` address that is told what becomes of the job"),
        ("label" = Option<Vec<String>>, Query, description = "With a YAML body: `key=value`, repeatable"),
        ("metadata" = Option<Vec<String>>, Query, description = "With a YAML body: `key=value`, repeatable"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the job is over, or after N seconds, at most 60"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters. The same request with the same key makes one job"),
    ),
    request_body(
        description = "The recipe as YAML, or a JSON object that holds it",
        content(
            (Value = "application/yaml", example = json!({"merge_method": "linear", "models": [{"model": "org/base", "parameters": {"weight": 0.6}}, {"model": "org/chat", "parameters": {"weight": 0.4}}], "dtype": "bfloat16"})),
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
        (status = 201, description = "The job is queued, or the same request had made it before; of a recipe with variants, all its jobs", body = Created, headers(
            ("Location" = String, description = "The path of the job, or of the group"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` when an earlier request made the job or group"),
            ("Preference-Applied" = Option<String>, description = "That it was waited"),
        )),
        (status = 400, description = "The body, the query or a header cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "A request with the same idempotency key is being worked on; `Retry-After` says when to ask again", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than the server takes, by default 1 MiB", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is neither YAML nor JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The recipe, its output or the idempotency key is refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 507, description = "The disk of the data directory is nearly full", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn create_job(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    query: Pairs,
    body: Bytes,
) -> Result<Response> {
    let request = MergeRequest::read(&headers, &query, &[], &body)?;
    submit(&api, &caller, &headers, Submission { request, retry_of: None }).await
}

/// What is asked for, and which job that does again.
pub(crate) struct Submission {
    pub(crate) request: MergeRequest,
    pub(crate) retry_of: Option<JobId>,
}

/// Checks, plans and queues.
pub(crate) async fn submit(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    submission: Submission,
) -> Result<Response> {
    let Submission { request, retry_of } = submission;
    let key = idempotency_key(headers)?.map(|key| caller.scoped(key));
    let mark = key.as_deref().map(|key| api.in_flight.begin(key)).transpose()?;
    if let Some(replayed) = replayed(api, key.as_deref(), &request).await? {
        return Ok(answer(replayed, true));
    }
    disk_floor::has_room(api).await?;
    if let Some(webhook) = &request.webhook {
        webhooks::check(api, webhook, "/webhook")?;
    }
    let wait = Wait::preferred(headers);
    let planned = planning::plan(api, caller, request, |_, plan| Facts::of(&plan)).await?;
    let warnings = planned.warnings.clone();
    let mut jobs = new_jobs(caller, planned, key);
    jobs.iter_mut().for_each(|job| job.retry_of = retry_of.clone());
    let limits = api.config.limits.queue;
    if let [job] = jobs.as_slice()
        && job.member.is_none()
    {
        let (mut job, is_replayed) = taken(caller.store(api).enqueue_within(jobs.remove(0), limits).await?);
        // from here on it can be replayed
        drop(mark);
        if let Some(wait) = wait {
            job = wait.for_job(api, &job.id).await?.unwrap_or(job);
        }
        return Ok(waited(wait, answer(Created::job(job, warnings), is_replayed)));
    }
    let (mut jobs, is_replayed) = taken(caller.store(api).enqueue_group_within(jobs, limits).await?);
    drop(mark);
    if let (Some(wait), Some(member)) = (wait, jobs[0].member.clone()) {
        jobs = wait.for_group(api, &member.group).await?;
    }
    Ok(waited(wait, answer(Created::group(jobs, warnings), is_replayed)))
}

/// Looked for before the recipe is planned: its output exists by now, and a model may be gone.
async fn replayed(api: &Api, key: Option<&str>, request: &MergeRequest) -> Result<Option<Created>> {
    let Some(key) = key else { return Ok(None) };
    let idempotency = Idempotency { key: key.to_owned(), request_digest: request.digest.clone() };
    let Some(job) = api.store.replayed(&idempotency).await? else { return Ok(None) };
    Ok(Some(match &job.member {
        Some(member) => Created::group(api.store.group(&member.group).await?, Vec::new()),
        None => Created::job(job, Vec::new()),
    }))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let is_plain = value.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte));
    match value.to_str() {
        Ok(key) if secrets::is_in(key) => Err(Problem::new(
            Code::InvalidHeader,
            "`Idempotency-Key` looks like an API key; it is a word of your choice, and is kept as it is",
        )),
        Ok(key) if is_plain && (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) && values.next().is_none() => {
            Ok(Some(key.to_owned()))
        }
        _ => {
            let detail =
                format!("`Idempotency-Key` is one of 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters");
            Err(Problem::new(Code::InvalidHeader, detail))
        }
    }
}

/// What the queue is told of a plan.
struct Facts {
    method: String,
    memory_bytes: u64,
    disk_bytes: u64,
    sources: BTreeSet<String>,
}

impl Facts {
    fn of(plan: &StagedPlan) -> Facts {
        let summary = plan.summary(false);
        Facts {
            method: summary.method.to_owned(),
            memory_bytes: summary.memory_bytes,
            disk_bytes: summary.disk_bytes,
            sources: plan.made_of().iter().cloned().collect(),
        }
    }
}

/// A job for each merge. The key stands on the first, and so for all.
fn new_jobs(caller: &Caller, planned: Planned<Facts>, key: Option<String>) -> Vec<NewJob> {
    let Planned { request, merges, .. } = planned;
    let group = GroupId::generate();
    let mut idempotency = key.map(|key| Idempotency { key, request_digest: request.digest.clone() });
    let job = |(position, merge): (usize, PlannedMerge<Facts>)| NewJob {
        id: JobId::generate(),
        recipe_format: request.recipe.format(),
        admission: admission(caller, &request, &merge.of_plan),
        method: merge.of_plan.method,
        lenient: request.lenient,
        output: output(planning::output_of(&request, &merge.variant)),
        labels: request.labels.clone(),
        metadata: request.metadata.clone(),
        priority: request.priority,
        max_attempts: request.max_attempts,
        retry_of: None,
        member: member(&group, position, &merge.variant),
        webhook: request.webhook.clone(),
        origin: caller.sender.origin(),
        recipe: merge.recipe,
        idempotency: idempotency.take(),
    };
    merges.into_iter().enumerate().map(job).collect()
}

fn admission(caller: &Caller, request: &MergeRequest, facts: &Facts) -> Admission {
    let ms = |seconds: i64| seconds.saturating_mul(1000);
    Admission {
        tenant: caller.tenant.clone(),
        owner: caller.key.clone(),
        run_at: request.run_at,
        queue_ttl_ms: request.queue_ttl_seconds.map(ms),
        timeout_ms: request.timeout_seconds.map(ms),
        reuse: request.reuse,
        requirements: Requirements {
            memory_bytes: facts.memory_bytes,
            disk_bytes: facts.disk_bytes,
            gpu_memory_bytes: 0,
            labels: request.worker_labels.clone(),
            sources: facts.sources.clone(),
        },
    }
}

fn member(group: &GroupId, position: usize, variant: &Variant) -> Option<Member> {
    let name = variant.name()?.to_owned();
    Some(Member { group: group.clone(), position: position as i64, variant: name, settings: variant.settings() })
}

fn output(path: Option<String>) -> Value {
    match path {
        Some(path) => json!({"kind": "folder", "path": path}),
        None => json!({"kind": "folder"}),
    }
}

fn taken<T>(enqueued: Enqueued<T>) -> (T, bool) {
    match enqueued {
        Enqueued::Created(it) => (it, false),
        Enqueued::Replayed(it) => (it, true),
    }
}

fn waited(wait: Option<Wait>, response: Response) -> Response {
    match wait {
        Some(wait) => wait.applied(response),
        None => response,
    }
}

fn answer(created: Created, is_replayed: bool) -> Response {
    let location = created.location();
    let mut response = (StatusCode::CREATED, [(header::LOCATION, location)], Json(created)).into_response();
    if is_replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use jobs::{QueueLimits, Scope};

    use super::*;
    use crate::ApiLimits;
    use crate::testing::{Fixture, RECIPE, VARIANTS, YAML, limits};

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
    async fn variants_become_a_group_of_jobs_with_recipes_of_their_own() {
        let fixture = Fixture::new().await;
        let answer = fixture.post_as("/v1/jobs?output=sweep&max_attempts=1&metadata=who=me", YAML, VARIANTS).await;
        assert_eq!(answer.status, 201);
        let group = answer.json();
        assert_eq!(answer.header("location"), format!("/v1/groups/{}", group["id"].as_str().unwrap()));
        assert_eq!((&group["object"], &group["status"]), (&json!("group"), &json!("queued")));
        let strong = fixture.get(group["jobs"][1]["links"]["self"].as_str().unwrap()).await.json();
        assert_eq!(strong["output"], json!({"kind": "folder", "path": "sweep/strong"}));
        assert_eq!((&strong["max_attempts"], &strong["metadata"]), (&json!(1), &json!({"who": "me"})));
        let recipe = strong["recipe"].as_str().unwrap();
        assert!(recipe.starts_with("# variant strong\n") && !recipe.contains("variants"), "{recipe}");
        // the recipe of a variant can be submitted alone
        let alone = fixture.post("/v1/jobs", recipe).await.json();
        assert_eq!((&alone["recipe"], &alone["group_id"]), (&json!(recipe), &json!(null)));
        insta::with_settings!({filters => vec![
            (r"group_[0-9a-f]{32}", "[group]"), (r"job_[0-9a-f]{32}", "[job]"), (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
        ]}, { insta::assert_json_snapshot!(group) });
    }

    #[tokio::test]
    async fn one_bad_variant_refuses_all_and_is_told_at_its_line() {
        let fixture = Fixture::new().await;
        let recipe =
            format!("{VARIANTS}  - name: typo\n    parameters: {{normalise: false}}\n  - merge_method: slrp\n");
        let answer = fixture.post("/v1/jobs", &recipe).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("invalid_recipe")));
        let body = answer.json();
        let found: Vec<_> = body["errors"].as_array().unwrap().iter().map(|e| (&e["pointer"], &e["line"])).collect();
        let expected = [
            (&json!("/variants/2/parameters/normalise"), &json!(13)),
            (&json!("/variants/3/merge_method"), &json!(14)),
        ];
        assert_eq!(found, expected, "{body}");
        assert!(body["errors"][0]["detail"].as_str().unwrap().starts_with("variant \"typo\": "), "{body}");
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn what_is_wrong_with_every_variant_is_told_once() {
        let fixture = Fixture::new().await;
        let body = fixture.post("/v1/jobs", &VARIANTS.replace("model: a", "model: nowhere")).await.json();
        assert_eq!(body["errors"].as_array().unwrap().len(), 1, "{body}");
        assert_eq!((&body["errors"][0]["pointer"], &body["errors"][0]["line"]), (&json!("/models/0/model"), &json!(3)));
    }

    #[tokio::test]
    async fn an_output_that_one_variant_cannot_have_refuses_all() {
        let fixture = Fixture::new().await;
        std::fs::create_dir_all(fixture.path().join("out/sweep/strong")).unwrap();
        let body = fixture.post_as("/v1/jobs?output=sweep/", YAML, VARIANTS).await.json();
        assert_eq!((&body["code"], body["errors"].as_array().unwrap().len()), (&json!("output_exists"), 1));
        let body = fixture.post_as("/v1/jobs?output=../x", YAML, VARIANTS).await.json();
        assert_eq!((&body["code"], body["errors"].as_array().unwrap().len()), (&json!("invalid_output"), 2));
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn options_variants_and_grids_may_stand_beside_the_recipe() {
        let fixture = Fixture::new().await;
        let grid = json!({"parameters": {"normalize": [true, false]}, "models": {"b": {"weight": [0.2, 0.4]}}});
        let body = json!({"recipe_yaml": RECIPE, "grid": grid, "options": {"allow-crimes": true}});
        let group = fixture.post_json("/v1/jobs", &body).await.json();
        let names: Vec<_> = group["jobs"].as_array().unwrap().iter().map(|job| job["variant"].clone()).collect();
        assert_eq!(names.len(), 4, "{group}");
        assert_eq!(names[3], "normalize-false_b.weight-0.4");
        let job = fixture.get(group["jobs"][0]["links"]["self"].as_str().unwrap()).await.json();
        assert!(job["recipe"].as_str().unwrap().contains("allow-crimes: true"), "{job}");
        let recipe = json!({"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]});
        let body = json!({"recipe": recipe, "variants": [{"parameters": {"weight": 1}}]});
        let group = fixture.post_json("/v1/jobs", &body).await.json();
        assert_eq!((&group["object"], &group["jobs"][0]["variant"]), (&json!("group"), &json!("weight-1")), "{group}");
        let refused =
            fixture.post_json("/v1/jobs", &json!({"recipe_yaml": RECIPE, "options": {"allow_crime": 1}})).await;
        let error = &refused.json()["errors"][0];
        assert_eq!((&error["pointer"], &error["line"]), (&json!("/options/allow_crime"), &json!(null)));
    }

    #[tokio::test]
    async fn the_same_key_replays_a_whole_group() {
        let fixture = Fixture::new().await;
        let headers = [("content-type", YAML), ("idempotency-key", "key")];
        let first = fixture.send(Method::POST, "/v1/jobs", &headers, VARIANTS).await;
        let again = fixture.send(Method::POST, "/v1/jobs", &headers, VARIANTS).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (201, "true"));
        let mut expected = first.json();
        expected["warnings"] = json!([]);
        assert_eq!((again.header("location"), again.json()), (first.header("location"), expected));
        let other = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
        assert_eq!(other.json()["code"], "idempotency_mismatch");
        assert_eq!(fixture.count().await, 2);
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
        // the recipe is not planned again, so what is to be said of it is said once
        let mut expected = first.json();
        expected["warnings"] = json!([]);
        assert_eq!(again.json(), expected);
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

    fn with_queue(queued_max: u32, queued_per_owner_max: u32) -> ApiLimits {
        ApiLimits { queue: QueueLimits { queued_max, queued_per_owner_max }, ..limits() }
    }

    #[tokio::test]
    async fn a_key_with_too_many_jobs_waiting_is_told_so_and_its_replays_are_answered() {
        let fixture = Fixture::with_limits(with_queue(100, 2)).await;
        let key = fixture.key("a", &Scope::ALL).await;
        let headers = [("authorization", key.as_str()), ("content-type", YAML), ("idempotency-key", "one")];
        let first = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.json();
        let group = fixture.send(Method::POST, "/v1/jobs", &headers[..2], VARIANTS).await;
        assert_eq!((group.status, group.json()["code"].as_str()), (429, Some("too_many_queued")));
        assert_eq!(fixture.send(Method::POST, "/v1/jobs", &headers[..2], RECIPE).await.status, 201);
        let refused = fixture.send(Method::POST, "/v1/jobs", &headers[..2], RECIPE).await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, "10"));
        insta::with_settings!({filters => vec![(r"[0-9a-f-]{36}", "[request id]")]}, {
            insta::assert_json_snapshot!(refused.json())
        });
        assert_eq!(fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.json()["id"], first["id"]);
        let other = fixture.key("a", &Scope::ALL).await;
        let headers = [("authorization", other.as_str()), ("content-type", YAML)];
        assert_eq!(fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.status, 201);
        let list = fixture.send(Method::GET, "/v1/jobs", &headers, "").await.json();
        assert_eq!(list["data"].as_array().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_full_queue_is_told_of() {
        let fixture = Fixture::with_limits(with_queue(2, 1)).await;
        for _ in 0..2 {
            // without keys nobody has a number of its own
            fixture.submit().await;
        }
        let refused = fixture.post("/v1/jobs", RECIPE).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, "10"));
        insta::with_settings!({filters => vec![(r"[0-9a-f-]{36}", "[request id]")]}, {
            insta::assert_json_snapshot!(refused.json())
        });
        fixture.claim().await;
        fixture.submit().await;
    }
}
