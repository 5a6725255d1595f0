//! `GET /`: where to go from here.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::AnyProblem;

#[derive(Serialize, ToSchema)]
pub(crate) struct Index {
    #[schema(example = "amalgam")]
    name: &'static str,
    links: IndexLinks,
}

/// Where to begin; each by its path.
#[derive(Serialize, ToSchema)]
pub(crate) struct IndexLinks {
    jobs: &'static str,
    plans: &'static str,
    methods: &'static str,
    workers: &'static str,
    queue: &'static str,
    events: &'static str,
    webhooks: &'static str,
    audit: &'static str,
    openapi: &'static str,
    docs: &'static str,
    version: &'static str,
    health: &'static str,
    ready: &'static str,
}

const INDEX: Index = Index {
    name: "amalgam",
    links: IndexLinks {
        jobs: "/v1/jobs",
        plans: "/v1/plans",
        methods: "/v1/methods",
        workers: "/v1/workers",
        queue: "/v1/queue",
        events: "/v1/events",
        webhooks: "/v1/webhooks",
        audit: "/v1/audit",
        openapi: "/openapi.yaml",
        docs: "/docs",
        version: "/version",
        health: "/healthz",
        ready: "/readyz",
    },
};

/// What there is
#[utoipa::path(
    get,
    path = "/",
    tag = "server",
    responses((status = 200, description = "The paths to begin with", body = Index), AnyProblem)
)]
pub(crate) async fn index() -> Json<Index> {
    Json(INDEX)
}

#[cfg(test)]
mod tests {
    use super::{Index, IndexLinks};
    use crate::testing::{Fixture, assert_documented};

    #[tokio::test]
    async fn every_link_leads_somewhere() {
        let fixture = Fixture::new().await;
        let index = fixture.get("/").await.json();
        assert_documented::<Index>(&index);
        assert_documented::<IndexLinks>(&index["links"]);
        for (name, path) in index["links"].as_object().unwrap() {
            // plans are only posted
            let expected = if name == "plans" { 405 } else { 200 };
            assert_eq!(fixture.get(path.as_str().unwrap()).await.status, expected, "{name}");
        }
    }
}
