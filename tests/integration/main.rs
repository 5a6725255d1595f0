//! The whole system through the real binary: HTTP, queue, worker, files.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod adapters;
mod alone;
mod commands;
mod convert;
mod crash;
mod groups;
mod jobs;
mod stages;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use testkit::TestServer;

const BINARY: &str = env!("CARGO_BIN_EXE_amalgam");

/// A server whose source root is the repository, with the example models.
struct Served {
    server: TestServer,
    dir: tempfile::TempDir,
}

impl Served {
    fn start(more: &[&str]) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let server = TestServer::start(BINARY, &dir.path().join("data"), &testkit::workspace(), more);
        Served { server, dir }
    }

    fn client(&self) -> client::Client {
        client::Client::new(&self.server.url).unwrap()
    }
}

fn example(name: &str) -> String {
    std::fs::read_to_string(testkit::workspace().join("examples/recipes").join(name)).unwrap()
}

async fn end_of(client: &client::Client, id: &str) -> Value {
    let mut watch = client.watch(id);
    while let Some(event) = watch.next().await.unwrap() {
        if event.kind == "end" {
            return event.data;
        }
    }
    panic!("the stream has no end")
}

fn published_dir(job: &Value) -> PathBuf {
    PathBuf::from(job["publication"]["uri"].as_str().unwrap_or_else(|| panic!("{job}")).trim_start_matches("file://"))
}

/// Runs the binary in the repository's root.
fn amalgam(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).current_dir(testkit::workspace()).output().unwrap()
}
