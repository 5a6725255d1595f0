//! Brings the schema up to date; safe when several processes start at once.

use sqlx::{
    AnyPool, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

use super::connect::Dialect;
use crate::Result;

/// Our own name, so that a database shared with another program is no trouble.
const TABLE: &str = "amalgam_migrations";

const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "jobs", include_str!("../../../../migrations/0001_jobs.sql")),
    (2, "groups", include_str!("../../../../migrations/0002_groups.sql")),
];

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
    use sqlx::migrate::Migrator;

    use super::super::connect;
    use super::{MIGRATIONS, TABLE, migration};
    use crate::{
        JobFilter, Store,
        testing::{new_job, on_each_url},
    };

    const OLD_JOB: &str = "\
        insert into jobs (id, status, recipe, recipe_format, method, lenient, output, labels, metadata, run_at, created_at) \
        values ('job_0190a1b2c3d47e8f90a1b2c3d4e5f607', 'queued', 'r', 'yaml', 'linear', 0, '{}', '{}', '{}', 1, 1)";

    #[tokio::test]
    async fn a_job_of_the_first_schema_is_kept_by_every_later_one() {
        on_each_url(async |url| {
            let pools = connect::connect(url).await.unwrap();
            let mut first = Migrator::with_migrations(vec![migration(MIGRATIONS[0])]);
            first.dangerous_set_table_name(TABLE);
            first.run_direct(None, &mut *pools.writer.acquire().await.unwrap(), false).await.unwrap();
            sqlx::query(OLD_JOB).execute(&pools.writer).await.unwrap();
            pools.writer.close().await;
            pools.reader.close().await;
            let store = Store::open(url).await.unwrap();
            let filter = JobFilter { status: vec![], group: None, after: None, limit: 10 };
            let jobs = store.list(&filter).await.unwrap().jobs;
            assert_eq!((jobs.len(), jobs[0].recipe.as_str(), &jobs[0].member), (1, "r", &None));
            store.close().await;
        })
        .await;
    }

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
