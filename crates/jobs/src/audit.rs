//! Who changed what: the words of the audit log.
//!
//! Invariant: a change that somebody asked for and its entry are written by one transaction.

use std::str::FromStr;

use serde::Serialize;

use crate::{ParseError, id};

/// Who asks for a change, and from where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// Whose log it is told in.
    pub tenant: String,
    /// The id of the key; empty where no keys are asked for.
    pub name: String,
    /// Empty where it is not known.
    pub from_address: String,
    pub request_id: String,
}

impl Actor {
    /// Whoever works on the database from the command line.
    pub fn cli() -> Self {
        Self { name: "cli".to_owned(), ..Self::default() }
    }
}

/// What somebody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Action {
    #[serde(rename = "job.created")]
    JobCreated,
    #[serde(rename = "job.retried")]
    JobRetried,
    #[serde(rename = "job.cancelled")]
    JobCancelled,
    #[serde(rename = "job.deleted")]
    JobDeleted,
    #[serde(rename = "group.created")]
    GroupCreated,
    #[serde(rename = "group.cancelled")]
    GroupCancelled,
    #[serde(rename = "worker.drained")]
    WorkerDrained,
    #[serde(rename = "queue.paused")]
    QueuePaused,
    #[serde(rename = "queue.resumed")]
    QueueResumed,
    #[serde(rename = "webhook.created")]
    WebhookCreated,
    #[serde(rename = "webhook.deleted")]
    WebhookDeleted,
    #[serde(rename = "webhook.rotated")]
    WebhookRotated,
    #[serde(rename = "delivery.redelivered")]
    DeliveryRedelivered,
    #[serde(rename = "key.created")]
    KeyCreated,
    #[serde(rename = "key.revoked")]
    KeyRevoked,
}

impl Action {
    pub const ALL: [Self; 15] = [
        Self::JobCreated,
        Self::JobRetried,
        Self::JobCancelled,
        Self::JobDeleted,
        Self::GroupCreated,
        Self::GroupCancelled,
        Self::WorkerDrained,
        Self::QueuePaused,
        Self::QueueResumed,
        Self::WebhookCreated,
        Self::WebhookDeleted,
        Self::WebhookRotated,
        Self::DeliveryRedelivered,
        Self::KeyCreated,
        Self::KeyRevoked,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobCreated => "job.created",
            Self::JobRetried => "job.retried",
            Self::JobCancelled => "job.cancelled",
            Self::JobDeleted => "job.deleted",
            Self::GroupCreated => "group.created",
            Self::GroupCancelled => "group.cancelled",
            Self::WorkerDrained => "worker.drained",
            Self::QueuePaused => "queue.paused",
            Self::QueueResumed => "queue.resumed",
            Self::WebhookCreated => "webhook.created",
            Self::WebhookDeleted => "webhook.deleted",
            Self::WebhookRotated => "webhook.rotated",
            Self::DeliveryRedelivered => "delivery.redelivered",
            Self::KeyCreated => "key.created",
            Self::KeyRevoked => "key.revoked",
        }
    }
}

impl FromStr for Action {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == text);
        found.ok_or_else(|| ParseError::of("kind of change", text))
    }
}

/// One change. The time is milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: String,
    pub at: i64,
    pub tenant: String,
    pub actor: String,
    /// Newer versions know more of these than this one.
    pub action: String,
    pub subject: String,
    pub from_address: String,
    pub request_id: String,
}

#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub tenant: String,
    pub action: Option<Action>,
    pub subject: Option<String>,
    /// Only what is behind this place.
    pub after: Option<AuditCursor>,
    pub limit: u32,
}

#[derive(Debug, Clone)]
pub struct AuditPage {
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<AuditCursor>,
}

/// A place in the log: an entry, so that what is added meanwhile shifts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditCursor {
    pub(crate) at: i64,
    pub(crate) id: String,
}

impl AuditCursor {
    /// Opaque to clients: they may only hand it back.
    pub fn encode(&self) -> String {
        format!("{:x}.{}", self.at, self.id)
    }
}

impl FromStr for AuditCursor {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let read = || {
            let (at, id) = text.split_once('.')?;
            let at = i64::from_str_radix(at, 16).ok()?;
            id::is_made_of(id::AUDIT_PREFIX, id).then(|| Self { at, id: id.to_owned() })
        };
        read().ok_or_else(|| ParseError::of("cursor", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_one_spelling() {
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(action));
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
        }
        assert!("job".parse::<Action>().is_err());
    }

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let cursor = AuditCursor { at: 1_700_000_000_000, id: id::new_audit_id() };
        assert_eq!(cursor.encode().parse(), Ok(cursor));
        for wrong in ["", ".", "1.", "x.aud_1", "1.job_0190a1b2c3d47e8f90a1b2c3d4e5f607", "1"] {
            assert!(wrong.parse::<AuditCursor>().is_err(), "{wrong:?}");
        }
    }
}
