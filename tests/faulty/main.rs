//! The integration suite once more, on a database that fails now and then: one call in fifty does nothing, and one does what it
//! should and says that it failed. Nobody who uses the system sees any of it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

#[path = "../integration/adapters.rs"]
mod adapters;
#[path = "../integration/crash.rs"]
mod crash;
#[path = "../integration/groups.rs"]
mod groups;
#[path = "../integration/jobs.rs"]
mod jobs;
#[path = "../integration/stages.rs"]
mod stages;
#[path = "../integration/support.rs"]
mod support;

use std::path::Path;

use support::{BINARY, Served, amalgam, end_of, example, published_dir};
use testkit::TestServer;

fn start_server(data: &Path, models: &Path, more: &[&str]) -> TestServer {
    TestServer::start_with_faults(BINARY, data, models, more, &faults())
}

fn faults() -> String {
    let steps = fault::STEPS.iter().filter(|step| step.starts_with("store."));
    let points =
        steps.flat_map(|step| [format!("{step}:before=2%return(error)"), format!("{step}:after=2%return(error)")]);
    points.collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn faults_do_happen() {
    let served = Served::start(&["--workers", "0"]);
    let client = served.client();
    for _ in 0..2000 {
        client.submit(example("linear.yml"), &[]).await.unwrap();
        if served.server.faults_told() >= 3 {
            return;
        }
    }
    panic!("{} faults in 2000 requests", served.server.faults_told());
}
