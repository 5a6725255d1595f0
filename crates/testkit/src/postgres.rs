//! A Postgres server of our own for the length of the test process.
//!
//! A shell holds it: when the test process ends, in whatever way, the shell's input closes, and it stops the server and removes
//! the data directory.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

/// Prints `ready` or the end of the log, then waits for its input to close.
const HOLD_SERVER: &str = r#"
    bin=$1 directory=$2 fsync=$3
    cd "$directory"
    "$bin/initdb" --no-sync --auth=trust --username=postgres --encoding=UTF8 --pgdata=data >log 2>&1 &&
    "$bin/pg_ctl" start --pgdata=data --log=log --wait -o "-c listen_addresses='' -c unix_socket_directories='$directory' -c fsync=$fsync -c max_connections=500" >/dev/null 2>&1 &&
    echo ready || tail -n 1 log
    read -r _
    "$bin/pg_ctl" stop --pgdata=data --mode=immediate >/dev/null 2>&1
    rm -rf "$directory"
"#;

/// Before the server whose socket is in the first directory, with its own in the second. Prints `ready`, then waits for its
/// input to close.
const HOLD_POOLER: &str = r#"
    pgbouncer=$1 server=$2 directory=$3
    cd "$directory"
    cat >config <<END
[databases]
* = host=$server user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = $directory
auth_type = any
pool_mode = transaction
default_pool_size = 8
server_idle_timeout = 2
max_client_conn = 1000
ignore_startup_parameters = extra_float_digits
logfile = $directory/log
pidfile = $directory/pid
END
    "$pgbouncer" --daemon --quiet config >/dev/null 2>&1
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -S "$directory/.s.PGSQL.6432" ] && break
        sleep 0.1
    done
    [ -S "$directory/.s.PGSQL.6432" ] && echo ready || tail -n 1 log
    read -r _
    kill "$(cat pid)"
    rm -rf "$directory"
"#;

struct Pooler {
    directory: PathBuf,
    /// Its input closes with this process.
    _shell: Child,
}

static POOLER: OnceLock<Result<Pooler, String>> = OnceLock::new();

/// The URL of an empty database through a PgBouncer that hands its connections around by transaction, and the one past it.
pub fn fresh_database_behind_pooler() -> Result<(String, String), String> {
    let direct = fresh_database()?;
    let Some(Ok(server)) = SERVER.get() else { return Err("there is no server".to_owned()) };
    let pooler = POOLER.get_or_init(|| Pooler::start(&server.directory)).as_ref().map_err(Clone::clone)?;
    let name = direct.split(['/', '?']).nth(3).unwrap_or_default();
    Ok((format!("postgres://postgres@localhost:6432/{name}?host={}", pooler.directory.display()), direct))
}

impl Pooler {
    fn start(server: &Path) -> Result<Self, String> {
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let program = places.map(|dir| dir.join("pgbouncer")).find(|program| program.is_file());
        let program = program.ok_or("no pgbouncer in PATH or /usr/sbin")?;
        let directory = directory().map_err(|error| error.to_string())?;
        let (shell, line) = held(HOLD_POOLER, [program.as_path(), server, directory.as_path()])?;
        if line != "ready" {
            return Err(format!("the pooler did not start: {line}"));
        }
        Ok(Self { directory, _shell: shell })
    }
}

struct Server {
    bin: PathBuf,
    directory: PathBuf,
    /// Its input closes with this process.
    _shell: Child,
}

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
static DURABLE: OnceLock<Result<Server, String>> = OnceLock::new();

/// The URL of an empty database, or why there is none. Where `AMALGAM_REQUIRE_POSTGRES` is set there must be one.
pub fn fresh_database() -> Result<String, String> {
    let created = database_of(&SERVER, "off");
    if let (Err(reason), Some(_)) = (&created, env::var_os("AMALGAM_REQUIRE_POSTGRES")) {
        panic!("AMALGAM_REQUIRE_POSTGRES is set, and there is no Postgres: {reason}");
    }
    created
}

/// As `fresh_database`, on a server that brings what it accepts to the disk, as one in use does: for measurements.
pub fn durable_database() -> Result<String, String> {
    database_of(&DURABLE, "on")
}

fn database_of(server: &'static OnceLock<Result<Server, String>>, fsync: &str) -> Result<String, String> {
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let server = server.get_or_init(|| Server::start(fsync)).as_ref().map_err(Clone::clone)?;
    server.create(&format!("test{}", DATABASES.fetch_add(1, Ordering::SeqCst)))
}

/// Ends the server as a power cut would, and starts it again after `pause`. Every database of it is gone for that time.
pub fn interrupt(pause: Duration) {
    let Some(Ok(server)) = SERVER.get() else { panic!("there is no server to interrupt") };
    server.control(&["stop", "--mode=immediate"]);
    std::thread::sleep(pause);
    let directory = server.directory.display();
    let options =
        format!("-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync=off -c max_connections=500");
    server.control(&["start", "--wait", "--log=log", "-o", &options]);
}

impl Server {
    fn control(&self, arguments: &[&str]) {
        let mut command = Command::new(self.bin.join("pg_ctl"));
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        let done = command
            .args(arguments)
            .arg("--pgdata=data")
            .current_dir(&self.directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(done.is_ok_and(|status| status.success()), "pg_ctl {arguments:?} failed");
    }

    fn start(fsync: &str) -> Result<Self, String> {
        let bin = find_bin().ok_or("no initdb in PATH or /usr/lib/postgresql")?;
        let directory = directory().map_err(|error| error.to_string())?;
        let (shell, line) = held(HOLD_SERVER, [bin.as_path(), directory.as_path(), Path::new(fsync)])?;
        match line.as_str() {
            "ready" => Ok(Self { bin, directory, _shell: shell }),
            log => Err(format!("the server did not start: {log}")),
        }
    }

    fn create(&self, name: &str) -> Result<String, String> {
        let host = self.directory.display();
        let created = Command::new(self.bin.join("createdb"))
            .args(["--username=postgres", "--host"])
            .arg(&self.directory)
            .arg(name)
            .output()
            .map_err(|error| error.to_string())?;
        if !created.status.success() {
            return Err(String::from_utf8_lossy(&created.stderr).into_owned());
        }
        Ok(format!("postgres://postgres@localhost/{name}?host={host}"))
    }
}

fn find_bin() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).find_map(|directory| fs::canonicalize(directory.join("initdb")).ok());
    if let Some(initdb) = in_path {
        return initdb.parent().map(Path::to_owned);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").is_file())
}

/// Short, because a socket's path may have about a hundred bytes; removed by the shell.
fn directory() -> io::Result<PathBuf> {
    let directory = TempDir::with_prefix_in("amalgam-postgres-", "/tmp")?.keep();
    if let Some((uid, gid)) = other_user() {
        chown(&directory, Some(uid), Some(gid))?;
    }
    Ok(directory)
}

/// Postgres refuses to run as root; then it runs as nobody.
fn other_user() -> Option<(u32, u32)> {
    const NOBODY: u32 = 65534;
    rustix::process::geteuid().is_root().then_some((NOBODY, NOBODY))
}

/// A shell that holds what it has started, and the first line that it says.
fn held(script: &str, arguments: [&Path; 3]) -> Result<(Child, String), String> {
    let mut command = Command::new("sh");
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    let mut shell = command
        .args(["-c", script, "sh"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("the shell did not start: {error}"))?;
    let mut line = String::new();
    let output = shell.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
    Ok((shell, line.trim().to_owned()))
}
