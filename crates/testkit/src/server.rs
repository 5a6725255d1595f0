//! The real binary, started as a user starts it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const STARTS: &str = "the server says where it listens";

/// A server process on a free port of loopback. Killed when dropped, so that no test leaves one behind.
pub struct TestServer {
    pub url: String,
    binary: PathBuf,
    data_dir: PathBuf,
    source_root: PathBuf,
    more: Vec<String>,
    faults: String,
    told: Arc<AtomicUsize>,
    log: Arc<Mutex<String>>,
    child: Child,
}

impl TestServer {
    /// Starts `binary serve`; `more` are further flags.
    pub fn start(binary: &str, data_dir: &Path, source_root: &Path, more: &[&str]) -> TestServer {
        TestServer::start_with_faults(binary, data_dir, source_root, more, "")
    }

    /// As `start`; `faults` says which fail points are set.
    pub fn start_with_faults(
        binary: &str,
        data_dir: &Path,
        source_root: &Path,
        more: &[&str],
        faults: &str,
    ) -> TestServer {
        let more: Vec<String> = more.iter().map(|s| (*s).to_owned()).collect();
        let (told, log) = <(Arc<AtomicUsize>, Arc<Mutex<String>>)>::default();
        let (child, url) = spawn(Path::new(binary), data_dir, source_root, &more, faults, (&told, &log)).expect(STARTS);
        TestServer {
            url,
            binary: binary.into(),
            data_dir: data_dir.into(),
            source_root: source_root.into(),
            more,
            faults: faults.to_owned(),
            told,
            log,
            child,
        }
    }

    /// `kill -9`, as a power cut or the OOM killer would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; gives whether the process then ended well.
    pub fn terminate(&mut self) -> bool {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.child.wait().unwrap().success()
    }

    /// How often something failed on purpose so far.
    pub fn faults_told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }

    /// What it has logged since it serves.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// From the next start on nothing fails on purpose.
    pub fn mend(&mut self) {
        self.faults = String::new();
    }

    /// Starts again on the same data.
    pub fn restart(&mut self) {
        assert!(self.try_restart(), "{STARTS}");
    }

    /// As `restart`; whether it did start, which it may not as long as its disk is full.
    pub fn try_restart(&mut self) -> bool {
        let started =
            spawn(&self.binary, &self.data_dir, &self.source_root, &self.more, &self.faults, (&self.told, &self.log));
        let Some((child, url)) = started else { return false };
        (self.child, self.url) = (child, url);
        true
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    binary: &Path,
    data_dir: &Path,
    source_root: &Path,
    more: &[String],
    faults: &str,
    (told, log): (&Arc<AtomicUsize>, &Arc<Mutex<String>>),
) -> Option<(Child, String)> {
    let mut child = Command::new(binary)
        .env("FAILPOINTS", faults)
        .arg("serve")
        .args(unless(more, ["--listen", "127.0.0.1:0"]))
        .args(unless(more, ["--log", "info"]))
        .args(["--log-format", "json"])
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--source-root")
        .arg(source_root)
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines.by_ref().map(|line| line.unwrap()).find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let serving = value.pointer("/fields/message").and_then(|m| m.as_str()) == Some("serving");
        serving.then(|| value["fields"]["address"].as_str().unwrap().to_owned())
    });
    let Some(address) = address else {
        child.wait().unwrap();
        return None;
    };
    let url = format!("http://{address}");
    let (told, log) = (told.clone(), log.clone());
    // what it logs from now on must not block it
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut log = log.lock().unwrap();
            *log += &line;
            *log += "\n";
            told.fetch_add(usize::from(line.contains("fault at")), Ordering::Relaxed);
        }
    });
    Some((child, url))
}

/// A flag and its value, unless a test sets that flag itself.
fn unless(more: &[String], flag: [&'static str; 2]) -> Vec<&'static str> {
    if more.iter().any(|set| set == flag[0]) { Vec::new() } else { flag.to_vec() }
}
