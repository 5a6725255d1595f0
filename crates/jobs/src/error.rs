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
    /// The owner may ask again when some of its jobs are begun.
    #[error("{max} jobs of this owner wait already, and no more may")]
    TooManyQueued { max: u32 },
    /// Whoever asked may ask again when some jobs are begun.
    #[error("{max} jobs wait already, and no more may")]
    QueueFull { max: u32 },
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
    /// Whether the same call may succeed when the database is back. What the database refuses it refuses again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => is_outage(error),
            Self::Replaced { .. } | Self::NotWritable { .. } => true,
            Self::LeaseLost
            | Self::IdempotencyMismatch
            | Self::TooManyQueued { .. }
            | Self::QueueFull { .. }
            | Self::Url { .. }
            | Self::Directory { .. }
            | Self::NetworkFileSystem { .. }
            | Self::Unusable { .. }
            | Self::Migrate(_)
            | Self::Backup(_)
            | Self::Corrupt { .. } => false,
        }
    }

    /// A call that its caller gave up.
    pub fn no_answer(after: Duration) -> Self {
        let told = format!("no answer for {} s", after.as_secs());
        Self::Database(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, told)))
    }
}

fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_outage_code(&code)),
        _ => false,
    }
}

/// Classes of Postgres: connections, transactions that were rolled back for others, resources, operators, the system, locks.
/// Of SQLite, whose codes have the kind in the low byte: busy, locked, I/O, full, cannot open.
fn is_outage_code(code: &str) -> bool {
    const POSTGRES: [&str; 6] = ["08", "40", "53", "57", "58", "55"];
    const SQLITE: [u32; 5] = [5, 6, 10, 13, 14];
    match (code.len(), code.parse::<u32>()) {
        (5, _) => POSTGRES.iter().any(|class| code.starts_with(class)),
        (_, Ok(number)) => SQLITE.contains(&(number & 0xff)),
        _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_passes_and_a_refusal_does_not() {
        for code in ["08006", "40001", "53300", "55P03", "57P01", "5", "13", "517", "266"] {
            assert!(is_outage_code(code), "{code}");
        }
        for code in ["22021", "23505", "42601", "1", "19", "2067", ""] {
            assert!(!is_outage_code(code), "{code}");
        }
        assert!(JobsError::no_answer(Duration::ZERO).is_transient());
        assert!(!JobsError::LeaseLost.is_transient() && !JobsError::Database(sqlx::Error::RowNotFound).is_transient());
    }
}
