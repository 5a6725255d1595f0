//! The service against its own contract, by programs that know nothing else of it: schemathesis, which makes up requests from
//! openapi.yaml, and a Python client that is generated from it. On each database; with and without keys.
//!
//! AMALGAM_CONTRACT_PYTHON is a Python environment with what requirements.txt names; `.ci/run` makes one where there is Python.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::TestServer;

const BINARY: &str = env!("CARGO_BIN_EXE_amalgam");

/// As the examples of the contract name them.
const MODELS: [(&str, &str); 2] = [("org/base", "sort"), ("org/chat", "upper")];

#[test]
fn the_service_is_as_its_contract_says_on_sqlite() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}/jobs.db", dir.path().display());
    Contract::new(&python, dir.path(), &database).hold(None);
}

#[test]
fn the_service_is_as_its_contract_says_with_a_key() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}/jobs.db", dir.path().display());
    let contract = Contract::new(&python, dir.path(), &database);
    let key = contract.key();
    contract.hold(Some(&key));
}

#[test]
fn the_service_is_as_its_contract_says_on_postgres() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    match testkit::postgres::fresh_database() {
        Ok(database) => Contract::new(&python, dir.path(), &database).hold(None),
        Err(reason) => println!("not tested on postgres: {reason}"),
    }
}

fn python() -> Option<PathBuf> {
    let named = std::env::var_os("AMALGAM_CONTRACT_PYTHON").map(PathBuf::from);
    if named.is_none() {
        println!("not tested: AMALGAM_CONTRACT_PYTHON names no Python environment");
    }
    named
}

struct Contract<'a> {
    python: &'a Path,
    dir: &'a Path,
    database: &'a str,
}

impl<'a> Contract<'a> {
    fn new(python: &'a Path, dir: &'a Path, database: &'a str) -> Self {
        for (name, example) in MODELS {
            let (from, to) =
                (testkit::workspace().join("examples/models").join(example), dir.join("models").join(name));
            std::fs::create_dir_all(&to).unwrap();
            for file in std::fs::read_dir(from).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        Self { python, dir, database }
    }

    fn amalgam(&self, command: &[&str]) -> Command {
        let mut amalgam = Command::new(BINARY);
        amalgam.args(command).arg("--data-dir").arg(self.dir.join("data")).args(["--database", self.database]);
        amalgam
    }

    fn key(&self) -> String {
        let scopes = "jobs:read,jobs:write,admin";
        let made = self.amalgam(&["keys", "create", "--name", "contract", "--tenant", "contract", "--scope", scopes]);
        let made = { made }.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    fn hold(&self, key: Option<&str>) {
        let models = self.dir.join("models");
        let flags = [&["--workers", "0", "--database", self.database][..], UNLIMITED].concat();
        let server = TestServer::start(BINARY, &self.dir.join("data"), &models, &flags);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // workers are drained by whoever makes up requests
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut worker = self.amalgam(&["worker", "--threads", "1", "--log", "error"]);
                    let worker = worker.arg("--source-root").arg(&models).spawn().unwrap();
                    Worker(worker).until(&done);
                }
            });
            let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.use_the_client(&server.url, key);
                self.make_up_requests(&server.url, key);
            }));
            done.store(true, Ordering::Relaxed);
            held.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    fn tool(&self, name: &str) -> Command {
        let mut tool = Command::new(self.python.join("bin").join(name));
        tool.current_dir(testkit::workspace());
        tool
    }

    fn use_the_client(&self, url: &str, key: Option<&str>) {
        let generated = self.dir.join("generated");
        std::fs::create_dir_all(&generated).unwrap();
        let mut generate = self.tool("openapi-python-client");
        generate.args(["generate", "--path", "openapi.yaml", "--meta", "none", "--output-path"]);
        succeeds(generate.arg(generated.join("amalgam_client")));
        let mut script = self.tool("python");
        script.args(["-B", "tests/contract/python_client.py", "--url", url]).env("PYTHONPATH", &generated);
        for (name, _) in MODELS {
            script.args(["--model", name]);
        }
        if let Some(key) = key {
            script.env("AMALGAM_API_KEY", key);
        }
        succeeds(&mut script);
    }

    fn make_up_requests(&self, url: &str, key: Option<&str>) {
        let mut contract = std::fs::read_to_string(testkit::workspace().join("openapi.yaml")).unwrap();
        if key.is_some() {
            // a server with keys asks for one
            let optional = "security:\n  - {}\n";
            assert!(contract.contains(optional));
            contract = contract.replace(optional, "security:\n");
        }
        let path = self.dir.join("openapi.yaml");
        std::fs::write(&path, contract).unwrap();
        let mut made_up = self.tool("st");
        made_up.args(["--config-file", "tests/contract/schemathesis.toml", "run"]).arg(path);
        made_up.args(["--url", url, "--no-color"]).env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(key) = key {
            made_up.args(["-H", &format!("Authorization: Bearer {key}")]);
        }
        succeeds(&mut made_up);
    }
}

/// Requests are made up as fast as they are answered.
const UNLIMITED: &[&str] = &["--requests-per-minute-max", "1000000", "--submits-per-minute-max", "1000000"];

/// Ended when dropped.
struct Worker(Child);

impl Worker {
    fn until(mut self, done: &AtomicBool) {
        while !done.load(Ordering::Relaxed) && self.0.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    println!("{told}");
    assert!(output.status.success(), "{command:?}");
}
