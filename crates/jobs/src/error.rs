//! What can go wrong in the queue, by what the caller can do about it.

use std::{path::PathBuf, time::Duration};

pub type Result<T, E = JobsError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// The lease was taken over or the job has ended: stop, and write nothing more.
    #[error("the lease of this job is lost")]
    LeaseLost,
    /// The idempotency key belongs to a different request: choose a new key.
    #[error("this idempotency key was used with a different request")]
    IdempotencyMismatch,
    /// The address of the database is unusable: mend the config.
    #[error("database url {url:?} cannot be used: {reason}")]
    Url { url: String, reason: &'static str },
    /// The directory of the SQLite file cannot be made: mend the config or the permissions.
    #[error("directory {} of the database cannot be created: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    /// SQLite would lose what it wrote there: mend the config.
    #[error("{} is on {system}, where SQLite cannot rely on locks; keep the database on a local disk, or use Postgres", path.display())]
    NetworkFileSystem { path: PathBuf, system: &'static str },
    /// It is there, and no database: mend the config, or restore a backup.
    #[error("{} cannot be opened: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    /// What is written would go to a file that nobody finds again: stop, put the file back or start anew.
    #[error("{} is not the file that was opened: it was moved, removed or replaced while in use", path.display())]
    Replaced { path: PathBuf },
    /// The call may be tried again when that has changed.
    #[error("the database cannot be written to: {reason}")]
    NotWritable { reason: String },
    /// The schema is not the one this version needs.
    #[error("the database cannot be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database is away or refuses: the call may be tried again.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The copy was not made.
    #[error("the database cannot be backed up: {0}")]
    Backup(String),
    /// A stored value is not what this version writes: an operator must look at the row.
    #[error("column {column:?} holds what cannot be read: {reason}")]
    Corrupt { column: &'static str, reason: String },
}

impl JobsError {
    /// A call that its caller gave up.
    pub fn no_answer(after: Duration) -> Self {
        let told = format!("no answer for {} s", after.as_secs());
        Self::Database(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, told)))
    }
}

/// Text from outside that is not the id or cursor it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct ParseError {
    pub what: &'static str,
    pub text: String,
}

impl ParseError {
    pub(crate) fn of(what: &'static str, text: &str) -> Self {
        Self { what, text: text.to_owned() }
    }
}
