//! Every route on one page, and the layers around them.

use std::any::Any;

use axum::{Router, extract::DefaultBodyLimit, middleware, response::IntoResponse, response::Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::body_limit::tell_body_limit;
use crate::caller::{authenticate, permit};
use crate::measure::measure;
use crate::openapi::{self, Document};
use crate::problem::Problem;
use crate::rate_limit::rate_limit;
use crate::request_id::request_id;
use crate::same_origin::{cors, same_origin};
use crate::slow_body::slow_body;
use crate::webhooks::{deliveries, endpoints, secret};
use crate::{
    Api, artifacts, cancel_group, cancel_job, create_job, create_plan, delete_job, follow_all, get_group, get_job,
    health, index, list_audit, list_jobs, list_methods, queue, read_events, read_logs, retry_job, show_docs,
    stream_tickets, version, workers,
};

pub fn router(api: Api) -> Router {
    let (router, _) = routes().split_for_parts();
    with_layers(router, api)
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(create_job::create_job, list_jobs::list_jobs))
        .routes(routes!(get_job::get_job, delete_job::delete_job))
        .routes(routes!(cancel_job::cancel_job))
        .routes(routes!(retry_job::retry_job))
        .routes(routes!(read_events::read_events))
        .routes(routes!(read_logs::read_logs))
        .routes(routes!(follow_all::follow_all))
        .routes(routes!(stream_tickets::create_ticket))
        .routes(routes!(artifacts::list_artifacts))
        .routes(routes!(artifacts::get_artifact))
        .routes(routes!(get_group::get_group))
        .routes(routes!(cancel_group::cancel_group))
        .routes(routes!(create_plan::create_plan))
        .routes(routes!(endpoints::create_webhook, endpoints::list_webhooks))
        .routes(routes!(endpoints::get_webhook, endpoints::delete_webhook))
        .routes(routes!(endpoints::rotate_webhook))
        .routes(routes!(secret::get_secret))
        .routes(routes!(deliveries::list_deliveries_of_webhook))
        .routes(routes!(deliveries::list_deliveries_of_job))
        .routes(routes!(deliveries::redeliver))
        .routes(routes!(list_methods::list_methods))
        .routes(routes!(workers::list_workers))
        .routes(routes!(workers::drain_worker))
        .routes(routes!(queue::get_queue))
        .routes(routes!(queue::pause_queue))
        .routes(routes!(queue::resume_queue))
        .routes(routes!(list_audit::list_audit))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(version::version))
        .routes(routes!(openapi::openapi))
        .routes(routes!(show_docs::show_docs))
        .routes(routes!(index::index))
}

/// From the inside out: what is outermost gives every error its document.
fn with_layers(router: Router<Api>, api: Api) -> Router {
    router
        .layer(DefaultBodyLimit::max(api.config.limits.body_bytes_max))
        .layer(middleware::from_fn_with_state(api.clone(), slow_body))
        .layer(middleware::from_fn_with_state(api.clone(), tell_body_limit))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(permit))
        .layer(middleware::from_fn_with_state(api.clone(), rate_limit))
        .layer(middleware::from_fn_with_state(api.clone(), authenticate))
        .layer(cors(&api.config))
        .layer(middleware::from_fn_with_state(api.clone(), same_origin))
        .layer(middleware::from_fn_with_state(api.clone(), measure))
        .layer(middleware::from_fn(request_id))
        .with_state(api)
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    tracing::error!(message = message.unwrap_or("unknown"), "a handler panicked");
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request, routing::get};
    use tower::ServiceExt;

    use tokio::net::TcpListener;

    use super::*;
    use crate::serve;
    use crate::testing::{Answer, Fixture};

    #[tokio::test]
    async fn a_panic_is_a_problem_without_its_message() {
        let fixture = Fixture::new().await;
        let panics = Router::new().route("/", get(async || -> &'static str { panic!("a secret") }));
        let request = Request::get("/").header("host", "localhost").body(Body::empty()).unwrap();
        let answer = Answer::of(with_layers(panics, fixture.api()).oneshot(request).await.unwrap()).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (500, Some("internal")));
        assert!(!answer.text().contains("secret"));
    }

    #[tokio::test]
    async fn a_server_that_is_told_to_stop_returns() {
        let fixture = Fixture::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served = tokio::spawn(serve(listener, fixture.api()));
        fixture.shutdown.cancel();
        served.await.unwrap().unwrap();
    }
}
