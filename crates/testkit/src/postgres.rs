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
    "$bin/pg_ctl" start --pgdata=data --log=log --wait -o "-c listen_addresses='' -c unix_socket_directories='$directory' -c fsync=$fsync" >/dev/null 2>&1 &&
    echo ready || tail -n 1 log
    read -r _
    "$bin/pg_ctl" stop --pgdata=data --mode=immediate >/dev/null 2>&1
    rm -rf "$directory"
"#;

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
    let options = format!("-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync=off");
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
        let mut shell =
            hold(&bin, &directory, fsync).map_err(|error| format!("the server's shell did not start: {error}"))?;
        let mut line = String::new();
        let output = shell.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim() {
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

fn hold(bin: &Path, directory: &Path, fsync: &str) -> io::Result<Child> {
    let mut command = Command::new("sh");
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
        .args(["-c", HOLD_SERVER, "sh"])
        .args([bin, directory])
        .arg(fsync)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}
