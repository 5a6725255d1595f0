//! `GET /v1/webhooks/secret`.

use axum::{Json, extract::State, http::header, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::problem::{AnyProblem, Result};
use crate::query::Pairs;

#[derive(Serialize, ToSchema)]
pub(crate) struct WebhookSecret {
    /// Always `webhook_secret`.
    object: &'static str,
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
}

/// Read the secret of the webhooks of single jobs
///
/// What is sent to the `webhook` of a job is signed by it, whichever of the tenant's jobs it is. Endpoints have secrets of their own.
#[utoipa::path(
    get,
    path = "/v1/webhooks/secret",
    tag = "webhooks",
    responses((status = 200, description = "The tenant's secret", body = WebhookSecret), AnyProblem)
)]
pub(crate) async fn get_secret(State(api): State<Api>, caller: Caller, query: Pairs) -> Result<impl IntoResponse> {
    query.only(&[])?;
    let secret = api.config.webhooks.key.of_tenant(&caller.tenant).reveal();
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(WebhookSecret { object: "webhook_secret", secret })))
}

#[cfg(test)]
mod tests {
    use crate::testing::Fixture;

    #[tokio::test]
    async fn a_tenant_reads_its_secret_as_often_as_it_likes() {
        let fixture = Fixture::new().await;
        let first = fixture.get("/v1/webhooks/secret").await;
        assert_eq!((first.status, first.header("cache-control")), (200, "no-store"));
        assert!(first.json()["secret"].as_str().unwrap().starts_with("whsec_"));
        assert_eq!(fixture.get("/v1/webhooks/secret").await.json(), first.json());
    }
}
