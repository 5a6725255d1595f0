//! Brings the schema up to date; safe when several processes start at once.

use sqlx::{
    AnyPool, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

use super::connect::{self, Dialect, Pools};
use crate::Result;

/// Our own name, so that a database shared with another program is no trouble.
const TABLE: &str = "amalgam_migrations";

const MIGRATIONS: [(i64, &str, &str); 8] = [
    (1, "jobs", include_str!("../../../../migrations/0001_jobs.sql")),
    (2, "groups", include_str!("../../../../migrations/0002_groups.sql")),
    (3, "admission", include_str!("../../../../migrations/0003_admission.sql")),
    (4, "needs", include_str!("../../../../migrations/0004_needs.sql")),
    (5, "keys", include_str!("../../../../migrations/0005_keys.sql")),
    (6, "log", include_str!("../../../../migrations/0006_log.sql")),
    (7, "webhooks", include_str!("../../../../migrations/0007_webhooks.sql")),
    (8, "audit", include_str!("../../../../migrations/0008_audit.sql")),
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

/// The migrator's lock is one of the session, and a pooler knows no sessions.
pub(super) async fn migrate_past_pooler(direct: &str) -> Result<()> {
    let Pools { dialect, writer, reader, .. } = connect::connect(direct).await?;
    migrate(dialect, &writer).await?;
    reader.close().await;
    writer.close().await;
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

    use super::{MIGRATIONS, TABLE, connect, migration};
    use crate::{
        Store, WorkerId,
        testing::{TTL, new_job, on_each_url},
    };

    const OLD_JOB: &str = "\
        insert into jobs (id, status, recipe, recipe_format, method, lenient, output, labels, metadata, run_at, created_at) \
        values ('job_0190a1b2c3d47e8f90a1b2c3d4e5f607', 'queued', 'r', 'yaml', 'linear', 0, '{}', '{}', '{}', 1, 1)";

    #[tokio::test]
    async fn a_job_of_any_earlier_schema_is_kept_and_can_be_claimed() {
        for known in 1..MIGRATIONS.len() {
            on_each_url(async |url| {
                let pools = connect::connect(url).await.unwrap();
                let earlier = MIGRATIONS[..known].iter().copied().map(migration).collect();
                let mut earlier = Migrator::with_migrations(earlier);
                earlier.dangerous_set_table_name(TABLE);
                earlier.run_direct(None, &mut *pools.writer.acquire().await.unwrap(), false).await.unwrap();
                sqlx::query(OLD_JOB).execute(&pools.writer).await.unwrap();
                pools.writer.close().await;
                pools.reader.close().await;
                let store = Store::open(url).await.unwrap();
                let lease = store.claim(&WorkerId::generate("new"), TTL).await.unwrap().expect("the old job");
                assert_eq!((lease.job.recipe.as_str(), &lease.job.member, lease.job.lost), ("r", &None, 0));
                store.close().await;
            })
            .await;
        }
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
