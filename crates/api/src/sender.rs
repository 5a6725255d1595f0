//! Where a request comes from, and where it stands in a trace: for the audit log and for the job that it makes.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderName};
use jobs::Origin;

use crate::request_id::RequestId;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What is to be told of the sender of a request. Headers of proxies are not believed: anybody may write them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sender {
    /// Empty where the connection does not tell.
    pub(crate) address: String,
    pub(crate) request_id: String,
    pub(crate) traceparent: Option<String>,
}

impl Sender {
    pub(crate) fn of(request: &Request) -> Self {
        let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let id = request.extensions().get::<RequestId>();
        Self {
            address: connection.map(|from| from.0.ip().to_canonical().to_string()).unwrap_or_default(),
            request_id: id.map(|id| id.0.clone()).unwrap_or_default(),
            traceparent: traceparent(request.headers()),
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        let request_id = (!self.request_id.is_empty()).then(|| self.request_id.clone());
        Origin { request_id, traceparent: self.traceparent.clone() }
    }
}

/// As W3C Trace Context says, of which one that is wrong is as good as none. What later versions add is left away, and what is
/// kept is of version 0.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (Some(only), None) = (all.next(), all.next()) else { return None };
    let text = only.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, chars: usize| {
        part.len() == chars && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_told = |id: &str| id.bytes().any(|b| b != b'0');
    let is_whole = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_known = version != "ff" && (version != "00" || parts.next().is_none());
    (is_whole && is_known && is_told(trace) && is_told(parent)).then(|| format!("00-{trace}-{parent}-{flags}"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::testing::{Fixture, RECIPE, YAML};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        traceparent(&headers)
    }

    #[test]
    fn a_traceparent_is_taken_only_when_it_is_right() {
        let right = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(read(&[&right]), Some(right.clone()));
        // a later version may go on, and is read as this one
        assert_eq!(read(&[&format!("cc{}-more", &right[2..])]), Some(right.clone()));
        let zero = "0".repeat(32);
        for wrong in [
            "",
            "00",
            &right[1..],
            &right.to_uppercase(),
            &format!("{right}-more"),
            &format!("ff{}", &right[2..]),
            &right.replace(TRACE, &zero),
            &right.replace("00f067aa0ba902b7", "0000000000000000"),
            &right.replace('f', "g"),
            &format!("{right} "),
        ] {
            assert_eq!(read(&[wrong]), None, "{wrong:?}");
        }
        assert_eq!(read(&[&right, &right]), None);
    }

    #[tokio::test]
    async fn a_job_keeps_the_request_and_the_trace_that_it_came_with() {
        let fixture = Fixture::new().await;
        let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        for (sent, kept) in [(traceparent.as_str(), Some(traceparent.clone())), ("nonsense", None)] {
            let headers = [("content-type", YAML), ("x-request-id", "request-7"), ("traceparent", sent)];
            let answer = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
            assert_eq!(answer.status, 201);
            let id = answer.json()["id"].as_str().unwrap().parse().unwrap();
            let origin = fixture.store.job(&id).await.unwrap().unwrap().origin;
            assert_eq!((origin.request_id.as_deref(), &origin.traceparent), (Some("request-7"), &kept));
            assert_eq!(origin.trace_id(), kept.is_some().then_some(TRACE));
        }
    }
}
