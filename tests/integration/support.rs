//! A server that serves the example models, and what is asked of it.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use testkit::TestServer;

pub const BINARY: &str = env!("CARGO_BIN_EXE_amalgam");

/// A server whose source root is the repository, with the example models.
pub struct Served {
    pub server: TestServer,
    pub dir: tempfile::TempDir,
}

impl Served {
    pub fn start(more: &[&str]) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::start_server(&dir.path().join("data"), &testkit::workspace(), more);
        Served { server, dir }
    }

    pub fn client(&self) -> client::Client {
        client::Client::new(&self.server.url).unwrap()
    }
}

pub fn example(name: &str) -> String {
    std::fs::read_to_string(testkit::workspace().join("examples/recipes").join(name)).unwrap()
}

pub async fn end_of(client: &client::Client, id: &str) -> Value {
    let mut watch = client.watch(id);
    while let Some(event) = watch.next().await.unwrap() {
        if event.kind == "end" {
            return event.data;
        }
    }
    panic!("the stream has no end")
}

pub fn published_dir(job: &Value) -> PathBuf {
    PathBuf::from(job["publication"]["uri"].as_str().unwrap_or_else(|| panic!("{job}")).trim_start_matches("file://"))
}

/// Runs the binary in the repository's root.
pub fn amalgam(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).current_dir(testkit::workspace()).output().unwrap()
}
