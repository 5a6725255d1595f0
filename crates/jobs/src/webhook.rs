//! Webhooks: who is told of what becomes of a job, and each telling, which is a delivery.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{EventKind, JobId, ParseError, id::is_made_of};

/// Endpoints that a tenant may have: each event is written once for each of them.
pub const WEBHOOKS_MAX: usize = 16;

/// What a webhook can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WebhookEvent {
    /// A worker began an attempt.
    #[serde(rename = "job.started")]
    Started,
    #[serde(rename = "job.succeeded")]
    Succeeded,
    #[serde(rename = "job.failed")]
    Failed,
    #[serde(rename = "job.cancelled")]
    Cancelled,
}

impl WebhookEvent {
    pub const ALL: [Self; 4] = [Self::Started, Self::Succeeded, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "job.started",
            Self::Succeeded => "job.succeeded",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == word)
    }

    /// `None` for what is told in the event log alone.
    pub(crate) const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Started => Some(Self::Started),
            EventKind::Succeeded => Some(Self::Succeeded),
            EventKind::Failed => Some(Self::Failed),
            EventKind::Cancelled => Some(Self::Cancelled),
            EventKind::Queued
            | EventKind::Fetched
            | EventKind::Planned
            | EventKind::Warning
            | EventKind::Merged
            | EventKind::Published
            | EventKind::CancelRequested
            | EventKind::RetryScheduled
            | EventKind::Stalled
            | EventKind::Released
            | EventKind::LeaseExpired => None,
        }
    }
}

/// The webhook of one job alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWebhook {
    pub url: String,
    pub events: BTreeSet<WebhookEvent>,
}

/// What `Store::create_webhook` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWebhook {
    pub tenant: String,
    pub url: String,
    pub events: BTreeSet<WebhookEvent>,
}

/// An endpoint of a tenant, told of all its jobs. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub id: WebhookId,
    pub tenant: String,
    pub url: String,
    pub events: BTreeSet<WebhookEvent>,
    pub created_at: i64,
    /// Which of its secrets is the present one, from 1.
    pub generation: i64,
    pub rotated_at: Option<i64>,
    /// Since when it takes nothing more, by its own word.
    pub disabled_at: Option<i64>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// To be sent, for the first time or again.
    Pending,
    /// Taken by its receiver.
    Delivered,
    /// Given up. It can be sent again when asked for.
    Failed,
}

impl DeliveryStatus {
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// One event of a job for one webhook. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: DeliveryId,
    pub tenant: String,
    /// `None` for the webhook of the job itself.
    pub webhook: Option<WebhookId>,
    pub job: JobId,
    pub event: WebhookEvent,
    pub status: DeliveryStatus,
    pub created_at: i64,
    /// When it is to be sent, or was.
    pub next_at: i64,
    /// Since it was last asked for.
    pub attempts: i64,
    /// What the receiver last answered.
    pub last_status: Option<i64>,
    /// Why the latest attempt did not go well.
    pub last_error: Option<String>,
    pub delivered_at: Option<i64>,
}

/// Which deliveries to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub of: DeliveriesOf,
    /// Only those behind this one.
    pub after: Option<DeliveryId>,
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveriesOf {
    Job(JobId),
    Webhook(WebhookId),
}

/// A delivery to be sent now, by whoever has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    pub id: DeliveryId,
    pub tenant: String,
    pub url: String,
    /// `None` for the webhook of a job.
    pub endpoint: Option<Endpoint>,
    pub payload: String,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// A settlement with another token than the present one changes nothing.
    pub token: i64,
}

/// What of an endpoint its signatures rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: WebhookId,
    pub generation: i64,
    pub rotated_at: Option<i64>,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why it did not go well.
    pub error: Option<String>,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Delivered,
    /// To be sent again after so long.
    Again(std::time::Duration),
    Failed,
    /// The endpoint takes nothing more, of any job.
    Disabled,
}

/// What asking for another delivery came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redelivered {
    Asked(Delivery),
    /// Its webhook was deleted or takes nothing more.
    NoWebhook,
    Unknown,
}

const WEBHOOK_PREFIX: &str = "wh_";
const DELIVERY_PREFIX: &str = "msg_";

/// `wh_` and the hex of a version 7 UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookId(String);

impl WebhookId {
    pub fn generate() -> Self {
        Self(format!("{WEBHOOK_PREFIX}{}", Uuid::now_v7().simple()))
    }

    /// Accepts only what `generate` could have made, in its one spelling.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if is_made_of(WEBHOOK_PREFIX, text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::of("webhook id", text))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `msg_` and the hex of a version 7 UUID: what its receiver knows a delivery by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(String);

impl DeliveryId {
    pub fn generate() -> Self {
        Self(format!("{DELIVERY_PREFIX}{}", Uuid::now_v7().simple()))
    }

    /// Accepts only what `generate` could have made, in its one spelling.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if is_made_of(DELIVERY_PREFIX, text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::of("delivery id", text))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebhookId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl FromStr for DeliveryId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word;

    #[test]
    fn every_word_reads_back() {
        assert!(WebhookEvent::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
        assert!(WebhookEvent::ALL.iter().all(|v| WebhookEvent::parse(v.as_str()) == Some(*v)));
        assert!(DeliveryStatus::ALL.iter().all(|v| word::parse(v.as_str()) == Ok(*v)));
    }

    #[test]
    fn a_webhook_is_no_delivery() {
        let (webhook, delivery) = (WebhookId::generate(), DeliveryId::generate());
        assert_eq!(webhook.to_string().parse(), Ok(webhook.clone()));
        assert_eq!(delivery.to_string().parse(), Ok(delivery.clone()));
        assert!(DeliveryId::parse(webhook.as_str()).is_err() && WebhookId::parse(delivery.as_str()).is_err());
    }
}
