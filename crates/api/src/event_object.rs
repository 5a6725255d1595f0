//! An event as clients see it.

use jobs::{Event, EventKind, Level};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::timestamp::rfc3339;
use crate::words::{EventLevel, EventType};

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventObject {
    /// Numbered per job from 1, without gaps.
    #[schema(example = "1")]
    pub(crate) id: String,
    /// Always `job.event`.
    object: &'static str,
    job_id: String,
    #[serde(rename = "type")]
    #[schema(value_type = EventType, example = "queued")]
    pub(crate) kind: EventKind,
    #[schema(value_type = EventLevel, example = "info")]
    level: Level,
    #[schema(format = DateTime)]
    created_at: String,
    message: String,
    #[schema(value_type = Object)]
    data: Value,
}

impl From<Event> for EventObject {
    fn from(event: Event) -> Self {
        let Event { job_id, seq, kind, level, message, data, created_at } = event;
        Self {
            id: seq.to_string(),
            object: "job.event",
            job_id: job_id.into(),
            kind,
            level,
            created_at: rfc3339(created_at),
            message,
            data,
        }
    }
}
