//! Brings the schema up to date; safe when several processes start at once.

use sqlx::{
    AnyPool, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

use super::connect::Dialect;
use crate::Result;

/// Our own name, so that a database shared with another program is no trouble.
const TABLE: &str = "amalgam_migrations";

const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "jobs", include_str!("../../../../migrations/0001_jobs.sql"))];

/// `run_direct` is what `Migrator::run` calls; the future of `run` itself is not `Send` for a borrowed connection.
pub(super) async fn migrate(dialect: Dialect, writer: &AnyPool) -> Result<()> {
    match dialect {
        // the migrator has no lock for SQLite: the write lock around all of it is one
        Dialect::Sqlite => {
            let mut transaction = writer.begin_with(dialect.begin()).await?;
            migrator().run_direct(None, &mut *transaction, false).await?;
            transaction.commit().await?;
        }
        // here the migrator takes an advisory lock
        Dialect::Postgres => migrator().run_direct(None, &mut *writer.acquire().await?, false).await?,
    }
    Ok(())
}

fn migrator() -> Migrator {
    let mut migrator = Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect());
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

fn migration((version, name, sql): (i64, &'static str, &'static str)) -> Migration {
    Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
}

#[cfg(test)]
mod tests {
    use crate::{
        Store,
        testing::{new_job, on_each_url},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn processes_that_start_at_once_all_find_the_schema() {
        on_each_url(async |url| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    let url = url.to_owned();
                    tokio::spawn(async move { Store::open(&url).await })
                })
                .collect();
            for start in starts {
                let store = start.await.unwrap().expect("opened");
                store.enqueue(new_job()).await.expect("usable");
                store.close().await;
            }
        })
        .await;
    }
}
