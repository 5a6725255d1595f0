//! The queue in a database: one file below for each operation.
//!
//! Every write is one transaction that begins by reading the time it judges leases by, changes a row by a guarded update, and
//! appends what it did to the event log.

mod admit;
mod attempts;
mod audit;
mod backup;
mod cancel;
mod cancel_group;
mod census;
mod changed;
mod claim;
mod connect;
mod delete;
mod deliveries;
mod end;
mod enqueue;
mod enqueue_group;
mod events;
mod expire;
mod finish;
mod group;
mod heartbeat;
mod job;
mod keys;
mod list;
mod listen;
mod log;
mod migrate;
mod outbox;
mod plan_digest;
mod prune;
mod queue;
mod ready;
mod record;
mod release;
mod rescue;
mod row;
mod sharing;
pub(crate) mod statement;
mod tasks;
mod tickets;
mod webhooks;
mod workers;
mod write;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::AnyPool;
use tokio::sync::Notify;

use crate::{Actor, Result};
use connect::{Dialect, Pools};
pub use {
    attempts::Attempt,
    census::Census,
    delete::Deleted,
    log::{LogEnds, PlacedEvent, RunningProgress},
    prune::{Pruned, Retention},
    queue::QueueState,
    tickets::{Ticket, TicketHolder},
    workers::WorkerRow,
};

/// The time in milliseconds since the epoch, as a SQLite store sees it. Postgres tells its own time.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A handle on the queue; clones share its connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    /// Who is told to have changed what this handle changes.
    actor: Option<Arc<Actor>>,
}

pub(crate) struct Shared {
    dialect: Dialect,
    /// Whether a pooler stands before the database.
    is_pooled: bool,
    pub(crate) writer: AnyPool,
    pub(crate) reader: AnyPool,
    was_waited_for: bool,
    /// Of SQLite.
    file: Option<connect::File>,
    clock: Clock,
    wrote: Notify,
}

impl Store {
    /// Opens and migrates the database at `sqlite:///absolute/path`, `sqlite://relative/path` or `postgres://…`.
    /// A missing SQLite file is created, with its directory. The path is taken literally, without parameters.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with_clock(url, Arc::new(system_time)).await
    }

    /// As `open`, where `url` leads through a pooler of transactions, such as PgBouncer, and `direct` past it to the same
    /// Postgres: for the schema, and for notifications, which no pooler passes on.
    pub async fn open_behind_pooler(url: &str, direct: &str) -> Result<Self> {
        Self::open_with(url, Some(direct), Arc::new(system_time)).await
    }

    /// As `open`; `clock` decides when leases of a SQLite store expire.
    pub async fn open_with_clock(url: &str, clock: Clock) -> Result<Self> {
        Self::open_with(url, None, clock).await
    }

    pub(crate) async fn open_with(url: &str, direct: Option<&str>, clock: Clock) -> Result<Self> {
        let is_pooled = direct.is_some();
        let direct = direct.unwrap_or(url);
        let Pools { dialect, writer, reader, file, was_waited_for } = connect::connect(url).await?;
        if is_pooled {
            statement::keep_none();
            migrate::migrate_past_pooler(direct).await?;
        } else {
            migrate::migrate(dialect, &writer).await?;
        }
        let shared =
            Arc::new(Shared { dialect, is_pooled, was_waited_for, writer, reader, file, clock, wrote: Notify::new() });
        if dialect == Dialect::Postgres {
            listen::start(direct.to_owned(), Arc::downgrade(&shared));
        }
        Ok(Self { shared, actor: None })
    }

    pub fn is_sqlite(&self) -> bool {
        self.shared.dialect == Dialect::Sqlite
    }

    /// Whether the database was away when this was opened.
    pub fn was_waited_for(&self) -> bool {
        self.shared.was_waited_for
    }

    /// Whether it was not closed.
    pub fn is_open(&self) -> bool {
        !self.shared.writer.is_closed()
    }

    /// Closes every connection, of all clones; calls after it fail.
    pub async fn close(&self) {
        self.shared.reader.close().await;
        self.shared.writer.close().await;
    }
}

fn system_time() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since_epoch)
}

/// Whole milliseconds; a span too long for the column is as good as forever.
fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::testing::{new_job, on_each_database};

    #[tokio::test]
    async fn an_accepted_job_survives_reopening() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let reopened = fixture.reopen().await;
            let job = reopened.job(&id).await.unwrap().expect("the job is still there");
            assert_eq!(job.status, crate::Status::Queued);
            assert_eq!(reopened.events(&id, 0, 10).await.unwrap().len(), 1);
        })
        .await;
    }
}
