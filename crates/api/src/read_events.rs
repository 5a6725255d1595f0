//! `GET /v1/jobs/{id}/events`: the log of a job as a list, or as a stream that goes on until the job ends.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use jobs::Job;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::event_object::EventObject;
use crate::event_stream;
use crate::get_job::find;
use crate::live::Subject;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::Pairs;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Serialize, ToSchema)]
pub(crate) struct EventList {
    /// Always `list`.
    object: &'static str,
    data: Vec<EventObject>,
    has_more: bool,
    /// For `after`, to read on; null when nothing follows yet.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Read or follow the events of a job
///
/// With `Accept: text/event-stream` the answer is a stream: first `snapshot` with the job, then every event after
/// `Last-Event-ID` or `after` with its id, between them `progress` without id at most twice a second, and after the last
/// event `end` with the job. A stream that is cut is resumed by its last id; after the end that is answered with 204. Where
/// events before the next are no longer kept, `reset` says so, and a new `snapshot` follows.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("after" = Option<i64>, Query, description = "Only events after this id"),
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20; of the list alone"),
        ("ticket" = Option<String>, Query, description = "Of `POST /v1/stream-tickets`, in place of a key"),
        ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, which it overrides; of the stream alone"),
    ),
    responses(
        (status = 200, description = "The events, oldest first", content(
            (EventList = "application/json"),
            (String = "text/event-stream", example = json!("retry: 3000\nevent: snapshot\ndata: {\"id\":\"job_...\"}\n\nid: 1\nevent: queued\ndata: {\"id\":\"1\"}\n\nevent: end\ndata: {\"id\":\"job_...\"}\n\n")),
        )),
        (status = 204, description = "The job has ended and the client has its whole log: do not reconnect"),
        (status = 400, description = "The query or `Last-Event-ID` cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "The key has too many open streams", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn read_events(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: Pairs,
) -> Result<Response> {
    query.only(&["after", "limit", "ticket"])?;
    let job = find(&api.store, &caller, &id).await?;
    // said and not needed is no mistake; said wrongly is
    query.limit()?;
    let last_event_id = last_event_id(&headers)?;
    if wants_stream(&headers) {
        stream(api, caller, job, last_event_id, &query).await
    } else {
        list(api, job, &query).await
    }
}

pub(crate) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).map(|part| part.split(';').next().unwrap_or_default());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case("text/event-stream"))
}

async fn list(api: Api, job: Job, query: &Pairs) -> Result<Response> {
    let limit = query.limit()?;
    // one more than asked tells whether there is a next page
    let mut events = api.store.events(&job.id, after(query)?, limit + 1).await?;
    let has_more = events.len() > limit as usize;
    events.truncate(limit as usize);
    let next_cursor = events.last().filter(|_| has_more).map(|event| event.seq.to_string());
    let data = events.into_iter().map(EventObject::from).collect();
    Ok(Json(EventList { object: "list", data, has_more, next_cursor }).into_response())
}

async fn stream(api: Api, caller: Caller, job: Job, last_event_id: Option<i64>, query: &Pairs) -> Result<Response> {
    let after = match last_event_id {
        Some(seq) if seq > job.last_seq => return Err(wrong_last_event_id()),
        Some(seq) => seq,
        None => after(query)?,
    };
    if after > job.last_seq {
        return Err(Problem::new(Code::InvalidQuery, "query parameter `after` is not the id of an event of this job"));
    }
    if job.status.is_terminal() && after >= job.last_seq {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let subscription = api.live.subscribe(&caller, Subject::Job(job.id.clone())).await?;
    Ok(event_stream::of_job(api, subscription, job, after))
}

fn after(query: &Pairs) -> Result<i64> {
    let after = query.parsed::<i64>("after")?.unwrap_or(0);
    if after >= 0 {
        return Ok(after);
    }
    Err(Problem::new(Code::InvalidQuery, "query parameter `after` is the id of an event, or 0"))
}

/// Where a client that was cut off goes on.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|seq| *seq >= 0);
    seq.map(Some).ok_or_else(wrong_last_event_id)
}

/// An id that no event has yet cannot have been read from a stream.
fn wrong_last_event_id() -> Problem {
    Problem::new(Code::InvalidHeader, "`Last-Event-ID` is not the id of an event of this stream")
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn lists_of_events_join_to_the_whole_log() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        fixture.succeed(&lease).await;
        let mut kinds = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let page = fixture.get(&format!("/v1/jobs/{id}/events?limit=1&after={after}")).await.json();
            kinds.push(page["data"][0]["type"].as_str().unwrap().to_owned());
            let Some(next) = page["next_cursor"].as_str() else { break };
            after = next.to_owned();
        }
        assert_eq!(kinds, ["queued", "started", "succeeded"]);
    }

    #[tokio::test]
    async fn an_event_has_its_public_shape() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let body = fixture.get(&format!("/v1/jobs/{id}/events")).await.json();
        insta::with_settings!({filters => vec![
            (r"job_[0-9a-f]{32}", "[job]"), (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]"),
        ]}, { insta::assert_json_snapshot!(body) });
    }

    #[tokio::test]
    async fn an_id_that_no_event_has_is_refused() {
        let fixture = Fixture::new().await;
        let path = format!("/v1/jobs/{}/events", fixture.submit().await);
        for id in ["-1", "2", "x", "", "1.0", "99999999999999999999"] {
            let headers = [("accept", "text/event-stream"), ("last-event-id", id)];
            let answer = fixture.send(Method::GET, &path, &headers, "").await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("invalid_header")), "{id:?}");
        }
        assert_eq!(fixture.get(&format!("{path}?after=-1")).await.status, 400);
        let streamed =
            fixture.send(Method::GET, &format!("{path}?after=2"), &[("accept", "text/event-stream")], "").await;
        assert_eq!((streamed.status, streamed.json()["code"].as_str()), (400, Some("invalid_query")));
    }
}
