//! From a URL to connection pools. SQLite has one writer, so that writers queue here and not on the file's lock.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    AnyConnection, AnyPool, Connection,
    any::{AnyConnectOptions, AnyPoolOptions},
};

use crate::{JobsError, Result};

const SQLITE_READERS_MAX: u32 = 4;
const POSTGRES_CONNECTIONS_MAX: u32 = 10;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(200);

/// `synchronous = full`: what was answered to the client must survive power loss, which WAL alone does not promise.
const PRAGMAS: &str = "\
    pragma busy_timeout = 10000; \
    pragma journal_mode = wal; \
    pragma synchronous = full; \
    pragma foreign_keys = on";

/// A stray write on a reader would bypass the one writer.
const READ_ONLY: &str = "pragma query_only = on";

/// Where the two databases differ. Everything else is one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// SQLite must take the write lock before it reads, or two transactions can each wait for the other's. On Postgres nobody
    /// waits long for a row whose holder is gone, and a transaction whose own client is gone ends: its locks would stop others.
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "begin immediate",
            Self::Postgres => {
                "begin isolation level read committed; \
                set local lock_timeout = '5s'; \
                set local idle_in_transaction_session_timeout = '10s'; \
                set local statement_timeout = '30s'"
            }
        }
    }

    /// Locks the rows a query reads; SQLite's transaction has locked everything already.
    pub(super) const fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => "for update",
        }
    }

    /// Where a text first stands in another, from 1; 0 where it does not.
    pub(super) const fn position(self) -> &'static str {
        match self {
            Self::Sqlite => "instr",
            Self::Postgres => "strpos",
        }
    }

    /// As `for_update`, passing over the rows that another transaction is busy with.
    pub(super) const fn for_update_skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => "for update skip locked",
        }
    }
}

pub(super) struct Pools {
    pub(super) dialect: Dialect,
    pub(super) writer: AnyPool,
    pub(super) reader: AnyPool,
    pub(super) file: Option<File>,
    /// The server was not there at first.
    pub(super) was_waited_for: bool,
}

/// The file of a SQLite database, as it was when it was opened.
pub(crate) struct File {
    pub(super) path: PathBuf,
    identity: (u64, u64),
}

impl File {
    fn opened(path: &Path) -> Result<Self> {
        let identity = identity(path).ok_or_else(|| JobsError::Replaced { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), identity })
    }

    /// That what is written goes where the next process looks for it.
    pub(super) fn assert_there(&self) -> Result<()> {
        if identity(&self.path) == Some(self.identity) {
            return Ok(());
        }
        Err(JobsError::Replaced { path: self.path.clone() })
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

pub(super) async fn connect(url: &str) -> Result<Pools> {
    sqlx::any::install_default_drivers();
    if let Some(path) = url.strip_prefix("sqlite://") {
        return connect_sqlite(&sqlite_file(url, path)?).await;
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return connect_postgres(url).await;
    }
    Err(JobsError::Url { url: scheme_of(url), reason: "it must begin with sqlite:// or postgres://" })
}

async fn connect_postgres(url: &str) -> Result<Pools> {
    let options: AnyConnectOptions = url.parse()?;
    let was_waited_for = wait_for_server(&options).await?;
    let pool = AnyPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await?;
    Ok(Pools { dialect: Dialect::Postgres, writer: pool.clone(), reader: pool, file: None, was_waited_for })
}

async fn connect_sqlite(file: &Path) -> Result<Pools> {
    let options = sqlite_options(file)?;
    // a pool would try again and again, and then say nothing but that it did
    first_connection(&options, Some(PRAGMAS)).await.map_err(|error| unusable(file, error))?;
    let writer = sqlite_pool(1)
        .after_connect(|connection, _| Box::pin(execute(connection, PRAGMAS)))
        .connect_with(options.clone())
        .await?;
    let reader = sqlite_pool(SQLITE_READERS_MAX)
        .after_connect(|connection, _| {
            Box::pin(async {
                execute(connection, PRAGMAS).await?;
                execute(connection, READ_ONLY).await
            })
        })
        .connect_lazy_with(options);
    Ok(Pools { dialect: Dialect::Sqlite, writer, reader, file: Some(File::opened(file)?), was_waited_for: false })
}

/// A server that is not there yet may be starting; anything else that it says is final. Gives whether it was waited for.
async fn wait_for_server(options: &AnyConnectOptions) -> sqlx::Result<bool> {
    let (until, mut was_waited_for) = (Instant::now() + ACQUIRE_TIMEOUT, false);
    loop {
        match first_connection(options, None).await {
            Err(error) if is_starting(&error) && Instant::now() < until => tokio::time::sleep(AGAIN).await,
            result => return result.map(|()| was_waited_for),
        }
        was_waited_for = true;
    }
}

fn is_starting(error: &sqlx::Error) -> bool {
    // cannot_connect_now
    matches!(error, sqlx::Error::Io(_))
        || error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("57P03"))
}

async fn first_connection(options: &AnyConnectOptions, sql: Option<&'static str>) -> sqlx::Result<()> {
    let mut connection = AnyConnection::connect_with(options).await?;
    if let Some(sql) = sql {
        execute(&mut connection, sql).await?;
    }
    connection.close().await
}

fn unusable(file: &Path, error: sqlx::Error) -> JobsError {
    JobsError::Unusable { path: file.to_owned(), reason: error.to_string() }
}

fn sqlite_pool(connections_max: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
}

async fn execute(connection: &mut AnyConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}

/// The absolute path of the database file, in a directory that exists from now on.
fn sqlite_file(url: &str, path: &str) -> Result<PathBuf> {
    let refuse = |reason| Err(JobsError::Url { url: url.to_owned(), reason });
    if path.is_empty() {
        return refuse("it names no file");
    }
    if path.contains(['?', '#']) {
        return refuse("it takes no parameters");
    }
    if path == ":memory:" {
        return refuse("a queue in memory would lose accepted jobs");
    }
    let directory = Path::new(path).parent().unwrap_or(Path::new(""));
    let Some(name) = Path::new(path).file_name() else {
        return refuse("it names no file");
    };
    let directory = made(directory)?;
    if let Some(system) = network_file_system(&directory) {
        return Err(JobsError::NetworkFileSystem { path: directory, system });
    }
    Ok(directory.join(name))
}

/// Magic numbers of `statfs`, as Linux names them. Locks there are not to be relied on, and a WAL needs shared memory.
const NETWORK_FILE_SYSTEMS: [(u32, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB 2"),
    (0xff53_4d42, "CIFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
];

fn network_file_system(directory: &Path) -> Option<&'static str> {
    let magic = rustix::fs::statfs(directory).ok()?.f_type as u32;
    name_of(magic)
}

fn name_of(magic: u32) -> Option<&'static str> {
    NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

fn made(directory: &Path) -> Result<PathBuf> {
    let directory = Path::new(".").join(directory);
    fs::create_dir_all(&directory)
        .and_then(|()| directory.canonicalize())
        .map_err(|source| JobsError::Directory { path: directory, source })
}

fn sqlite_options(file: &Path) -> Result<AnyConnectOptions> {
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Ok(format!("sqlite://{path}?mode=rwc").parse()?)
}

/// What may be shown of a URL that is none of ours: the rest may hold a password.
fn scheme_of(url: &str) -> String {
    url.split("://").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn a_missing_file_is_made_with_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a b/100%/jobs.db");
        let store = Store::open(&format!("sqlite://{}", file.display())).await.unwrap();
        assert!(store.is_sqlite());
        assert!(file.is_file());
    }

    #[test]
    fn a_network_file_system_is_known_by_its_number_and_this_one_is_none() {
        assert_eq!((name_of(0x6969), name_of(0xef53)), (Some("NFS"), None));
        assert_eq!(network_file_system(&std::env::temp_dir()), None);
    }

    #[tokio::test]
    async fn what_is_no_database_is_told_at_once_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("jobs.db");
        std::fs::write(&file, "something else altogether, and long enough to be looked at as a header of a file")
            .unwrap();
        let started = std::time::Instant::now();
        let error = Store::open(&format!("sqlite://{}", file.display())).await.err().expect("refused");
        assert!(error.to_string().contains("jobs.db cannot be opened"), "{error}");
        assert!(started.elapsed() < ACQUIRE_TIMEOUT / 2);
    }

    #[tokio::test]
    async fn an_unusable_url_is_refused_without_its_password() {
        for url in
            ["sqlite://", "sqlite://:memory:", "sqlite://a.db?mode=ro", "mysql://user:secret@host/db", "sqlite:///"]
        {
            let error = Store::open(url).await.err().expect("refused");
            assert!(matches!(error, JobsError::Url { .. }), "{url}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[tokio::test]
    async fn the_sqlite_file_is_durable_and_guarded() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite://{}/jobs.db", root.path().display())).await.unwrap();
        let pragma = async |sql: &'static str| {
            let value: i64 = sqlx::query_scalar(sql).fetch_one(&store.shared.writer).await.unwrap();
            value
        };
        assert_eq!(pragma("pragma synchronous").await, 2);
        assert_eq!(pragma("pragma foreign_keys").await, 1);
        assert_eq!(pragma("pragma busy_timeout").await, 10_000);
        let mode: String = sqlx::query_scalar("pragma journal_mode").fetch_one(&store.shared.writer).await.unwrap();
        assert_eq!(mode, "wal");
        assert!(sqlx::query("delete from jobs").execute(&store.shared.reader).await.is_err());
    }
}
