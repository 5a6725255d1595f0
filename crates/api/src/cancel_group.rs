//! `POST /v1/groups/{id}/cancel`. Asking again gives the same answer.

use axum::{
    Json,
    extract::{Path, State},
};

use crate::Api;
use crate::caller::Caller;
use crate::get_group::find;
use crate::group_object::GroupObject;
use crate::problem::{AnyProblem, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};

/// Cancel a group
///
/// Cancels every job of the group that is not over; jobs that are over stay as they are.
#[utoipa::path(
    post,
    path = "/v1/groups/{id}/cancel",
    tag = "groups",
    params(("id" = String, Path, description = "The id of the group")),
    responses(
        (status = 200, description = "The group as it stands: running jobs are `cancelling` until their workers stop", body = GroupObject),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such group", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn cancel_group(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<Json<GroupObject>> {
    query.only(&[])?;
    let (group, _) = find(&api.store, &caller, &id).await?;
    let jobs = caller.store(&api).cancel_group(&group).await?;
    Ok(Json(GroupObject::of(jobs).ok_or_else(|| Problem::no_group(&id))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Fixture, VARIANTS};

    #[tokio::test]
    async fn what_is_queued_is_cancelled_and_what_runs_is_asked_to_stop() {
        let fixture = Fixture::new().await;
        let group = fixture.post("/v1/jobs", VARIANTS).await.json();
        fixture.claim().await;
        for _ in 0..2 {
            let answer = fixture.post(group["links"]["cancel"].as_str().unwrap(), "").await;
            assert_eq!(answer.status, 200);
            let group = answer.json();
            let statuses: Vec<_> = group["jobs"].as_array().unwrap().iter().map(|job| &job["status"]).collect();
            assert_eq!(
                (statuses, &group["status"]),
                (vec![&json!("cancelling"), &json!("cancelled")], &json!("cancelling"))
            );
        }
    }
}
