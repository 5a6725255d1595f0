//! One write transaction, and the time it judges by.

use std::sync::Arc;

use sqlx::{Any, AnyConnection, Transaction};

use super::statement::{query, query_scalar};
use super::{Store, connect::Dialect, listen, outbox, row};
use crate::{Actor, Job, JobId, NewEvent, Result};

/// Postgres tells the time, so that no two nodes disagree on when a lease ends.
const POSTGRES_NOW: &str = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";

/// The number is any that no other program is likely to choose: "amalgam" as bytes.
const CLAIM_LOCK: &str = "select pg_advisory_xact_lock(27422943320629613)";

const NEXT_SEQ: &str = "update jobs set event_seq = event_seq + 1 where id = $1 returning event_seq";

const APPEND: &str = "\
    insert into events (job_id, seq, type, level, message, data, created_at, position) \
    values ($1, $2, $3, $4, $5, $6, $7, $8)";

/// Rolled back when dropped before `commit`.
pub(super) struct Write<'a> {
    store: &'a Store,
    transaction: Transaction<'static, Any>,
    /// Read when the transaction began, so on the early side: a lease never seems to last longer than it does.
    pub(super) now: i64,
    /// Something is told that other processes wait for.
    tells: bool,
    /// Where tests have it fail.
    step: &'static str,
}

impl Store {
    /// `step` is the fail point of what is done.
    pub(super) async fn write(&self, step: &'static str) -> Result<Write<'_>> {
        self.assert_file()?;
        let mut transaction = match self.begin().await {
            Ok(transaction) => transaction,
            Err(_) if self.is_sqlite() => {
                self.drop_writer().await?;
                self.begin().await?
            }
            Err(error) => return Err(error.into()),
        };
        let now = self.now_on(&mut transaction).await?;
        Ok(Write { store: self, transaction, now, tells: false, step })
    }

    /// The time that leases are judged by.
    pub(super) async fn now(&self) -> Result<i64> {
        match self.shared.dialect {
            Dialect::Sqlite => Ok((self.shared.clock)()),
            Dialect::Postgres => self.now_on(&mut *self.reading().await?).await,
        }
    }

    async fn now_on(&self, connection: &mut AnyConnection) -> Result<i64> {
        Ok(match self.shared.dialect {
            Dialect::Sqlite => (self.shared.clock)(),
            Dialect::Postgres => query_scalar(POSTGRES_NOW).fetch_one(connection).await?,
        })
    }

    /// That the SQLite file is still the one that was opened.
    pub(super) fn assert_file(&self) -> Result<()> {
        self.shared.file.as_ref().map_or(Ok(()), |file| file.assert_there())
    }

    async fn begin(&self) -> sqlx::Result<Transaction<'static, Any>> {
        self.shared.writer.begin_with(self.shared.dialect.begin()).await
    }

    /// A full disk makes SQLite roll back by itself, which leaves the connection's count of transactions wrong for good.
    async fn drop_writer(&self) -> sqlx::Result<()> {
        self.shared.writer.acquire().await?.close().await
    }
}

impl Write<'_> {
    pub(super) fn dialect(&self) -> Dialect {
        self.store.shared.dialect
    }

    /// Who asked for what this transaction changes.
    pub(super) fn actor(&self) -> Option<Arc<Actor>> {
        self.store.actor.clone()
    }

    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    /// Until this transaction ends no other claims: what a claim counts must still be so when it takes the job. SQLite has
    /// one writer anyway.
    pub(super) async fn one_claim_at_a_time(&mut self) -> Result<()> {
        if self.dialect() == Dialect::Postgres {
            query(CLAIM_LOCK).execute(self.connection()).await?;
            // a lease that began before the wait would end before its time
            self.now = self.store.now_on(&mut self.transaction).await?;
        }
        Ok(())
    }

    /// Gives the event the next `seq` of its job, and tells the webhooks that want it.
    pub(super) async fn append(&mut self, id: &JobId, event: NewEvent) -> Result<()> {
        let seq: i64 = query_scalar(NEXT_SEQ).bind(id.as_str()).fetch_one(self.connection()).await?;
        let position = self.next_position().await?;
        query(APPEND)
            .bind(id.as_str())
            .bind(seq)
            .bind(event.kind.as_str())
            .bind(event.level.as_str())
            // Postgres has no text with a NUL in it, and a recipe may have a key with one
            .bind(event.message.replace('\0', "\u{fffd}"))
            .bind(event.data.to_string())
            .bind(self.now)
            .bind(position)
            .execute(&mut *self.transaction)
            .await?;
        self.tells = true;
        outbox::tell(self, id, event.kind).await
    }

    /// The job as this transaction sees it; no one else changes it until the transaction ends.
    pub(super) async fn job(&mut self, id: &JobId) -> Result<Option<Job>> {
        let sql = row::select_job("where id = $1", self.dialect().for_update());
        let found = query(sql).bind(id.as_str()).fetch_optional(self.connection()).await?;
        found.as_ref().map(row::job).transpose()
    }

    /// A job that this transaction has written, so that it is there.
    pub(super) async fn written_job(&mut self, id: &JobId) -> Result<Job> {
        Ok(self.job(id).await?.expect("its row was written in this transaction"))
    }

    /// Commits, and wakes those who wait for a change.
    pub(super) async fn commit(mut self) -> Result<()> {
        if self.tells && self.dialect() == Dialect::Postgres {
            query(listen::NOTIFY).execute(self.connection()).await?;
        }
        let store = self.store;
        self.commit_quietly().await?;
        store.shared.wrote.notify_waiters();
        Ok(())
    }

    /// Commits what nobody waits for.
    pub(super) async fn commit_quietly(self) -> Result<()> {
        fault::before(self.step).map_err(sqlx::Error::Io)?;
        self.transaction.commit().await?;
        fault::after(self.step).map_err(sqlx::Error::Io)?;
        Ok(())
    }

    /// Ends a transaction that found nothing to do. Nobody is woken, or idle workers would wake each other for ever.
    pub(super) async fn abandon(self) -> Result<()> {
        self.transaction.rollback().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{new_job, on_each_database};

    #[tokio::test]
    async fn a_call_dropped_half_way_leaves_nothing_behind() {
        on_each_database(async |fixture| {
            for _ in 0..20 {
                // polled once, then dropped, as a handler is when its client goes away
                tokio::select! {
                    biased;
                    _ = fixture.store.enqueue(new_job()) => unreachable!("a write takes more than one poll"),
                    () = std::future::ready(()) => {}
                }
            }
            let job = fixture.enqueue(new_job()).await;
            assert_eq!(job.last_seq, 1);
            assert_eq!(fixture.count("select count(*) from jobs").await, 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_disk_is_survived() {
        on_each_database(async |fixture| {
            if !fixture.store.is_sqlite() {
                return;
            }
            let writer = &fixture.store.shared.writer;
            // SQLite lowers the limit to the pages in use, so the next page is one too many
            sqlx::query("pragma max_page_count = 1").fetch_one(writer).await.unwrap();
            let mut large = new_job();
            large.recipe = "x".repeat(1 << 20);
            fixture.store.enqueue(large).await.unwrap_err();
            fixture.enqueue(new_job()).await;
        })
        .await;
    }
}
