//! `POST /v1/stream-tickets`: opens one event stream from a browser, whose `EventSource` can send no key. A key itself has no
//! place in a URL, which proxies log and browsers keep.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use jobs::{Ticket, TicketHolder};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::limits::TICKET_SECONDS;
use crate::problem::{AnyProblem, ProblemDocument, Result};
use crate::query::{NoBody, Pairs};
use crate::timestamp::rfc3339;

#[derive(Serialize, ToSchema)]
pub(crate) struct StreamTicket {
    /// Always `stream_ticket`.
    object: &'static str,
    /// For `?ticket=` of an event stream. It opens one.
    #[schema(example = "amt_0190a1b2c3d47e8f90a1b2c3d4e5f6070190a1b2c3d47e8f90a1b2c3d4e5f607")]
    ticket: String,
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Get a ticket for an event stream
///
/// A ticket opens one stream of `GET /v1/events` or `GET /v1/jobs/{id}/events` within 60 seconds, for what its key may read.
#[utoipa::path(
    post,
    path = "/v1/stream-tickets",
    tag = "jobs",
    responses(
        (status = 201, description = "The ticket", body = StreamTicket),
        (status = 400, description = "The query cannot be understood, or there is a body, which should not be", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn create_ticket(
    State(api): State<Api>,
    caller: Caller,
    query: Pairs,
    _: NoBody,
) -> Result<(StatusCode, Json<StreamTicket>)> {
    query.only(&[])?;
    let holder = TicketHolder { tenant: caller.tenant, key: caller.key };
    let Ticket { text, expires_at } = api.store.issue_ticket(&holder, Duration::from_secs(TICKET_SECONDS)).await?;
    let ticket = StreamTicket { object: "stream_ticket", ticket: text, expires_at: rfc3339(expires_at) };
    Ok((StatusCode::CREATED, Json(ticket)))
}
