//! The whole system through the real binary: HTTP, queue, worker, files.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod adapters;
mod alone;
mod clients;
mod commands;
mod convert;
mod crash;
mod groups;
mod jobs;
mod keys;
mod limits;
mod seeing;
mod slow_clients;
mod stages;
mod support;

use std::path::Path;

use support::{BINARY, Served, amalgam, end_of, example, published_dir};
use testkit::TestServer;

fn start_server(data: &Path, models: &Path, more: &[&str]) -> TestServer {
    TestServer::start(BINARY, data, models, more)
}
