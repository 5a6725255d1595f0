//! `GET /v1/events`: all that happens to the jobs of a tenant, as a list or as a stream that does not end.

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use jobs::PlacedEvent;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::event_object::EventObject;
use crate::event_stream::{self, Begin};
use crate::live::Subject;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::read_events::{last_event_id, wants_stream};

#[derive(Serialize, ToSchema)]
pub(crate) struct Log {
    /// Always `list`.
    object: &'static str,
    data: Vec<EventObject>,
    has_more: bool,
    /// For `after`: where this ends, also when nothing follows yet.
    #[schema(example = "12")]
    next_cursor: String,
    /// Whether events behind `after` are no longer kept, so that the list may lack some.
    is_pruned: bool,
}

/// Read or follow the events of all jobs
///
/// With `Accept: text/event-stream` the answer is a stream: first `snapshot` with up to 100 jobs that wait or run, then every
/// event of the tenant's jobs with its position as id, and `progress` of running jobs without id. It has no end; one that is
/// cut is resumed by its last id. Where events behind that are no longer kept, `reset` says so, and the stream goes on from a new
/// `snapshot`. Without that header the answer is a list.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "jobs",
    params(
        ("after" = Option<i64>, Query, description = "Only events behind this position; a stream without it begins now, a list with the oldest"),
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20; of the list alone"),
        ("ticket" = Option<String>, Query, description = "Of `POST /v1/stream-tickets`, in place of a key"),
        ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, which it overrides; of the stream alone"),
    ),
    responses(
        (status = 200, description = "The events, oldest first", content(
            (Log = "application/json"),
            (String = "text/event-stream", example = json!("retry: 3000\nid: 41\nevent: snapshot\ndata: {\"object\":\"list\",\"data\":[],\"has_more\":false}\n\nid: 42\nevent: queued\ndata: {\"id\":\"1\",\"job_id\":\"job_...\"}\n\n")),
        )),
        (status = 400, description = "The query or `Last-Event-ID` cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "The key has too many open streams", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn follow_all(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    query: Pairs,
) -> Result<Response> {
    query.only(&["after", "limit", "ticket"])?;
    // said and not needed is no mistake; said wrongly is
    query.limit()?;
    let after = match last_event_id(&headers)? {
        Some(position) => Some(position),
        None => query.parsed::<i64>("after")?,
    };
    if !wants_stream(&headers) {
        return list(&api, &caller, &query).await;
    }
    let subscription = api.live.subscribe(&caller, Subject::Tenant(caller.tenant.clone())).await?;
    // read after the subscription: what comes later is told
    api.store.place_events().await?;
    let ends = api.store.log_ends(&caller.tenant).await?;
    let begin = match after {
        None => Begin::Now,
        Some(position) if !(0..=ends.last).contains(&position) => return Err(unknown_position(position, ends.last)),
        Some(position) if position < ends.pruned => Begin::Anew,
        Some(position) => Begin::Behind(position),
    };
    Ok(event_stream::of_tenant(api, subscription, caller.tenant, begin, ends.last).await?)
}

async fn list(api: &Api, caller: &Caller, query: &Pairs) -> Result<Response> {
    let limit = query.limit()?;
    let after = query.parsed::<i64>("after")?.unwrap_or(0);
    api.store.place_events().await?;
    if after < 0 {
        return Err(Problem::new(Code::InvalidQuery, "query parameter `after` is the position of an event, or 0"));
    }
    let ends = api.store.log_ends(&caller.tenant).await?;
    // one more than asked tells whether there is a next page
    let mut placed = api.store.log_behind(after, Some(&caller.tenant), limit + 1).await?;
    let has_more = placed.len() > limit as usize;
    placed.truncate(limit as usize);
    let next_cursor = placed.last().map_or(after, |last| last.position).to_string();
    let data = placed.into_iter().map(|PlacedEvent { event, .. }| EventObject::from(event)).collect();
    let is_pruned = after < ends.pruned;
    Ok(Json(Log { object: "list", data, has_more, next_cursor, is_pruned }).into_response())
}

fn unknown_position(position: i64, last: i64) -> Problem {
    Problem::new(Code::InvalidQuery, format!("no event has the position {position}; the newest has {last}"))
}
