//! `GET /healthz` and `GET /readyz`: whether the process lives, and whether it can do its work.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::{AnyProblem, Result};
use crate::{Api, disk_floor};

#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok" });

/// Whether the process lives
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "server",
    responses((status = 200, description = "It does", body = Health), AnyProblem)
)]
pub(crate) async fn healthz() -> Json<Health> {
    OK
}

/// Whether the server can take jobs
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "server",
    responses((status = 200, description = "The database answers, can be written to and has room, and so has the data directory", body = Health), AnyProblem)
)]
pub(crate) async fn readyz(State(api): State<Api>) -> Result<Json<Health>> {
    disk_floor::is_ready(&api).await?;
    api.store.ready().await?;
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_server_lives_without_its_database_but_is_not_ready() {
        let fixture = Fixture::new().await;
        assert_eq!(fixture.get("/readyz").await.status, 200);
        fixture.store.close().await;
        assert_eq!(fixture.get("/readyz").await.status, 503);
        assert_eq!(fixture.get("/healthz").await.json(), json!({"status": "ok"}));
    }
}
