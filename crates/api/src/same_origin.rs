//! Keeps web pages away from a server that asks for no key. A page can make a browser send requests here: by a name of its own
//! that resolves to this machine (DNS rebinding; then `Host` is foreign), or across sites (then `Origin` is).

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, Method, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::problem::{Code, Problem, Result};
use crate::{Api, ApiConfig};

pub(crate) async fn same_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    match check(&request, api.config.allowed_hosts.as_deref(), &api.config.allowed_origins) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Tells browsers what pages of the allowed origins may send and read. Of others they learn nothing.
pub(crate) fn cors(config: &ApiConfig) -> CorsLayer {
    let origins = config.allowed_origins.iter().filter_map(|origin| origin.parse().ok());
    let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect::<Vec<_>>();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(named(&[
            "authorization",
            "content-type",
            "idempotency-key",
            "if-none-match",
            "if-range",
            "last-event-id",
            "prefer",
            "range",
            "traceparent",
            "x-request-id",
        ]))
        .expose_headers(named(&[
            "accept-ranges",
            "content-range",
            "etag",
            "idempotent-replayed",
            "location",
            "preference-applied",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "x-request-id",
        ]))
        .max_age(std::time::Duration::from_secs(600))
}

pub(crate) fn check(request: &Request, hosts: Option<&[String]>, origins: &[String]) -> Result<()> {
    let host = host(request);
    if let Some(allowed) = hosts
        && !host.as_ref().is_some_and(|host| is_allowed(host, allowed))
    {
        let detail = "the `Host` of the request is not a name of this server; `--allowed-host` allows more";
        return Err(Problem::new(Code::ForeignHost, detail));
    }
    match request.headers().get(header::ORIGIN) {
        Some(_) if origin(request.headers()) == host && host.is_some() => Ok(()),
        Some(origin) if origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) => Ok(()),
        None => Ok(()),
        Some(_) => Err(Problem::new(
            Code::ForeignOrigin,
            "the `Origin` of the request is not this server; `--allowed-origin` allows more",
        )),
    }
}

/// From the header, or with HTTP/2 from the URI.
fn host(request: &Request) -> Option<Authority> {
    match request.headers().get(header::HOST) {
        Some(host) => host.to_str().ok()?.parse().ok(),
        None => request.uri().authority().cloned(),
    }
}

fn origin(headers: &HeaderMap) -> Option<Authority> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin: Uri = origins.next()?.to_str().ok()?.parse().ok()?;
    // "null" parses as a bare authority; an origin that means a site has a scheme
    origin.scheme()?;
    origins.next().is_none().then(|| origin.authority().cloned())?
}

fn is_allowed(host: &Authority, allowed: &[String]) -> bool {
    let name = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    allowed.iter().any(|allowed| name(allowed) == name(host.host()))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use crate::testing::{Fixture, RECIPE, YAML};

    #[tokio::test]
    async fn a_foreign_host_is_turned_away() {
        let fixture = Fixture::new().await;
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "127.0.0.2", "", "@"] {
            for path in ["/v1/jobs", "/healthz", "/nosuch"] {
                let answer = fixture.send(Method::GET, path, &[("host", host)], "").await;
                assert_eq!(answer.status, 421, "{host} {path}");
            }
        }
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080"] {
            let answer = fixture.send(Method::GET, "/healthz", &[("host", host)], "").await;
            assert_eq!(answer.status, 200, "{host}");
        }
    }

    #[tokio::test]
    async fn a_page_of_an_allowed_origin_may_ask_and_read() {
        let fixture = Fixture::new().await;
        let origin = ("origin", "https://dash.example.org");
        let asks =
            [origin, ("access-control-request-method", "POST"), ("access-control-request-headers", "authorization")];
        let answer = fixture.send(Method::OPTIONS, "/v1/jobs", &asks, "").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, origin.1));
        let answer = fixture.send(Method::POST, "/v1/jobs", &[origin, ("content-type", YAML)], RECIPE).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (201, origin.1));
        let plain = fixture.get("/v1/jobs").await;
        assert_eq!(plain.header("access-control-allow-origin"), "");
        for foreign in
            ["https://dash.example.org.evil.example", "http://dash.example.org", "https://dash.example.org:1"]
        {
            let asks = [("origin", foreign), ("access-control-request-method", "POST")];
            assert_eq!(fixture.send(Method::OPTIONS, "/v1/jobs", &asks, "").await.status, 403, "{foreign}");
            let answer = fixture.send(Method::GET, "/v1/jobs", &[("origin", foreign)], "").await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, ""));
        }
    }

    #[tokio::test]
    async fn a_post_from_another_site_changes_nothing() {
        let fixture = Fixture::new().await;
        for origin in ["http://evil.example", "null", "http://localhost:9999", "localhost:8080", ""] {
            let headers = [("host", "localhost:8080"), ("origin", origin), ("content-type", YAML)];
            let answer = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
            assert_eq!(answer.status, 403, "{origin}");
            assert_eq!(answer.json()["code"], "foreign_origin");
        }
        assert!(fixture.get("/v1/jobs").await.json()["data"].as_array().unwrap().is_empty());
        let headers = [("host", "localhost:8080"), ("origin", "http://localhost:8080"), ("content-type", YAML)];
        assert_eq!(fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.status, 201);
    }
}
