//! A copy of a SQLite database, whole, while it is in use.

use std::path::Path;

use super::Store;
use crate::{JobsError, Result};

impl Store {
    /// Writes the database as it is at one moment to a new file, which can be opened in its stead. Postgres has `pg_dump`.
    pub async fn back_up(&self, to: &Path) -> Result<()> {
        if !self.is_sqlite() {
            return Err(JobsError::Backup("a Postgres database is backed up with pg_dump".to_owned()));
        }
        if to.exists() {
            return Err(JobsError::Backup(format!("{} is there already", to.display())));
        }
        // a reader may do it: the copy is made from a snapshot, and writers go on
        let target = to.to_str().ok_or_else(|| JobsError::Backup(format!("{} is no text", to.display())))?;
        let mut connection = self.shared.reader.acquire().await?;
        sqlx::raw_sql("pragma query_only = off").execute(&mut *connection).await?;
        let copied = sqlx::query("vacuum into $1").bind(target).execute(&mut *connection).await;
        // this one may write now
        connection.close().await?;
        if let Err(error) = copied {
            // half a copy is no backup
            let _ = std::fs::remove_file(to);
            return Err(error.into());
        }
        sync(to).map_err(|error| JobsError::Backup(format!("{}: {error}", to.display())))
    }
}

/// A backup that power loss takes away is none.
fn sync(file: &Path) -> std::io::Result<()> {
    std::fs::File::open(file)?.sync_all()?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::{
        Store,
        testing::{new_job, on_each_database},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_made_while_jobs_come_in_opens_and_holds_what_was_accepted_before_it() {
        on_each_database(async |fixture| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("backup.db");
            if !fixture.store.is_sqlite() {
                fixture.store.back_up(&file).await.unwrap_err();
                return;
            }
            let before = fixture.enqueue(new_job()).await.id;
            let stop = std::sync::Arc::new(AtomicBool::new(false));
            let (store, ended) = (fixture.store.clone(), stop.clone());
            let writing = tokio::spawn(async move {
                let mut written = 0;
                while !ended.load(Ordering::Relaxed) {
                    store.enqueue(new_job()).await.unwrap();
                    written += 1;
                }
                written
            });
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            fixture.store.back_up(&file).await.unwrap();
            stop.store(true, Ordering::Relaxed);
            assert!(writing.await.unwrap() > 0);
            fixture.store.back_up(&file).await.unwrap_err();
            let restored = Store::open(&format!("sqlite://{}", file.display())).await.unwrap();
            assert!(restored.job(&before).await.unwrap().is_some());
            restored.enqueue(new_job()).await.expect("it is a queue like any other");
            restored.close().await;
        })
        .await;
    }
}
