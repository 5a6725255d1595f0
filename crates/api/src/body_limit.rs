//! A body that is too large is answered with the limit, which the framework that stops reading does not tell.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::Api;
use crate::problem::{Code, Problem};

pub(crate) async fn tell_body_limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status() != StatusCode::PAYLOAD_TOO_LARGE {
        return response;
    }
    let detail = format!("a body may have {} bytes", api.config.limits.body_bytes_max);
    Problem::new(Code::BodyTooLarge, detail).into_response()
}

#[cfg(test)]
mod tests {
    use crate::ApiLimits;
    use crate::testing::{Fixture, RECIPE, limits};

    #[tokio::test]
    async fn a_body_may_be_as_large_as_the_operator_says() {
        let fixture = Fixture::with_limits(ApiLimits { body_bytes_max: RECIPE.len(), ..limits() }).await;
        for path in ["/v1/jobs", "/v1/plans"] {
            assert!(fixture.post(path, RECIPE).await.status < 300, "{path}");
            let refused = fixture.post(path, &format!("{RECIPE}\n")).await;
            assert_eq!(refused.status, 413);
            assert_eq!(refused.json()["detail"], format!("a body may have {} bytes", RECIPE.len()));
            assert_eq!(refused.json()["code"], "body_too_large");
        }
        assert_eq!(fixture.count().await, 1);
    }
}
