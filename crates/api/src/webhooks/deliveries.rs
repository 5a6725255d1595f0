//! What was sent to webhooks, and how it went.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jobs::{DeliveriesOf, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, Redelivered};
use serde::Serialize;
use utoipa::ToSchema;

use super::endpoints;
use crate::Api;
use crate::caller::Caller;
use crate::get_job;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};
use crate::timestamp::rfc3339;
use crate::words::WebhookEventType;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryObject {
    /// In the header `webhook-id`, the same in every attempt.
    #[schema(example = "msg_0190a1b2c3d47e8f90a1b2c3d4e5f607")]
    id: String,
    /// Always `delivery`.
    object: &'static str,
    #[serde(rename = "type")]
    #[schema(value_type = WebhookEventType)]
    kind: &'static str,
    job_id: String,
    /// The endpoint; null for the webhook of the job itself.
    #[schema(required)]
    webhook_id: Option<String>,
    status: StatusWord,
    /// Since it was last asked for; at most 10.
    attempts: i64,
    /// While it is pending.
    #[schema(required, format = DateTime)]
    next_attempt_at: Option<String>,
    /// The HTTP status of the latest answer.
    #[schema(required)]
    last_status: Option<i64>,
    /// Why the latest attempt did not go well.
    #[schema(required)]
    last_error: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(required, format = DateTime)]
    delivered_at: Option<String>,
    links: DeliveryLinks,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = DeliveryStatus)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StatusWord {
    /// To be sent, for the first time or again.
    Pending,
    /// Answered with a 2xx.
    Delivered,
    /// Given up.
    Failed,
}

impl From<DeliveryStatus> for StatusWord {
    fn from(status: DeliveryStatus) -> Self {
        match status {
            DeliveryStatus::Pending => Self::Pending,
            DeliveryStatus::Delivered => Self::Delivered,
            DeliveryStatus::Failed => Self::Failed,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryLinks {
    job: String,
    redeliver: String,
}

impl From<Delivery> for DeliveryObject {
    fn from(delivery: Delivery) -> Self {
        let is_pending = delivery.status == DeliveryStatus::Pending;
        Self {
            links: DeliveryLinks {
                job: format!("/v1/jobs/{}", delivery.job),
                redeliver: format!("/v1/deliveries/{}/redeliver", delivery.id),
            },
            id: delivery.id.to_string(),
            object: "delivery",
            kind: delivery.event.as_str(),
            job_id: delivery.job.into(),
            webhook_id: delivery.webhook.map(|id| id.to_string()),
            status: delivery.status.into(),
            attempts: delivery.attempts,
            next_attempt_at: is_pending.then(|| rfc3339(delivery.next_at)),
            last_status: delivery.last_status,
            last_error: delivery.last_error,
            created_at: rfc3339(delivery.created_at),
            delivered_at: delivery.delivered_at.map(rfc3339),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DeliveryList {
    /// Always `list`.
    object: &'static str,
    data: Vec<DeliveryObject>,
    has_more: bool,
    /// For `after`, to read on; null on the last page.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// List what webhooks were told of a job
///
/// Newest first. Forgotten with the job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/deliveries",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20"),
        ("after" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of deliveries", body = DeliveryList),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn list_deliveries_of_job(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
) -> Result<Json<DeliveryList>> {
    let job = get_job::find(&api.store, &caller, &id).await?;
    page(&api, DeliveriesOf::Job(job.id), &query).await
}

/// List what an endpoint was told
///
/// Newest first; of each job as long as there is the job.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{id}/deliveries",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The id of the endpoint"),
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20"),
        ("after" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of deliveries", body = DeliveryList),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such endpoint", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn list_deliveries_of_webhook(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
) -> Result<Json<DeliveryList>> {
    let webhook = endpoints::find(&api, &caller, &id).await?;
    page(&api, DeliveriesOf::Webhook(webhook.id), &query).await
}

async fn page(api: &Api, of: DeliveriesOf, query: &Pairs) -> Result<Json<DeliveryList>> {
    query.only(&["limit", "after"])?;
    let (after, limit) = (query.parsed::<DeliveryId>("after")?, query.limit()?);
    // one more than asked tells whether there is a next page
    let mut found = api.store.deliveries(&DeliveryFilter { of, after, limit: limit + 1 }).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| has_more).map(|last| last.id.to_string());
    let data = found.into_iter().map(DeliveryObject::from).collect();
    Ok(Json(DeliveryList { object: "list", data, has_more, next_cursor }))
}

/// Send a delivery again
///
/// At once, and then by the schedule of a new one, with the same id and body, whatever became of it before.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "The id of the delivery")),
    responses(
        (status = 202, description = "It is to be sent", body = DeliveryObject),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such delivery", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Its endpoint was deleted, or takes nothing more", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn redeliver(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<(StatusCode, Json<DeliveryObject>)> {
    query.only(&[])?;
    let known = DeliveryId::parse(&id).map_err(|_| Problem::no_delivery(&id))?;
    match caller.store(&api).redeliver(&caller.tenant, &known).await? {
        Redelivered::Asked(delivery) => Ok((StatusCode::ACCEPTED, Json(delivery.into()))),
        Redelivered::Unknown => Err(Problem::no_delivery(&id)),
        Redelivered::NoWebhook => {
            let detail = format!("the endpoint of delivery {id} was deleted or takes nothing more; make it anew");
            Err(Problem::new(Code::WebhookGone, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Fixture, RECIPE, assert_documented};

    #[tokio::test]
    async fn what_was_sent_is_listed_by_job_and_by_endpoint_and_sent_again() {
        let fixture = Fixture::new().await;
        let endpoint = fixture.post_json("/v1/webhooks", &json!({"url": "https://example.org/all"})).await;
        let endpoint = endpoint.header("location").to_owned();
        let body =
            json!({"recipe_yaml": RECIPE, "webhook": {"url": "https://example.org/own", "events": ["job.failed"]}});
        let job = fixture.post_json("/v1/jobs", &body).await.json();
        assert_eq!(job["webhook"], json!({"url": "https://example.org/own", "events": ["job.failed"]}));
        let of_job = job["links"]["deliveries"].as_str().unwrap().to_owned();
        assert_eq!(fixture.get(&of_job).await.json()["data"], json!([]));
        let lease = fixture.claim().await;
        fixture.fail(&lease).await;
        let page = fixture.get(&format!("{of_job}?limit=2")).await.json();
        assert_eq!((page["data"].as_array().unwrap().len(), &page["has_more"]), (2, &json!(true)));
        page["data"].as_array().unwrap().iter().for_each(assert_documented::<DeliveryObject>);
        let rest =
            fixture.get(&format!("{of_job}?limit=2&after={}", page["next_cursor"].as_str().unwrap())).await.json();
        assert_eq!((&rest["data"][0]["type"], &rest["has_more"]), (&json!("job.started"), &json!(false)));
        let of_endpoint = fixture.get(&format!("{endpoint}/deliveries")).await.json();
        let types: Vec<&Value> = of_endpoint["data"].as_array().unwrap().iter().map(|it| &it["type"]).collect();
        assert_eq!(types, ["job.failed", "job.started"]);
        let first = &of_endpoint["data"][0];
        assert_eq!((&first["status"], &first["attempts"]), (&json!("pending"), &json!(0)));
        let again = fixture.post(first["links"]["redeliver"].as_str().unwrap(), "").await;
        assert_eq!((again.status, &again.json()["id"]), (202, &first["id"]));
        assert_eq!(fixture.send(Method::DELETE, &endpoint, &[], "").await.status, 204);
        let gone = fixture.post(first["links"]["redeliver"].as_str().unwrap(), "").await;
        assert_eq!((gone.status, gone.json()["code"].as_str()), (409, Some("webhook_gone")));
        let given_up = fixture.get(&of_job).await.json();
        let own = given_up["data"].as_array().unwrap().iter().find(|it| it["webhook_id"].is_null()).unwrap().clone();
        assert_eq!((&own["type"], &own["status"]), (&json!("job.failed"), &json!("pending")));
        for path in ["/v1/deliveries/msg_1/redeliver", "/v1/deliveries/msg_0190a1b2c3d47e8f90a1b2c3d4e5f607/redeliver"]
        {
            assert_eq!(fixture.post(path, "").await.json()["code"], "delivery_not_found");
        }
    }

    #[tokio::test]
    async fn a_job_says_who_is_told_of_it() {
        let fixture = Fixture::new().await;
        let all = json!(["job.started", "job.succeeded", "job.failed", "job.cancelled"]);
        let job = fixture.post("/v1/jobs?webhook=https://example.org/own", RECIPE).await.json();
        assert_eq!(job["webhook"], json!({"url": "https://example.org/own", "events": all}));
        // and so does the one that does it again
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        fixture.post(&format!("{path}/cancel"), "").await;
        assert_eq!(fixture.post(&format!("{path}/retry"), "").await.json()["webhook"], job["webhook"]);
        let silent = fixture.post("/v1/jobs", RECIPE).await.json();
        assert_eq!(silent["webhook"], json!(null));
        let refused = fixture.post("/v1/jobs?webhook=https://10.0.0.1/", RECIPE).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!("/webhook/url")));
        for (webhook, pointer) in [
            (json!({"url": "https://example.org/", "events": "all"}), "/webhook/events"),
            (json!({"uri": "https://example.org/"}), "/webhook/url"),
            (json!(1), "/webhook"),
        ] {
            let refused = fixture.post_json("/v1/jobs", &json!({"recipe_yaml": RECIPE, "webhook": webhook})).await;
            assert_eq!((refused.status, &refused.json()["errors"][0]["pointer"]), (422, &json!(pointer)), "{webhook}");
        }
    }
}
