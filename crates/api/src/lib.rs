//! The HTTP edge: a posted recipe becomes a job, and a job becomes JSON and event streams.
//!
//! Invariants: workers are reached through the database alone; whatever headers can tell of a recipe is told before a job
//! exists; every error is a problem document, and none of them holds what belongs in the log.

mod api;
mod artifacts;
mod caller;
mod cancel_group;
mod cancel_job;
mod create_job;
mod create_plan;
mod delete_job;
mod etag;
mod event_object;
mod event_stream;
mod get_group;
mod get_job;
mod group_object;
mod health;
mod index;
mod job_object;
mod list_audit;
mod list_jobs;
mod list_methods;
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
mod read_events;
mod request_id;
mod retry_job;
mod router;
mod same_origin;
mod secrets;
mod sender;
#[cfg(test)]
mod testing;
mod timestamp;
mod version;
mod wait;
mod workers;

pub use api::{Api, ApiConfig};
pub use metrics::{Metrics, serve_metrics};
pub use openapi::openapi_yaml;
pub use router::{router, serve};

/// Named limits of a request.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Bytes of a request body.
    pub const BODY_BYTES_MAX: usize = 1024 * 1024;
    /// Seconds that an answer is held by `Prefer: wait`.
    pub const WAIT_SECONDS_MAX: u64 = 60;
    /// Items of one page.
    pub const PAGE_MAX: u32 = 100;
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
    /// Characters of an idempotency key.
    pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
    /// Characters of a request id that a client may choose.
    pub const REQUEST_ID_CHARS_MAX: usize = 64;
    /// Recipes planned at once; others wait. A plan holds the headers of its models in memory.
    pub const PLANS_AT_ONCE_MAX: usize = 4;
}
