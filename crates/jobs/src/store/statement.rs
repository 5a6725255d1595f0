//! Queries, whose statements a connection keeps prepared unless a pooler hands the connections behind it around.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{
    Any, AnyConnection, FromRow, SqlSafeStr, Transaction,
    any::{AnyArguments, AnyRow},
    pool::PoolConnection,
    query::{Query, QueryAs, QueryScalar},
};

use super::Store;
use crate::Result;

/// A process has one database, and either all of its connections lead through a pooler or none does.
static KEPT: AtomicBool = AtomicBool::new(true);

/// From now on: behind a pooler of transactions a name means another statement, or none, the next time.
pub(super) fn keep_none() {
    KEPT.store(false, Ordering::Relaxed);
}

fn are_kept() -> bool {
    KEPT.load(Ordering::Relaxed)
}

pub(crate) fn query(sql: impl SqlSafeStr) -> Query<'static, Any, AnyArguments> {
    sqlx::query(sql).persistent(are_kept())
}

pub(crate) fn query_scalar<O>(sql: impl SqlSafeStr) -> QueryScalar<'static, Any, O, AnyArguments>
where
    (O,): for<'r> FromRow<'r, AnyRow>,
{
    sqlx::query_scalar(sql).persistent(are_kept())
}

pub(crate) fn query_as<O>(sql: impl SqlSafeStr) -> QueryAs<'static, Any, O, AnyArguments>
where
    O: for<'r> FromRow<'r, AnyRow>,
{
    sqlx::query_as(sql).persistent(are_kept())
}

/// A connection to ask. Behind a pooler it is in a transaction, since what prepares a statement and what runs it may otherwise
/// come to different servers.
pub(crate) enum Reading {
    Kept(PoolConnection<Any>),
    Lent(Transaction<'static, Any>),
}

impl std::ops::Deref for Reading {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        match self {
            Self::Kept(connection) => connection,
            Self::Lent(transaction) => transaction,
        }
    }
}

impl std::ops::DerefMut for Reading {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        match self {
            Self::Kept(connection) => connection,
            Self::Lent(transaction) => transaction,
        }
    }
}

impl Store {
    /// To ask without writing.
    pub(crate) async fn reading(&self) -> Result<Reading> {
        fault::before("store.read").map_err(sqlx::Error::Io)?;
        // what is read of a file that is gone is no more true than what is written to it
        self.assert_file()?;
        let reader = &self.shared.reader;
        Ok(if self.shared.is_pooled {
            Reading::Lent(reader.begin().await?)
        } else {
            Reading::Kept(reader.acquire().await?)
        })
    }
}
