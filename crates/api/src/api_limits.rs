//! What the operator allows, beside what [`crate::limits`] fixes.

use jobs::QueueLimits;

/// The limits of a server that are settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Of a request.
    pub body_bytes_max: usize,
    /// Requests of one API key.
    pub requests_per_minute_max: u32,
    /// Those of them that plan a recipe: submits, plans and retries.
    pub submits_per_minute_max: u32,
    /// Jobs that wait for a worker.
    pub queue: QueueLimits,
    /// Of the disk of the data directory: with less left no job is accepted.
    pub disk_floor_bytes: u64,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            requests_per_minute_max: 1200,
            submits_per_minute_max: 60,
            queue: QueueLimits { queued_max: 100_000, queued_per_owner_max: 1000 },
            disk_floor_bytes: 1 << 30,
        }
    }
}
