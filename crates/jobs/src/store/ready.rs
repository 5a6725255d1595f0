//! Whether jobs can be accepted at this moment, as a load balancer asks.

use std::time::Duration;

use super::statement::query_scalar;
use super::{Store, connect::Dialect};
use crate::{JobsError, Result};

/// Whoever asks does not wait for long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Less is no room for what is about to be accepted.
const ROOM_MIN: u64 = 16 << 20;

const IS_STANDBY: &str = "select pg_is_in_recovery()";

impl Store {
    /// That the database answers, can be written to and has room, within two seconds.
    pub async fn ready(&self) -> Result<()> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.can_write()).await;
        answer.unwrap_or_else(|_| Err(JobsError::no_answer(ANSWER_WITHIN)))
    }

    async fn can_write(&self) -> Result<()> {
        match self.shared.dialect {
            Dialect::Sqlite => {
                self.has_room()?;
                // takes the lock that a write takes
                self.write("store.read").await?.abandon().await
            }
            Dialect::Postgres => match query_scalar(IS_STANDBY).fetch_one(&mut *self.reading().await?).await? {
                true => Err(JobsError::NotWritable { reason: "it is a standby".to_owned() }),
                false => Ok(()),
            },
        }
    }

    fn has_room(&self) -> Result<()> {
        let Some(file) = &self.shared.file else { return Ok(()) };
        let Ok(space) = rustix::fs::statvfs(&file.path) else { return Ok(()) };
        let available = space.f_bavail.saturating_mul(space.f_frsize);
        if available >= ROOM_MIN {
            return Ok(());
        }
        Err(JobsError::NotWritable { reason: format!("its disk has {available} bytes left") })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        JobsError, Store,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn a_database_that_can_be_written_to_is_ready() {
        on_each_database(async |fixture| {
            fixture.store.ready().await.unwrap();
            fixture.store.close().await;
            assert!(fixture.store.ready().await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn a_lock_that_is_not_given_back_is_told_of_soon() {
        on_each_database(async |fixture| {
            if !fixture.store.is_sqlite() {
                return;
            }
            let other = fixture.beside().await;
            let locked = other.shared.writer.begin_with("begin immediate").await.unwrap();
            assert!(fixture.store.ready().await.is_err());
            locked.rollback().await.unwrap();
            fixture.store.ready().await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_takes_no_jobs() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("jobs.db");
        let store = Store::open(&format!("sqlite://{}", path.display())).await.unwrap();
        store.enqueue(new_job()).await.unwrap();
        std::fs::rename(&path, root.path().join("away.db")).unwrap();
        assert!(matches!(store.enqueue(new_job()).await, Err(JobsError::Replaced { .. })));
        std::fs::write(&path, "another").unwrap();
        assert!(matches!(store.ready().await, Err(JobsError::Replaced { .. })));
        std::fs::rename(root.path().join("away.db"), &path).unwrap();
        store.enqueue(new_job()).await.unwrap();
    }
}
