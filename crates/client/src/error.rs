//! What a call can fail with.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::patience::Passing;

/// What the server said no with.
#[derive(Debug, Clone)]
pub struct Refused {
    pub status: u16,
    /// The problem document, or the text where it was none.
    pub problem: Value,
    /// When to ask again, where the server said so in seconds.
    pub retry_after: Option<Duration>,
}

impl Refused {
    /// What was sent before, and not answered, is still being worked on.
    fn is_in_flight(&self) -> bool {
        self.problem["code"] == "idempotency_in_flight"
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{}", told(.0))]
    Refused(Refused),
    #[error("cannot reach {url}: {}", innermost(.source))]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{url} answered with something that is not JSON: {source}")]
    NotJson { url: String, source: serde_json::Error },
    #[error("{url} is not the file that the server told of: its SHA-256 differs")]
    Changed { url: String },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the stream of {0} was cut, and did not come back")]
    StreamLost(String),
}

impl ClientError {
    /// The status that the server refused with.
    pub fn status(&self) -> Option<u16> {
        if let ClientError::Refused(refused) = self { Some(refused.status) } else { None }
    }

    /// Whether the same request may succeed in a moment.
    pub(crate) fn passing(&self) -> Passing {
        match self {
            ClientError::Refused(refused) => match refused.status {
                429 | 503 => Passing::Busy,
                _ if refused.is_in_flight() => Passing::Busy,
                502 | 504 => Passing::Briefly,
                _ => Passing::Never,
            },
            ClientError::Unreachable { source, .. } if nobody_listens(source) => Passing::Connecting,
            // a name that is none, a certificate that is not trusted, a host that says nothing
            ClientError::Unreachable { source, .. } if source.is_connect() || source.is_timeout() => Passing::Never,
            ClientError::Unreachable { .. } => Passing::Briefly,
            ClientError::NotJson { .. }
            | ClientError::Changed { .. }
            | ClientError::Io { .. }
            | ClientError::StreamLost(_) => Passing::Never,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if let ClientError::Refused(refused) = self { refused.retry_after } else { None }
    }
}

pub(crate) async fn refused(response: reqwest::Response) -> ClientError {
    let status = response.status().as_u16();
    let header = response.headers().get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    // a date, as a proxy may say, is as if nothing was said
    let retry_after = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let body = response.text().await.unwrap_or_default();
    let problem = serde_json::from_str(&body).unwrap_or(Value::String(body));
    ClientError::Refused(Refused { status, problem, retry_after })
}

fn nobody_listens(error: &reqwest::Error) -> bool {
    let is_refused = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    error.is_connect() && causes(error).any(is_refused)
}

/// What really went wrong, as "connection refused"; the outer errors only repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let outer: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(outer), |error| error.source())
}

/// The problem as a person reads it: the detail, then each finding with its place.
fn told(refused: &Refused) -> String {
    let text = |key: &str| refused.problem.get(key).and_then(Value::as_str);
    let errors = refused.problem.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if errors.is_empty() {
        let said = text("detail").or(text("title")).or(refused.problem.as_str().filter(|body| !body.is_empty()));
        return said.map_or_else(|| format!("the server answered {}", refused.status), str::to_owned);
    }
    errors.iter().map(line).collect::<Vec<_>>().join("\n  ")
}

fn line(error: &Value) -> String {
    let mut line = String::new();
    if let (Some(row), Some(column)) = (error["line"].as_u64(), error["column"].as_u64()) {
        line += &format!("line {row}, column {column}: ");
    }
    if let Some(pointer) = error["pointer"].as_str().filter(|p| !p.is_empty()) {
        line += &format!("{pointer}: ");
    }
    line + error["detail"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn no(status: u16, problem: Value) -> ClientError {
        ClientError::Refused(Refused { status, problem, retry_after: None })
    }

    #[test]
    fn a_refusal_reads_like_a_compiler() {
        let problem = json!({"detail": "the recipe has 1 problem", "errors": [
            {"pointer": "/models/0", "line": 3, "column": 5, "detail": "no `weight`"}]});
        assert_eq!(no(422, problem).to_string(), "line 3, column 5: /models/0: no `weight`");
        assert_eq!(no(502, json!("")).to_string(), "the server answered 502");
    }

    #[test]
    fn a_submit_that_is_still_worked_on_is_asked_for_again_and_other_conflicts_are_not() {
        let conflict = |code: &str| no(409, json!({ "code": code })).passing();
        assert_eq!(conflict("idempotency_in_flight"), Passing::Busy);
        assert_eq!(conflict("job_finished"), Passing::Never);
    }
}
