//! The contract, generated from the handlers, and `GET /openapi.yaml`.

use axum::{http::header, response::IntoResponse};
use recipe::to_yaml;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::contract::document;
use crate::problem::AnyProblem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Amalgam",
        description = "Merges language models: post a recipe, follow the job, find the merged model.\n\nEvery error is an `application/problem+json` document, and every answer has an `X-Request-Id`.\n\nOnce there is an API key, every request under `/v1` comes with one; it sees and makes the jobs of its tenant alone. Scopes: `jobs:read`, `jobs:write`, `admin` (workers, the queue, webhooks and the audit log), `worker` (look at workers and drain them), `metrics` (on its own listener). Every answer to a key has `RateLimit-Policy` and `RateLimit`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/")),
    modifiers(&Keys),
    security((), ("key" = [])),
    tags(
        (name = "jobs", description = "Merges, from recipe to publication"),
        (name = "groups", description = "The jobs of one request, one for each variant"),
        (name = "plans", description = "What a merge would do, and what it can do"),
        (name = "webhooks", description = "Who is told what becomes of jobs, and what was sent"),
        (name = "workers", description = "Who runs the jobs, and whether they are begun"),
        (name = "server", description = "The server itself"),
    )
)]
pub(crate) struct Document;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("amk_<id>_<secret>");
        let bearer = bearer.description(Some("An API key, made by `amalgam keys create`.")).build();
        document.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

/// The OpenAPI 3.1 document of the service. The same for every call.
pub fn openapi_yaml() -> String {
    to_yaml(&document())
}

/// The contract of this service
#[utoipa::path(
    get,
    path = "/openapi.yaml",
    tag = "server",
    responses((status = 200, description = "This document", body = Value, content_type = "application/yaml"), AnyProblem)
)]
pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], openapi_yaml())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn committed_openapi_is_current() {
        let path = testkit::workspace().join("openapi.yaml");
        let current = openapi_yaml();
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(&path, &current).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == current, "openapi.yaml is out of date: run UPDATE_OPENAPI=1 cargo test -p api");
    }

    #[test]
    fn the_contract_reads_back_as_generated() {
        let read: Value = serde_yaml::from_str(&openapi_yaml()).unwrap();
        assert_eq!(read, document());
        assert_eq!(read["openapi"], "3.1.0");
    }

    #[test]
    fn every_reference_is_defined() {
        let document = document();
        let mut references = BTreeSet::new();
        collect(&document, &mut references);
        assert!(references.contains("#/components/schemas/ProblemDocument"));
        for reference in references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }

    fn collect(value: &Value, references: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                references.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| collect(value, references));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
