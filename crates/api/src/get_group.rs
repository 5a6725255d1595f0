//! `GET /v1/groups/{id}`.

use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use jobs::{GroupId, Job, Store};

use crate::Api;
use crate::caller::Caller;
use crate::group_object::GroupObject;
use crate::problem::{AnyProblem, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::wait::Wait;

/// Read a group
///
/// The jobs of one request, one for each variant of its recipe, as a table.
#[utoipa::path(
    get,
    path = "/v1/groups/{id}",
    tag = "groups",
    params(
        ("id" = String, Path, description = "The id of the group"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when all its jobs are over, or after N seconds, at most 60"),
    ),
    responses(
        (status = 200, description = "The group as it stands", body = GroupObject, headers(
            ("Preference-Applied" = Option<String>, description = "That it was waited"),
        )),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such group", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn get_group(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    headers: HeaderMap,
) -> Result<Response> {
    query.only(&[])?;
    let (group, mut jobs) = find(&api.store, &caller, &id).await?;
    let wait = Wait::preferred(&headers);
    if let Some(wait) = wait {
        jobs = wait.for_group(&api, &group).await?;
    }
    // none are left where all were deleted meanwhile
    let response = Json(GroupObject::of(jobs).ok_or_else(|| Problem::no_group(&id))?).into_response();
    Ok(match wait {
        Some(wait) => wait.applied(response),
        None => response,
    })
}

/// Its jobs. What is no id names no group either, and another tenant's group is none.
pub(crate) async fn find(store: &Store, caller: &Caller, id: &str) -> Result<(GroupId, Vec<Job>)> {
    let unknown = || Problem::no_group(id);
    let group = GroupId::parse(id).map_err(|_| unknown())?;
    let jobs = store.group(&group).await?;
    match jobs.first() {
        Some(job) if job.tenant == caller.tenant => Ok((group, jobs)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use axum::http::Method;
    use serde_json::json;

    use super::*;
    use crate::group_object::{Counts, GroupLinks, MemberObject};
    use crate::testing::{Fixture, VARIANTS, assert_documented};

    #[tokio::test]
    async fn a_group_is_a_table_of_its_variants() {
        let fixture = Fixture::new().await;
        let created = fixture.post("/v1/jobs", VARIANTS).await;
        let lease = fixture.claim().await;
        fixture.succeed(&lease).await;
        fixture.claim().await;
        let group = fixture.get(created.header("location")).await.json();
        assert_eq!(group["parameters"], json!(["normalize", "b.weight"]));
        assert_eq!((&group["status"], &group["finished_at"]), (&json!("running"), &json!(null)));
        assert_eq!((&group["counts"]["succeeded"], &group["counts"]["running"]), (&json!(1), &json!(1)));
        let rows: Vec<_> = group["jobs"].as_array().unwrap().iter().map(|j| [&j["variant"], &j["uri"]]).collect();
        assert_eq!(rows, [[&json!("plain"), &json!("file:///out")], [&json!("strong"), &json!(null)]]);
        assert_eq!(group["jobs"][1]["parameters"], json!({"normalize": false, "b.weight": 0.9}));
        assert_documented::<GroupObject>(&group);
        assert_documented::<Counts>(&group["counts"]);
        assert_documented::<GroupLinks>(&group["links"]);
        assert_documented::<MemberObject>(&group["jobs"][0]);
        let job = fixture.get(group["jobs"][1]["links"]["self"].as_str().unwrap()).await.json();
        assert_eq!((&job["group_id"], &job["variant"]), (&group["id"], &json!("strong")));
    }

    #[tokio::test]
    async fn an_answer_is_held_until_the_whole_group_is_over() {
        let fixture = Fixture::new().await;
        let path = fixture.post("/v1/jobs", VARIANTS).await.header("location").to_owned();
        let lease = fixture.claim().await;
        fixture.succeed(&lease).await;
        let headers = [("prefer", "wait=20")];
        let started = Instant::now();
        let finish = async {
            let lease = fixture.claim().await;
            fixture.fail(&lease).await;
        };
        let (held, ()) = tokio::join!(fixture.send(Method::GET, &path, &headers, ""), finish);
        assert_eq!((held.json()["status"].as_str(), held.header("preference-applied")), (Some("failed"), "wait=20"));
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(fixture.get(&path).await.header("preference-applied"), "");
        assert_eq!(fixture.get(&format!("{path}?fields=id")).await.status, 400);
    }

    #[tokio::test]
    async fn the_jobs_of_a_group_are_listed_alone() {
        let fixture = Fixture::new().await;
        fixture.submit().await;
        let group = fixture.post("/v1/jobs", VARIANTS).await.json();
        let list = fixture.get(group["links"]["jobs"].as_str().unwrap()).await.json();
        let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(|job| &job["variant"]).collect();
        assert_eq!(listed, ["strong", "plain"]);
    }
}
