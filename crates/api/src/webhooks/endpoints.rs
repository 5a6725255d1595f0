//! `/v1/webhooks`: the endpoints of a tenant, told of all its jobs.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jobs::{NewWebhook, WEBHOOKS_MAX, Webhook, WebhookId};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{WebhookBody, check, read, words};
use crate::Api;
use crate::caller::Caller;
use crate::merge_request::{invalid, media_type};
use crate::problem::{AnyProblem, Code, Finding, Problem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};
use crate::secrets;
use crate::timestamp::rfc3339;
use crate::words::WebhookEventType;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookObject {
    #[schema(example = "wh_0190a1b2c3d47e8f90a1b2c3d4e5f607")]
    id: String,
    /// Always `webhook`.
    object: &'static str,
    url: String,
    #[schema(value_type = Vec<WebhookEventType>)]
    events: Vec<&'static str>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When its secret was last changed.
    #[schema(required, format = DateTime)]
    rotated_at: Option<String>,
    /// Since when it is told nothing more: it answered 410.
    #[schema(required, format = DateTime)]
    disabled_at: Option<String>,
    links: WebhookLinks,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookLinks {
    #[serde(rename = "self")]
    itself: String,
    deliveries: String,
}

impl From<Webhook> for WebhookObject {
    fn from(webhook: Webhook) -> Self {
        let itself = format!("/v1/webhooks/{}", webhook.id);
        Self {
            id: webhook.id.to_string(),
            object: "webhook",
            url: webhook.url,
            events: words(&webhook.events),
            created_at: rfc3339(webhook.created_at),
            rotated_at: webhook.rotated_at.map(rfc3339),
            disabled_at: webhook.disabled_at.map(rfc3339),
            links: WebhookLinks { deliveries: format!("{itself}/deliveries"), itself },
        }
    }
}

/// An endpoint with its secret, which is in no other answer.
#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookWithSecret {
    #[serde(flatten)]
    webhook: WebhookObject,
    /// What its deliveries are signed by.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
}

impl WebhookWithSecret {
    fn of(api: &Api, webhook: Webhook) -> Response {
        let secret = api.config.webhooks.key.of_endpoint(&webhook.id, webhook.generation).reveal();
        let body = Self { webhook: webhook.into(), secret };
        ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookList {
    /// Always `list`.
    object: &'static str,
    data: Vec<WebhookObject>,
}

/// Make an endpoint
///
/// From now on it is told of all jobs of the tenant, signed by the `secret` in this answer. At most 16.
#[utoipa::path(
    post,
    path = "/v1/webhooks",
    tag = "webhooks",
    request_body(content = WebhookBody, content_type = "application/json"),
    responses(
        (status = 201, description = "The endpoint, with its secret", body = WebhookWithSecret, headers(
            ("Location" = String, description = "The path of the endpoint"),
        )),
        (status = 400, description = "The body or the query cannot be read", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The tenant has as many as it may", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than the server takes, by default 1 MiB", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "The body is no JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Nothing is sent to this address, or an event is unknown", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn create_webhook(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    query: Pairs,
    body: Bytes,
) -> Result<Response> {
    query.only(&[])?;
    let new = posted(&api, caller.tenant.clone(), &headers, &body)?;
    let Some(webhook) = caller.store(&api).create_webhook(new).await? else {
        let detail = format!("there are {WEBHOOKS_MAX} webhooks; delete one first");
        return Err(Problem::new(Code::TooManyWebhooks, detail));
    };
    let location = format!("/v1/webhooks/{}", webhook.id);
    let answer = WebhookWithSecret::of(&api, webhook);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], answer).into_response())
}

fn posted(api: &Api, tenant: String, headers: &HeaderMap, body: &[u8]) -> Result<NewWebhook> {
    if media_type(headers) != "application/json" {
        let detail = "send an object, as {\"url\": \"https://...\"}, with the header `Content-Type: application/json`";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    secrets::refuse_body(body)?;
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::MalformedBody, format!("the body is no JSON: {error}")))?;
    let mut findings = Vec::new();
    if !value.is_object() {
        findings.push(Finding::at("", "invalid_value", "the body is not an object; write {\"url\": \"https://...\"}"));
        return Err(invalid(findings));
    }
    match read(value, "", &mut findings) {
        Some(webhook) if findings.is_empty() => {
            check(api, &webhook, "")?;
            Ok(NewWebhook { tenant, url: webhook.url, events: webhook.events })
        }
        _ => Err(invalid(findings)),
    }
}

/// List endpoints
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    tag = "webhooks",
    responses((status = 200, description = "All of the tenant, oldest first, without their secrets", body = WebhookList), AnyProblem)
)]
pub(crate) async fn list_webhooks(State(api): State<Api>, caller: Caller, query: Pairs) -> Result<Json<WebhookList>> {
    query.only(&[])?;
    let webhooks = api.store.webhooks(&caller.tenant).await?;
    Ok(Json(WebhookList { object: "list", data: webhooks.into_iter().map(WebhookObject::from).collect() }))
}

/// Read an endpoint
#[utoipa::path(
    get,
    path = "/v1/webhooks/{id}",
    tag = "webhooks",
    params(("id" = String, Path, description = "The id of the endpoint")),
    responses(
        (status = 200, description = "The endpoint, without its secret", body = WebhookObject),
        (status = 404, description = "There is no such endpoint", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn get_webhook(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
) -> Result<Json<WebhookObject>> {
    query.only(&[])?;
    Ok(Json(find(&api, &caller, &id).await?.into()))
}

/// Forget an endpoint
///
/// It is told nothing more. What it was told stays in the logs of the jobs.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/{id}",
    tag = "webhooks",
    params(("id" = String, Path, description = "The id of the endpoint")),
    responses(
        (status = 204, description = "The endpoint is forgotten"),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such endpoint", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn delete_webhook(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<StatusCode> {
    query.only(&[])?;
    let known = WebhookId::parse(&id).map_err(|_| Problem::no_webhook(&id))?;
    match caller.store(&api).delete_webhook(&caller.tenant, &known).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::no_webhook(&id)),
    }
}

/// Change the secret of an endpoint
///
/// For a day what it is sent is signed by both, the new secret and the one before.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/rotate",
    tag = "webhooks",
    params(("id" = String, Path, description = "The id of the endpoint")),
    responses(
        (status = 200, description = "The endpoint, with its new secret", body = WebhookWithSecret),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such endpoint", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn rotate_webhook(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
    _: NoBody,
) -> Result<Response> {
    query.only(&[])?;
    let known = WebhookId::parse(&id).map_err(|_| Problem::no_webhook(&id))?;
    let rotated = caller.store(&api).rotate_webhook(&caller.tenant, &known).await?;
    Ok(WebhookWithSecret::of(&api, rotated.ok_or_else(|| Problem::no_webhook(&id))?))
}

/// What is no id names no endpoint either, and another tenant's is none.
pub(super) async fn find(api: &Api, caller: &Caller, id: &str) -> Result<Webhook> {
    let known = WebhookId::parse(id).map_err(|_| Problem::no_webhook(id))?;
    api.store.webhook(&caller.tenant, &known).await?.ok_or_else(|| Problem::no_webhook(id))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, assert_documented};

    #[tokio::test]
    async fn an_endpoint_is_made_with_a_secret_that_is_shown_once() {
        let fixture = Fixture::new().await;
        let made = fixture.post_json("/v1/webhooks", &json!({"url": "https://example.org/hook?token=a"})).await;
        assert_eq!((made.status, made.header("cache-control")), (201, "no-store"));
        let path = made.header("location").to_owned();
        let made = made.json();
        let secret = made["secret"].as_str().unwrap().to_owned();
        assert!(secret.starts_with("whsec_"));
        assert_eq!(made["events"], json!(["job.started", "job.succeeded", "job.failed", "job.cancelled"]));
        let read = fixture.get(&path).await;
        assert_documented::<WebhookObject>(&read.json());
        let list = fixture.get("/v1/webhooks").await;
        assert_eq!(list.json()["data"], json!([read.json()]));
        assert!(!read.text().contains("whsec_") && !list.text().contains("whsec_"));
        let rotated = fixture.post(&format!("{path}/rotate"), "").await.json();
        assert_ne!(rotated["secret"].as_str().unwrap(), secret);
        assert!(!rotated["rotated_at"].is_null());
        assert_eq!(fixture.send(Method::DELETE, &path, &[], "").await.status, 204);
        for (method, path) in [(Method::DELETE, path.clone()), (Method::GET, path.clone())] {
            assert_eq!(fixture.send(method, &path, &[], "").await.json()["code"], "webhook_not_found");
        }
    }

    #[tokio::test]
    async fn what_is_no_address_for_webhooks_is_refused_with_its_place() {
        let fixture = Fixture::new().await;
        for (body, pointer, code) in [
            (json!({"url": "http://example.org/"}), "/url", "refused_url"),
            (json!({"url": "https://user:hunter2@example.org/"}), "/url", "refused_url"),
            (json!({"url": "https://127.0.0.1/"}), "/url", "refused_url"),
            (json!({"url": "https://2130706433/"}), "/url", "refused_url"),
            (json!({"url": "https://[::ffff:169.254.169.254]/"}), "/url", "refused_url"),
            (json!({"url": 1}), "/url", "missing"),
            (json!({}), "/url", "missing"),
            (json!({"url": "https://example.org/", "events": ["job.done"]}), "/events", "invalid_value"),
            (json!({"url": "https://example.org/", "events": []}), "/events", "invalid_value"),
            (json!({"url": "https://example.org/", "secret": "mine"}), "/secret", "unknown_key"),
            (json!("https://example.org/"), "", "invalid_value"),
        ] {
            let answer = fixture.post_json("/v1/webhooks", &body).await;
            let error = answer.json()["errors"][0].clone();
            assert_eq!((answer.status, error["pointer"].as_str()), (422, Some(pointer)), "{body}");
            assert_eq!(error["code"], code, "{body}");
            assert!(!answer.text().contains("hunter2"));
        }
        assert_eq!(fixture.post("/v1/webhooks", "url: a").await.status, 415);
        assert_eq!(fixture.get("/v1/webhooks").await.json()["data"], json!([]));
    }

    #[tokio::test]
    async fn there_are_as_many_as_there_may_be() {
        let fixture = Fixture::new().await;
        let body = json!({"url": "https://example.org/", "events": ["job.failed"]});
        for _ in 0..WEBHOOKS_MAX {
            assert_eq!(fixture.post_json("/v1/webhooks", &body).await.status, 201);
        }
        let answer = fixture.post_json("/v1/webhooks", &body).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("too_many_webhooks")));
    }
}
