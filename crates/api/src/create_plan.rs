//! `POST /v1/plans`: what a job would do, in figures, without making one.

use axum::{Json, body::Bytes, extract::State, http::HeaderMap};
use engine::{PlanSummary, StagedPlan};
use recipe::Variant;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::caller::Caller;
use crate::merge_request::{MergeRequest, MergeRequestBody};
use crate::planning::{self, Planned, PlannedMerge};
use crate::problem::{AnyProblem, Code, Finding, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::{Api, disk_floor};

/// A merge in figures.
#[derive(ToSchema)]
#[schema(as = Plan)]
#[expect(dead_code, reason = "written down for the documentation; a test holds it to what the engine gives")]
pub(crate) struct PlanBody {
    method: String,
    /// SHA-256 over everything that decides the output's bytes.
    digest: String,
    seed: u64,
    /// Models in the order of the recipe.
    models: Vec<String>,
    /// The same models with what is read of them and what is left out.
    inputs: Vec<InputBody>,
    tensors: u64,
    /// Elements of all output tensors.
    parameters: u64,
    input_bytes: u64,
    output_bytes: u64,
    /// Buffers at most.
    memory_bytes: u64,
    /// Free space that the output needs.
    disk_bytes: u64,
    shards: Vec<ShardBody>,
    warnings: Vec<Finding>,
    /// Only where the recipe has several documents: each, in the order in which they are made. The figures above are of the
    /// last; memory and disk are for all.
    stages: Option<Vec<StageBody>>,
    /// Only with `tensors=true`.
    tensor_tasks: Option<Vec<TensorBody>>,
}

/// A plan, or for a recipe with variants the plan of each.
#[derive(ToSchema)]
#[schema(as = PlanAnswer)]
#[expect(dead_code, reason = "written down for the documentation")]
#[serde(untagged)]
pub(crate) enum PlanAnswerBody {
    One(PlanBody),
    Many(PlanListBody),
}

#[derive(ToSchema)]
#[schema(as = PlanList)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct PlanListBody {
    /// Always `list`.
    object: String,
    /// In the order of the variants.
    data: Vec<VariantPlanBody>,
    /// What all of them have to say, each thing once.
    warnings: Vec<Finding>,
}

#[derive(ToSchema)]
#[schema(as = VariantPlan)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct VariantPlanBody {
    variant: String,
    /// What the variant sets.
    #[schema(value_type = Object)]
    parameters: (),
    plan: PlanBody,
}

#[derive(ToSchema)]
#[schema(as = PlannedModel)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct InputBody {
    model: String,
    tensors: u64,
    /// Of all its tensors.
    bytes: u64,
    /// Of those that the merge reads.
    read_bytes: u64,
    /// Tensors that nothing of the output is made of, as layers that no slice takes.
    unused_tensors: u64,
    /// The first ten of them by name.
    unused: Vec<String>,
}

#[derive(ToSchema)]
#[schema(as = PlannedShard)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct ShardBody {
    file: String,
    bytes: u64,
    tensors: u64,
}

/// One document of several.
#[derive(ToSchema)]
#[schema(as = PlannedStage)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct StageBody {
    /// Absent where the result has none.
    name: Option<String>,
    method: String,
    digest: String,
    /// Models in the order of the document; stages among them by their names.
    models: Vec<String>,
    tensors: u64,
    /// Bytes of the stage's shards.
    bytes: u64,
    /// Whether it is there when the merge is over.
    kept: bool,
}

/// The making of one output tensor.
#[derive(ToSchema)]
#[schema(as = PlannedTensor)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct TensorBody {
    name: String,
    dtype: String,
    /// Each `model:tensor`.
    inputs: Vec<String>,
    /// `copy` or `merge`.
    work: String,
    shape: Vec<u64>,
    /// Where the tensor's layer is in the output, 0 at the first and 1 at the last; absent outside the layers.
    depth: Option<f64>,
    /// Which input is the base.
    base: Option<u64>,
    /// The parameters of the tensor.
    #[schema(value_type = Object)]
    shared: (),
    /// The parameters of each input.
    #[schema(value_type = Vec<Object>)]
    each: (),
}

/// Plan a recipe without a job
///
/// The same bodies and the same refusals as a submit; nothing is stored.
#[utoipa::path(
    post,
    path = "/v1/plans",
    tag = "plans",
    params(
        ("tensors" = Option<bool>, Query, description = "List every output tensor with its parameters; not for a recipe with variants"),
        ("output" = Option<String>, Query, description = "With a YAML body: as for a job"),
        ("lenient" = Option<bool>, Query, description = "With a YAML body: unknown names in the recipe are warnings"),
        ("priority" = Option<i64>, Query, description = "With a YAML body: as for a job, without effect"),
        ("max_attempts" = Option<i64>, Query, description = "With a YAML body: as for a job, without effect"),
        ("timeout_seconds" = Option<i64>, Query, description = "With a YAML body: as for a job, without effect"),
        ("queue_ttl_seconds" = Option<i64>, Query, description = "With a YAML body: as for a job, without effect"),
        ("run_at" = Option<String>, Query, description = "With a YAML body: as for a job, without effect"),
        ("reuse" = Option<bool>, Query, description = "With a YAML body: as for a job, without effect"),
        ("worker_label" = Option<Vec<String>>, Query, description = "With a YAML body: as for a job, without effect"),
        ("label" = Option<Vec<String>>, Query, description = "With a YAML body: as for a job, without effect"),
        ("metadata" = Option<Vec<String>>, Query, description = "With a YAML body: as for a job, without effect"),
    ),
    request_body(
        description = "The recipe as YAML, or a JSON object that holds it",
        content(
            (Value = "application/yaml", example = json!({"merge_method": "linear", "models": [{"model": "org/base", "parameters": {"weight": 0.6}}, {"model": "org/chat", "parameters": {"weight": 0.4}}], "dtype": "bfloat16"})),
            (MergeRequestBody = "application/json", example = json!({"recipe_yaml": "merge_method: passthrough\nmodels:\n  - model: org/base\n"})),
        ),
    ),
    responses(
        (status = 200, description = "The plan; of a recipe with variants, the plan of each", body = PlanAnswerBody),
        (status = 400, description = "The body or the query cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than the server takes, by default 1 MiB", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is neither YAML nor JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The recipe or its output is refused", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 507, description = "The disk of the data directory is nearly full", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn create_plan(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    query: Pairs,
    body: Bytes,
) -> Result<Json<PlanAnswer>> {
    let request = MergeRequest::read(&headers, &query, &["tensors"], &body)?;
    disk_floor::has_room(&api).await?;
    let with_tensors = query.flag("tensors")?.unwrap_or(false);
    let summary = move |variant: &Variant, plan: StagedPlan| plan.summary(with_tensors && variant.name().is_none());
    let Planned { merges, warnings, .. } = planning::plan(&api, &caller, request, summary).await?;
    let (data, alone): (Vec<_>, Vec<_>) = merges.into_iter().map(VariantPlan::of).partition(|it| it.variant.is_some());
    match alone.into_iter().next() {
        Some(only) => Ok(Json(PlanAnswer::One(Box::new(only.plan)))),
        None if with_tensors => {
            let detail = "`tensors` lists those of one merge, and the recipe has variants; plan one of them alone";
            Err(Problem::new(Code::InvalidQuery, detail))
        }
        None => Ok(Json(PlanAnswer::Many { object: "list", data, warnings })),
    }
}

/// A plan, or for a recipe with variants the plan of each.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum PlanAnswer {
    One(Box<PlanSummary>),
    Many { object: &'static str, data: Vec<VariantPlan>, warnings: Vec<Finding> },
}

#[derive(Serialize)]
pub(crate) struct VariantPlan {
    variant: Option<String>,
    parameters: Map<String, Value>,
    plan: PlanSummary,
}

impl VariantPlan {
    fn of(merge: PlannedMerge<PlanSummary>) -> Self {
        let variant = merge.variant.name().map(str::to_owned);
        Self { variant, parameters: merge.variant.settings(), plan: merge.of_plan }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, RECIPE, VARIANTS, assert_documented};

    #[tokio::test]
    async fn a_plan_writes_nothing() {
        let fixture = Fixture::new().await;
        let answer = fixture.post("/v1/plans", RECIPE).await;
        assert_eq!(answer.status, 200);
        let plan = answer.json();
        assert_eq!((&plan["method"], &plan["tensors"]), (&"linear".into(), &5.into()));
        assert_eq!(plan["tensor_tasks"], Value::Null);
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn a_plan_is_what_is_documented() {
        let fixture = Fixture::new().await;
        let plan = fixture.post("/v1/plans?tensors=true", RECIPE).await.json();
        assert_documented::<PlanBody>(&plan);
        assert_documented::<InputBody>(&plan["inputs"][0]);
        assert_documented::<ShardBody>(&plan["shards"][0]);
        assert_documented::<TensorBody>(&plan["tensor_tasks"][0]);
    }

    #[tokio::test]
    async fn a_plan_tells_of_every_stage() {
        let fixture = Fixture::new().await;
        let model = |name: &str| json!({"model": name, "parameters": {"weight": 1}});
        let first = json!({"name": "first", "merge_method": "linear", "models": [model("a"), model("b")]});
        let last = json!({"merge_method": "linear", "models": [model("first"), model("b")]});
        let plan = fixture.post_json("/v1/plans", &json!({"recipe": [first, last]})).await.json();
        assert_documented::<PlanBody>(&plan);
        assert_documented::<StageBody>(&plan["stages"][0]);
        assert_eq!((&plan["stages"][0]["name"], &plan["stages"][1]["name"]), (&"first".into(), &Value::Null));
        assert_eq!((&plan["models"], &plan["stages"][1]["digest"]), (&json!(["first", "b"]), &plan["digest"]));
        let wrong = json!({"merge_method": "linear", "models": [model("first"), model("nowhere")]});
        let refused = fixture.post_json("/v1/plans", &json!({"recipe": [first, wrong]})).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &"/1/models/1/model".into()));
    }

    #[tokio::test]
    async fn code_of_a_model_is_told_in_the_plan_and_at_submit() {
        let fixture = Fixture::new().await;
        std::fs::write(fixture.path().join("models/a/modeling_own.py"), "raise SystemExit").unwrap();
        for path in ["/v1/plans", "/v1/jobs"] {
            let answer = fixture.post(path, RECIPE).await.json();
            let told: Vec<&Value> =
                answer["warnings"].as_array().unwrap().iter().filter(|w| w["code"] == "code_left_out").collect();
            assert_eq!(told.len(), 1, "{path}: {answer}");
            let detail = told[0]["detail"].as_str().unwrap();
            assert!(detail.contains("\"a\"") && detail.contains("modeling_own.py"), "{path}: {detail}");
        }
    }

    #[tokio::test]
    async fn each_variant_is_planned() {
        let fixture = Fixture::new().await;
        let plans = fixture.post("/v1/plans", VARIANTS).await.json();
        let digest = |i: usize| plans["data"][i]["plan"]["digest"].as_str().unwrap();
        assert_ne!(digest(0), digest(1));
        assert_eq!((&plans["object"], &plans["data"][1]["variant"]), (&"list".into(), &"strong".into()));
        assert_documented::<PlanListBody>(&plans);
        assert_documented::<VariantPlanBody>(&plans["data"][0]);
        let refused = fixture.post("/v1/plans?tensors=true", VARIANTS).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("invalid_query")));
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn a_plan_is_refused_as_its_job_would_be() {
        let fixture = Fixture::new().await;
        for (path, recipe) in [("", "merge_method: liner\nmodels: [{model: a}]\n"), ("?output=../x", RECIPE)] {
            let mut plan = fixture.post(&format!("/v1/plans{path}"), recipe).await.json();
            let mut job = fixture.post(&format!("/v1/jobs{path}"), recipe).await.json();
            (plan["request_id"], job["request_id"]) = (Value::Null, Value::Null);
            assert_eq!((plan["status"].as_u64(), &plan), (Some(422), &job));
        }
    }
}
