//! The HTTP edge: a posted recipe becomes a job, and a job becomes JSON and event streams.
//!
//! Invariants: workers are reached through the database alone; whatever headers can tell of a recipe is told before a job
//! exists; every error is a problem document, and none of them holds what belongs in the log.

mod answered_codes;
mod api;
mod api_limits;
mod artifacts;
mod body_limit;
mod caller;
mod cancel_group;
mod cancel_job;
mod contract;
mod contract_page;
mod create_job;
mod create_plan;
mod delete_job;
mod disk_floor;
#[cfg(test)]
mod documented_bodies;
mod etag;
mod event_object;
mod event_stream;
mod fields;
mod follow_all;
mod frame;
mod get_group;
mod get_job;
mod group_object;
mod health;
mod in_flight;
mod index;
mod job_object;
mod list_audit;
mod list_jobs;
mod list_methods;
mod live;
mod measure;
mod merge_request;
mod metrics;
mod openapi;
mod planning;
#[cfg(test)]
mod planted;
mod posted_recipe;
mod problem;
mod query;
mod queue;
mod rate_limit;
mod read_events;
mod read_logs;
#[cfg(test)]
mod recipe_limits;
#[cfg(test)]
mod refusals;
mod remove_artifact;
mod request_id;
mod retry_job;
mod router;
mod same_origin;
mod secrets;
mod sender;
mod serve;
mod show_docs;
mod slow_body;
mod stream_tickets;
#[cfg(test)]
mod testing;
mod timestamp;
mod version;
mod wait;
mod webhooks;
mod words;
mod workers;

pub use api::{Api, ApiConfig, ConnectionLimits, StreamLimits};
pub use api_limits::ApiLimits;
pub use metrics::{Metrics, serve_metrics};
pub use openapi::openapi_yaml;
pub use router::router;
pub use serve::serve;

/// Named limits of a request that are no settings.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Seconds that an answer is held by `Prefer: wait`.
    pub const WAIT_SECONDS_MAX: u64 = 60;
    /// Items of one page.
    pub const PAGE_MAX: u32 = 100;
    /// Lines of the end of a log.
    pub const TAIL_MAX: i64 = 1000;
    /// Items of one page where the query does not say.
    pub const PAGE_DEFAULT: u32 = 20;
    /// Pairs of `labels`, and of `metadata`.
    pub const PAIRS_MAX: usize = 16;
    /// Characters of a key of these.
    pub const KEY_CHARS_MAX: usize = 64;
    /// Characters of a value of these.
    pub const VALUE_CHARS_MAX: usize = 512;
    pub const ATTEMPTS: RangeInclusive<i64> = 1..=10;
    pub const ATTEMPTS_DEFAULT: i64 = 3;
    pub const PRIORITY: RangeInclusive<i64> = -1000..=1000;
    /// Of `timeout_seconds` and `queue_ttl_seconds`: up to a year.
    pub const SECONDS: RangeInclusive<i64> = 1..=365 * 24 * 3600;
    /// The year 2100, in milliseconds since the epoch: no time that anybody means is later.
    pub const TIME_END: i64 = 4_102_444_800_000;
    /// Open connections of one server; others wait to be accepted.
    pub const CONNECTIONS_MAX: usize = 16_384;
    /// Seconds for the head of a request, and between requests of a connection.
    pub const HEAD_SECONDS_MAX: u64 = 30;
    /// Seconds for the body of a request.
    pub const BODY_SECONDS_MAX: u64 = 30;
    /// Seconds in which a client takes nothing of an answer that waits for it.
    pub const STALL_SECONDS_MAX: u64 = 60;
    /// Bytes of the head of a request.
    pub const HEAD_BYTES_MAX: usize = 64 * 1024;
    /// Open event streams of one server.
    pub const STREAMS_MAX: usize = 10_000;
    /// Open event streams of one API key on one server.
    pub const STREAMS_PER_KEY_MAX: usize = 100;
    /// How long a ticket for a stream is good.
    pub const TICKET_SECONDS: u64 = 60;
    /// Characters of an idempotency key.
    pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
    /// Characters of a request id that a client may choose.
    pub const REQUEST_ID_CHARS_MAX: usize = 64;
    /// Recipes planned at once; others wait. A plan holds the headers of its models in memory.
    pub const PLANS_AT_ONCE_MAX: usize = 4;
}
