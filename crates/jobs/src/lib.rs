//! That a merge was asked for, and how far it is: the queue, the event log and the leases, in SQLite or Postgres.
//!
//! Invariants:
//! - What is told is true: an event is written in the same transaction as what it tells, and `seq` has no gaps.
//! - One lease at a time: the token rises with each claim, and a write with an old token changes nothing.
//! - This is the only crate that speaks SQL.

mod admission;
mod audit;
mod error;
mod event;
mod id;
mod job;
mod key;
mod lease;
mod page;
mod store;
#[cfg(test)]
mod testing;
mod timestamp;
mod webhook;
mod word;

pub use admission::{Admission, Capacity, Limits, QueueLimits, Requirements, WORKERS_LOST_MAX};
pub use audit::{Action, Actor, AuditCursor, AuditEntry, AuditFilter, AuditPage};
pub use error::{JobsError, ParseError, Result};
pub use event::{Event, EventKind, Level, NewEvent};
pub use id::{GroupId, JobId, WorkerId};
pub use job::{Enqueued, Idempotency, Job, JobFailure, Member, NewJob, Origin, Phase, Progress, RecipeFormat, Status};
pub use key::{ApiKey, NewKey, Scope, Secret};
pub use lease::{CancelOutcome, Heartbeat, Lease, Outcome};
pub use page::{Cursor, JobFilter, JobPage};
pub use store::{
    Attempt, Census, Clock, Deleted, LogEnds, PlacedEvent, Pruned, QueueState, Retention, RunningProgress, Store,
    Ticket, TicketHolder, WorkerRow,
};
pub use timestamp::rfc3339;
pub use webhook::{
    DeliveriesOf, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, Endpoint, JobWebhook, NewWebhook, Redelivered,
    Sending, Settlement, Then, WEBHOOKS_MAX, Webhook, WebhookEvent, WebhookId,
};
