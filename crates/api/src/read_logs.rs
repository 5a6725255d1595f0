//! `GET /v1/jobs/{id}/logs`: the events of a job as lines of text, for people and for `grep`.
//!
//! Invariants: an event is one line, whatever its message holds; a client that is slow holds nothing but the lines of one read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use jobs::{Event, Job, JobId};
use serde_json::Value;

use crate::Api;
use crate::caller::Caller;
use crate::get_job::find;
use crate::limits::TAIL_MAX;
use crate::live::{Subject, Subscription};
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::timestamp::rfc3339;

/// Events read at once.
const EVENTS_MAX: u32 = 100;
/// How often a silent job is looked at all the same, since it can be deleted.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const FORGOTTEN: &str = "# earlier events are no longer kept\n";

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Read or follow the log of a job as text
///
/// A line for each event, oldest first: its time, level, type and message, then what it carries as `key=value`. What could break
/// a line or a terminal is escaped. With `follow=true` the answer goes on until the job is over, and counts as an event stream.
/// Where earlier events are no longer kept the first line says so, behind a `#`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/logs",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("tail" = Option<u32>, Query, description = "Only so many of the newest events, 1 to 1000"),
        ("follow" = Option<bool>, Query, description = "Go on until the job is over"),
    ),
    responses(
        (status = 200, description = "The log", body = String, content_type = "text/plain; charset=utf-8", example = json!("2026-01-31T08:00:00.000Z INFO  queued  queued\n2026-01-31T08:00:01.250Z INFO  started  attempt 1 began attempt=1\n")),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "The key has too many open streams", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn read_logs(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    query: Pairs,
) -> Result<Response> {
    query.only(&["tail", "follow"])?;
    let tail = tail(&query)?;
    let follows = query.flag("follow")?.unwrap_or(false);
    let job = find(&api.store, &caller, &id).await?;
    let subscription = match follows && !job.status.is_terminal() {
        true => Some(api.live.subscribe(&caller, Subject::Job(job.id.clone())).await?),
        false => None,
    };
    let after = tail.map_or(0, |tail| (job.last_seq - tail).max(0));
    Ok(respond(Reader::begin(api, subscription, job, after).await?))
}

fn tail(query: &Pairs) -> Result<Option<i64>> {
    match query.parsed::<i64>("tail")? {
        Some(tail) if !(1..=TAIL_MAX).contains(&tail) => {
            let detail = format!("query parameter `tail` is {tail}; it goes from 1 to {TAIL_MAX}");
            Err(Problem::new(Code::InvalidQuery, detail))
        }
        tail => Ok(tail),
    }
}

fn respond(reader: Reader) -> Response {
    let lines = stream::unfold(reader, |mut reader| async move {
        let lines = reader.next().await?;
        Some((Ok::<_, Infallible>(lines), reader))
    });
    let mut response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // a browser shall not find a page in what a message holds
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

struct Reader {
    api: Api,
    /// Of a job that is followed.
    subscription: Option<Subscription>,
    id: JobId,
    /// The newest event that is told.
    cursor: i64,
    /// Where a log ends that is not followed.
    last: i64,
    pending: VecDeque<Bytes>,
    ended: bool,
}

impl Reader {
    /// The first read is made at once, so that a database that is away is an error and no empty log.
    async fn begin(api: Api, subscription: Option<Subscription>, job: Job, after: i64) -> Result<Self> {
        let (id, last) = (job.id, job.last_seq);
        let mut reader = Self { api, subscription, id, cursor: after, last, pending: VecDeque::new(), ended: false };
        let is_over = job.status.is_terminal();
        let first = reader.api.store.events(&reader.id, after, EVENTS_MAX).await?;
        let is_gap = first.first().map_or(is_over && after < last, |event| event.seq > after + 1);
        if is_gap {
            reader.pending.push_back(Bytes::from_static(FORGOTTEN.as_bytes()));
        }
        reader.take(first);
        Ok(reader)
    }

    /// `None` ends the log: the job has ended, the key has, the server stops, or the database is away.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let is_ended = self.subscription.as_ref().is_some_and(Subscription::is_ended);
            if self.api.shutdown.is_cancelled() || is_ended {
                return None;
            }
            if let Some(lines) = self.pending.pop_front() {
                return Some(lines);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.read().await {
                tracing::warn!(%error, "log of a job cut: the database does not answer");
                return None;
            }
            if self.pending.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    async fn read(&mut self) -> jobs::Result<()> {
        let events = self.api.store.events(&self.id, self.cursor, EVENTS_MAX).await?;
        // of a job that was deleted meanwhile nothing more will come
        if events.is_empty()
            && self
                .api
                .store
                .job(&self.id)
                .await?
                .is_none_or(|job| job.last_seq <= self.cursor && job.status.is_terminal())
        {
            self.ended = true;
        }
        self.take(events);
        Ok(())
    }

    fn take(&mut self, events: Vec<Event>) {
        let is_full = events.len() == EVENTS_MAX as usize;
        let is_over = events.last().is_some_and(|last| last.kind.is_terminal());
        let mut lines = String::new();
        for event in events {
            self.cursor = event.seq;
            lines.push_str(&line(&event));
        }
        let has_all = self.subscription.is_none() && (!is_full || self.cursor >= self.last);
        self.ended |= is_over || has_all;
        if !lines.is_empty() {
            self.pending.push_back(lines.into());
        }
    }

    async fn wait(&mut self) {
        let Some(subscription) = &mut self.subscription else { return };
        tokio::select! {
            () = subscription.changed() => {}
            () = self.api.shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// `2026-01-31T08:00:00.000Z INFO  started  attempt 1 began attempt=1`.
fn line(event: &Event) -> String {
    let level = event.level.as_str().to_uppercase();
    let mut line = format!("{} {level:<5} {}  ", rfc3339(event.created_at), event.kind.as_str());
    push_plain(&mut line, &event.message);
    for (key, value) in event.data.as_object().into_iter().flatten() {
        line.push(' ');
        push_plain(&mut line, key);
        line.push('=');
        push_plain(&mut line, &value_text(value));
    }
    line.push('\n');
    line
}

/// A text that is one word stands as it is; everything else as JSON.
fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) if is_word(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\'))
}

/// Escapes what would end the line, move a cursor or turn the direction of the text.
fn push_plain(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(line, "\\u{{{:x}}}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

/// Separators of lines, marks of direction and what has no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use futures::StreamExt;
    use jobs::{EventKind, Level, NewEvent, Phase, Retention, Scope};
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, PATIENCE};

    async fn warn(fixture: &Fixture, lease: &jobs::Lease, message: &str, data: Value) {
        let (kind, level, message) = (EventKind::Warning, Level::Warn, message.to_owned());
        fixture.store.record(lease, None, NewEvent { kind, level, message, data }).await.unwrap();
    }

    fn without_times(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_once(' ').expect("a time").1.to_owned()).collect()
    }

    #[tokio::test]
    async fn an_event_is_a_line_and_a_tail_is_the_newest_of_them() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        warn(&fixture, &lease, "look here", json!({"phase": "merging", "bytes": 5, "why": "two words"})).await;
        fixture.succeed(&lease).await;
        let path = format!("/v1/jobs/{id}/logs");
        let whole = fixture.get(&path).await;
        assert_eq!(
            (whole.status, whole.header("content-type"), whole.header("x-content-type-options")),
            (200, "text/plain; charset=utf-8", "nosniff")
        );
        let lines = without_times(&whole.text());
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("INFO  queued  "), "{lines:?}");
        assert_eq!(lines[2], "WARN  warning  look here phase=merging bytes=5 why=\"two words\"");
        let first = whole.text();
        assert!(crate::timestamp::milliseconds(first.split(' ').next().unwrap()).is_some(), "{first}");
        let tail = fixture.get(&format!("{path}?tail=2")).await.text();
        assert_eq!(without_times(&tail), lines[2..]);
        assert_eq!(fixture.get(&format!("{path}?tail=1000&follow=true")).await.text(), whole.text());
        for wrong in ["tail=0", "tail=1001", "tail=-1", "tail=x", "follow=maybe", "after=1"] {
            assert_eq!(fixture.get(&format!("{path}?{wrong}")).await.status, 400, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_log_longer_than_one_read_is_whole() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        for _ in 0..EVENTS_MAX * 2 {
            fixture.record(&lease, Phase::Merging).await;
        }
        let path = format!("/v1/jobs/{id}/logs");
        assert_eq!(fixture.get(&path).await.text().lines().count(), 2 + 2 * EVENTS_MAX as usize);
        assert_eq!(fixture.get(&format!("{path}?tail=150")).await.text().lines().count(), 150);
    }

    #[tokio::test]
    async fn a_job_is_followed_to_its_end() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let response = fixture.respond(Method::GET, &format!("/v1/jobs/{id}/logs?follow=true"), &[], "").await;
        let mut body = response.into_body().into_data_stream();
        let mut next = async || -> Option<String> {
            let chunk = tokio::time::timeout(PATIENCE, body.next()).await.expect("the log goes on or ends")?;
            Some(String::from_utf8(chunk.unwrap().to_vec()).unwrap())
        };
        assert!(next().await.unwrap().contains(" INFO  queued  "));
        let lease = fixture.claim().await;
        assert!(next().await.unwrap().contains(" INFO  started  "));
        fixture.fail(&lease).await;
        assert!(next().await.unwrap().contains(" ERROR failed  the disk is full"));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn a_hostile_message_stays_one_line() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        let hostile = "a\nb\r\n2026-01-31T08:00:00.000Z INFO  succeeded\u{1b}[2J\u{0}\u{2028}\u{202e}x\u{85}";
        warn(&fixture, &lease, hostile, json!({"k\ney": hostile, "deep": {"in\n": ["\n"]}})).await;
        let text = fixture.get(&format!("/v1/jobs/{id}/logs")).await.text();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || is_invisible(c))), "{text:?}");
        let told = "a\\nb\\r\\n2026-01-31T08:00:00.000Z INFO  succeeded\\u{1b}[2J\u{fffd}\\u{2028}\\u{202e}x\\u{85}";
        assert!(text.contains(told), "{text}");
    }

    #[tokio::test]
    async fn a_log_whose_beginning_is_forgotten_says_so() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        fixture.succeed(&lease).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let retention = Retention { events: Some(Duration::from_millis(1)), ..Retention::default() };
        assert!(fixture.store.prune(retention).await.unwrap().events > 0);
        for query in ["", "?tail=1", "?follow=true"] {
            assert_eq!(fixture.get(&format!("/v1/jobs/{id}/logs{query}")).await.text(), FORGOTTEN, "{query}");
        }
    }

    #[tokio::test]
    async fn a_log_that_is_followed_counts_as_a_stream_and_another_tenants_is_not_there() {
        let fixture = Fixture::new().await;
        let (mine, other) =
            (fixture.key("a", &[Scope::JobsRead, Scope::JobsWrite]).await, fixture.key("b", &Scope::ALL).await);
        let id = fixture.submit_as(&mine).await;
        let path = format!("/v1/jobs/{id}/logs?follow=true");
        let ask = async |key: &str| fixture.respond(Method::GET, &path, &[("authorization", key)], "").await;
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(ask(&mine).await);
        }
        assert_eq!(ask(&mine).await.status(), 429);
        open.clear();
        assert_eq!(ask(&mine).await.status(), 200, "those that ended are not counted");
        assert_eq!(ask(&other).await.status(), 404);
    }
}
