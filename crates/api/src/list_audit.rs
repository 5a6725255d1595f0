//! `GET /v1/audit`: who changed what, newest first, a page at a time.

use axum::{Json, extract::State};
use jobs::{Action, AuditCursor, AuditEntry, AuditFilter, AuditPage};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::timestamp::rfc3339;

#[derive(Serialize, ToSchema)]
pub(crate) struct AuditList {
    /// Always `list`.
    object: &'static str,
    data: Vec<AuditObject>,
    has_more: bool,
    /// For `after`, to read on; null on the last page.
    #[schema(required)]
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct AuditObject {
    #[schema(example = "aud_0190a1b2c3d47e8f90a1b2c3d4e5f607")]
    id: String,
    /// Always `audit_entry`.
    object: &'static str,
    #[schema(format = DateTime)]
    at: String,
    /// The id of the key that asked for it; `cli` for the command line; empty where no keys were asked for.
    actor: String,
    #[schema(example = "job.cancelled")]
    action: String,
    /// The id of what was changed; of a retry, that of the job it made.
    subject: String,
    /// Where the connection came from: behind a proxy, the proxy. Empty for the command line.
    from_address: String,
    request_id: String,
}

impl From<AuditEntry> for AuditObject {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            object: "audit_entry",
            at: rfc3339(entry.at),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            from_address: entry.from_address,
            request_id: entry.request_id,
        }
    }
}

/// Who changed what, newest first
///
/// Every change that a key of the tenant made, or that was made to a key of the tenant.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "server",
    params(
        ("action" = Option<String>, Query, description = "Only changes of this kind, as `job.cancelled`"),
        ("subject" = Option<String>, Query, description = "Only changes of what has this id"),
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20"),
        ("after" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of the audit log", body = AuditList),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn list_audit(State(api): State<Api>, caller: Caller, query: Pairs) -> Result<Json<AuditList>> {
    query.only(&["action", "subject", "limit", "after"])?;
    let filter = AuditFilter {
        tenant: caller.tenant,
        action: query.parsed::<Action>("action")?,
        subject: subject(&query)?,
        after: query.parsed::<AuditCursor>("after")?,
        limit: query.limit()?,
    };
    let AuditPage { entries, next } = api.store.audit(&filter).await?;
    Ok(Json(AuditList {
        object: "list",
        data: entries.into_iter().map(AuditObject::from).collect(),
        has_more: next.is_some(),
        next_cursor: next.map(|cursor| cursor.encode()),
    }))
}

fn subject(query: &Pairs) -> Result<Option<String>> {
    match query.parsed::<String>("subject")? {
        // Postgres has no text with a NUL in it
        Some(subject) if subject.contains('\0') => {
            Err(Problem::new(Code::InvalidQuery, "query parameter `subject` is no id"))
        }
        subject => Ok(subject),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use jobs::{NewKey, Scope, WorkerId};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Answer, Fixture, RECIPE, VARIANTS, YAML, a_delivery, assert_documented, changing_routes};

    /// A key of every scope, with its id.
    async fn key(fixture: &Fixture, tenant: &str) -> (String, String) {
        let (name, scopes) = ("test".to_owned(), Scope::ALL.into());
        let new = NewKey { name, tenant: tenant.to_owned(), scopes, expires_at: None, adopts: false };
        let (key, secret) = fixture.store.create_key(new).await.unwrap();
        (key.id, format!("Bearer {}", secret.reveal()))
    }

    async fn log(fixture: &Fixture, key: &str, query: &str) -> Vec<Value> {
        let answer =
            fixture.send(Method::GET, &format!("/v1/audit?limit=100{query}"), &[("authorization", key)], "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"].as_array().unwrap().clone()
    }

    /// The id that a route is asked with, the body, and the action that is to be told; none for what changes nothing.
    async fn prepared(fixture: &Fixture, key: &str, path: &str) -> (String, &'static str, Option<&'static str>) {
        let submit = async |body: &str| {
            let answer =
                fixture.send(Method::POST, "/v1/jobs", &[("authorization", key), ("content-type", YAML)], body).await;
            answer.json()["id"].as_str().unwrap().to_owned()
        };
        let over = async || {
            let id = submit(RECIPE).await;
            fixture.send(Method::POST, &format!("/v1/jobs/{id}/cancel"), &[("authorization", key)], "").await;
            id
        };
        match path {
            "POST /v1/jobs" => (String::new(), RECIPE, Some("job.created")),
            "POST /v1/plans" => (String::new(), RECIPE, None),
            "POST /v1/jobs/{id}/cancel" => (submit(RECIPE).await, "", Some("job.cancelled")),
            "POST /v1/jobs/{id}/retry" => (over().await, "", Some("job.retried")),
            "DELETE /v1/jobs/{id}" => (over().await, "", Some("job.deleted")),
            "POST /v1/groups/{id}/cancel" => (submit(VARIANTS).await, "", Some("group.cancelled")),
            "POST /v1/workers/{id}/drain" => {
                let worker = WorkerId::generate("node");
                fixture.store.report_worker(&worker, &json!({})).await.unwrap();
                (worker.to_string(), "", Some("worker.drained"))
            }
            "POST /v1/queue/pause" => (String::new(), "", Some("queue.paused")),
            "POST /v1/queue/resume" => {
                fixture.send(Method::POST, "/v1/queue/pause", &[("authorization", key)], "").await;
                (String::new(), "", Some("queue.resumed"))
            }
            "POST /v1/webhooks" => (String::new(), r#"{"url": "https://example.org/"}"#, Some("webhook.created")),
            "DELETE /v1/webhooks/{id}" => (a_delivery(fixture, key).await.0, "", Some("webhook.deleted")),
            "POST /v1/webhooks/{id}/rotate" => (a_delivery(fixture, key).await.0, "", Some("webhook.rotated")),
            "POST /v1/deliveries/{id}/redeliver" => {
                (a_delivery(fixture, key).await.1, "", Some("delivery.redelivered"))
            }
            // it opens nothing that its key does not
            "POST /v1/stream-tickets" => (String::new(), "", None),
            other => panic!("say here how {other} is asked and what it leaves in the audit log"),
        }
    }

    #[tokio::test]
    async fn every_route_that_changes_something_leaves_one_entry_and_a_refused_one_none() {
        let fixture = Fixture::new().await;
        let (id, mine) = key(&fixture, "a").await;
        let (_, other) = key(&fixture, "b").await;
        for (method, path) in changing_routes() {
            let route = format!("{method} {path}");
            let (subject, body, action) = prepared(&fixture, &mine, &route).await;
            let known = log(&fixture, &mine, "").await.len();
            let ask = async |key: &str, subject: &str| -> Answer {
                let content_type = if body.starts_with('{') { "application/json" } else { YAML };
                let headers = [("authorization", key), ("content-type", content_type), ("x-request-id", "request-9")];
                fixture.send(method.clone(), &path.replace("{id}", subject), &headers, body).await
            };
            // without a key, of another tenant, of what is not there
            assert_eq!(ask("", &subject).await.status, 401, "{route}");
            if path.contains("{id}") {
                assert_eq!(ask(&mine, "nobody").await.status, 404, "{route}");
            }
            if path.contains("jobs/{id}") || path.contains("groups/{id}") {
                assert_eq!(ask(&other, &subject).await.status, 404, "{route}");
            }
            assert_eq!(log(&fixture, &mine, "").await.len(), known, "{route} was refused");
            let answer = ask(&mine, &subject).await;
            assert!(answer.status < 300, "{route}: {}", answer.text());
            let entries = log(&fixture, &mine, "").await;
            assert_eq!(entries.len(), known + usize::from(action.is_some()), "{route}");
            let Some(action) = action else { continue };
            let entry = &entries[0];
            assert_documented::<AuditObject>(entry);
            assert_eq!(
                (&entry["action"], &entry["actor"], &entry["from_address"], &entry["request_id"]),
                (&json!(action), &json!(id), &json!("192.0.2.7"), &json!("request-9")),
                "{route}"
            );
            let changed = match path.as_str() {
                "/v1/jobs" | "/v1/jobs/{id}/retry" | "/v1/webhooks" => answer.json()["id"].clone(),
                path if path.contains("queue") => json!("default"),
                _ => json!(subject),
            };
            assert_eq!(entry["subject"], changed, "{route}");
        }
        assert!(log(&fixture, &other, "").await.is_empty(), "another tenant's changes are not there");
    }

    #[tokio::test]
    async fn the_log_is_paged_and_filtered() {
        let fixture = Fixture::new().await;
        let (_, key) = key(&fixture, "a").await;
        let headers = [("authorization", key.as_str()), ("content-type", YAML)];
        for _ in 0..3 {
            fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
        }
        fixture.send(Method::POST, "/v1/jobs", &headers, VARIANTS).await;
        let all = log(&fixture, &key, "").await;
        assert_eq!((all.len(), &all[0]["action"]), (4, &json!("group.created")));
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/audit?limit=3{after}");
            let page = fixture.send(Method::GET, &path, &headers, "").await.json();
            seen.extend(page["data"].as_array().unwrap().clone());
            assert_eq!(page["has_more"], !page["next_cursor"].is_null());
            let Some(next) = page["next_cursor"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(seen, all);
        assert_eq!(log(&fixture, &key, "&action=job.created").await, all[1..]);
        let subject = all[2]["subject"].as_str().unwrap();
        assert_eq!(log(&fixture, &key, &format!("&subject={subject}")).await, all[2..3]);
        for wrong in ["action=job.eaten", "subject=%00", "after=1", "limit=0", "nothing=1"] {
            let answer = fixture.send(Method::GET, &format!("/v1/audit?{wrong}"), &headers, "").await;
            assert_eq!(answer.status, 400, "{wrong}");
        }
    }
}
