//! `GET /version`.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::AnyProblem;

#[derive(Serialize, ToSchema)]
pub(crate) struct Version {
    #[schema(example = "amalgam")]
    name: &'static str,
    version: &'static str,
    /// Part of the identity of a plan.
    engine: &'static str,
}

/// Which version answers
#[utoipa::path(
    get,
    path = "/version",
    tag = "server",
    responses((status = 200, description = "The version", body = Version), AnyProblem)
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { name: "amalgam", version: env!("CARGO_PKG_VERSION"), engine: engine::VERSION })
}
