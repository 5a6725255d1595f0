//! Keeps web pages away from a server that asks for no key. A page can make a browser send requests here: by a name of its own
//! that resolves to this machine (DNS rebinding; then `Host` is foreign), or across sites (then `Origin` is).

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::Api;
use crate::problem::{Code, Problem, Result};

pub(crate) async fn same_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    match check(&request, api.config.allowed_hosts.as_deref()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

pub(crate) fn check(request: &Request, allowed: Option<&[String]>) -> Result<()> {
    let host = host(request);
    if let Some(allowed) = allowed
        && !host.as_ref().is_some_and(|host| is_allowed(host, allowed))
    {
        let detail = "the `Host` of the request is not a name of this server; `--allowed-host` allows more";
        return Err(Problem::new(Code::ForeignHost, detail));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    match request.headers().get(header::ORIGIN) {
        Some(_) if origin(request.headers()) == host && host.is_some() => Ok(()),
        None => Ok(()),
        Some(_) => Err(Problem::new(Code::ForeignOrigin, "the `Origin` of the request is not this server")),
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
