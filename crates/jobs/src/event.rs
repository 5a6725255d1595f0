//! Appended facts about a job, numbered per job from 1 without gaps.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::JobId;

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub job_id: JobId,
    pub seq: i64,
    pub kind: EventKind,
    pub level: Level,
    pub message: String,
    pub data: Value,
    /// Milliseconds since the epoch.
    pub created_at: i64,
}

/// An event before it has its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub kind: EventKind,
    pub level: Level,
    pub message: String,
    pub data: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The job was accepted and is durable.
    Queued,
    /// A worker claimed the job and began an attempt.
    Started,
    /// Every source model is at hand, its revision pinned.
    Fetched,
    /// The plan is made: every output tensor, its inputs and its place are known.
    Planned,
    /// Something the user should look at; the job goes on.
    Warning,
    /// Every output tensor is written.
    Merged,
    /// The artifact is at its target.
    Published,
    /// Someone asked to cancel a running job; its worker will stop.
    CancelRequested,
    /// An attempt failed in a way that may pass; the job is queued again.
    RetryScheduled,
    /// Nothing moved for too long, so the attempt is stopped.
    Stalled,
    /// The worker is stopping and gave the job back; the attempt does not count.
    Released,
    /// The worker stopped renewing its lease, so its attempt is over.
    LeaseExpired,
    /// The job ended well.
    Succeeded,
    /// The job ended with an error.
    Failed,
    /// The job ended because someone asked for it.
    Cancelled,
}

impl EventKind {
    pub const ALL: [Self; 15] = [
        Self::Queued,
        Self::Started,
        Self::Fetched,
        Self::Planned,
        Self::Warning,
        Self::Merged,
        Self::Published,
        Self::CancelRequested,
        Self::RetryScheduled,
        Self::Stalled,
        Self::Released,
        Self::LeaseExpired,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
            Self::Fetched => "fetched",
            Self::Planned => "planned",
            Self::Warning => "warning",
            Self::Merged => "merged",
            Self::Published => "published",
            Self::CancelRequested => "cancel_requested",
            Self::RetryScheduled => "retry_scheduled",
            Self::Stalled => "stalled",
            Self::Released => "released",
            Self::LeaseExpired => "lease_expired",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// No event follows a terminal one.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warn, Self::Error];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word;

    #[test]
    fn every_word_reads_back() {
        assert!(EventKind::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
        assert!(Level::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
    }
}
