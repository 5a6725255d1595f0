//! Counts answers by the pattern of their route: a path as it was sent would make a label of every id.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use crate::Api;

pub(crate) async fn measure(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (method, route) = (request.method().clone(), request.extensions().get::<MatchedPath>().cloned());
    let began = Instant::now();
    let response = next.run(request).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    api.meter.request_answered(method.as_str(), route, response.status().as_u16(), began.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use crate::testing::{Fixture, RECIPE, YAML, routes};

    #[tokio::test]
    async fn requests_are_counted_by_the_pattern_of_their_route() {
        let fixture = Fixture::new().await;
        for path in ["/v1/jobs/one", "/v1/jobs/two", "/nosuch/three", "/v1/jobs/four%00"] {
            fixture.get(path).await;
        }
        fixture.send(Method::from_bytes(b"BREW").unwrap(), "/v1/jobs", &[], "").await;
        fixture.send(Method::POST, "/v1/jobs", &[("content-type", YAML)], RECIPE).await;
        let text = fixture.meter.text();
        for line in [
            "http_requests_total{method=\"GET\",route=\"/v1/jobs/{id}\",status=\"404\"} 3",
            "http_requests_total{method=\"GET\",route=\"none\",status=\"404\"} 1",
            "http_requests_total{method=\"other\",route=\"/v1/jobs\",status=\"405\"} 1",
            "http_requests_total{method=\"POST\",route=\"/v1/jobs\",status=\"201\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let known: Vec<String> = routes().into_iter().map(|(_, path)| path).chain(["none".to_owned()]).collect();
        for route in text.lines().filter_map(|line| line.split("route=\"").nth(1)?.split('"').next()) {
            assert!(known.iter().any(|known| known == route), "{route}");
        }
    }
}
