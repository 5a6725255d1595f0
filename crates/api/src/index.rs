//! `GET /`: where to go from here.

use axum::Json;
use serde_json::{Value, json};

use crate::problem::AnyProblem;

/// What there is
#[utoipa::path(
    get,
    path = "/",
    tag = "server",
    responses((status = 200, description = "The paths to begin with", body = Value), AnyProblem)
)]
pub(crate) async fn index() -> Json<Value> {
    Json(json!({
        "name": "amalgam",
        "links": {
            "jobs": "/v1/jobs", "plans": "/v1/plans", "methods": "/v1/methods", "workers": "/v1/workers",
            "queue": "/v1/queue", "events": "/v1/events", "audit": "/v1/audit", "openapi": "/openapi.yaml", "docs": "/docs",
            "version": "/version", "health": "/healthz", "ready": "/readyz",
        },
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::Fixture;

    #[tokio::test]
    async fn every_link_leads_somewhere() {
        let fixture = Fixture::new().await;
        let index = fixture.get("/").await.json();
        for (name, path) in index["links"].as_object().unwrap() {
            // plans are only posted
            let expected = if name == "plans" { 405 } else { 200 };
            assert_eq!(fixture.get(path.as_str().unwrap()).await.status, expected, "{name}");
        }
    }
}
