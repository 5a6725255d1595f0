//! Attempts that take too long, stand still, or leave the machine no time.

use std::path::Path;

use client::Client;
use serde_json::Value;
use testkit::TestServer;

use super::{BINARY, RECIPE, reader};

/// Long enough for every limit below.
const STANDS_STILL: &str = "journal.begin:before=1*sleep(3000)";

async fn end_of(client: &Client, id: &str) -> Value {
    let mut watch = client.watch(id);
    while let Some(event) = watch.next().await.unwrap() {
        if event.kind == "end" {
            return client.job(id).await.unwrap();
        }
    }
    panic!("the stream has no end")
}

async fn run(dir: &Path, flags: &[&str], query: &[(&str, String)]) -> (Value, Vec<String>) {
    let data = dir.join("data");
    let mut server = TestServer::start_with_faults(BINARY, &data, &testkit::workspace(), flags, STANDS_STILL);
    let client = Client::new(&server.url).unwrap();
    let job = client.submit(RECIPE.to_owned(), query).await.unwrap();
    let job = end_of(&client, job["id"].as_str().unwrap()).await;
    let kinds = reader::check(&client, &data.join("artifacts"), &job).await;
    assert!(server.terminate());
    (job, kinds)
}

#[tokio::test]
async fn an_attempt_that_stands_still_is_told_of_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (job, kinds) = run(dir.path(), &["--stall-seconds", "1"], &[]).await;
    assert_eq!((&job["status"], &job["attempt"]), (&"succeeded".into(), &2.into()), "{job}");
    for kind in ["stalled", "retry_scheduled"] {
        assert!(kinds.contains(&kind.to_owned()), "{kind}: {kinds:?}");
    }
    assert_eq!(job["attempts"][0]["error"]["code"], "stalled", "{job}");
    assert_eq!(job["workers_lost"], 0, "{job}");
}

#[tokio::test]
async fn an_attempt_that_takes_longer_than_its_job_may_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (job, _) = run(dir.path(), &[], &[("timeout_seconds", "1".to_owned())]).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&"failed".into(), &"timed_out".into()), "{job}");
    assert!(!dir.path().join("data/artifacts").join(job["id"].as_str().unwrap()).exists());
    assert_eq!(std::fs::read_dir(dir.path().join("data/work")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_merge_that_wants_the_whole_machine_starves_no_heartbeat() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        testkit::sparse_checkpoint(&dir.path().join("models").join(name), 400 << 20);
    }
    let flags = ["--threads", "64", "--lease-seconds", "1"];
    let mut server = TestServer::start(BINARY, &dir.path().join("data"), &dir.path().join("models"), &flags);
    let client = Client::new(&server.url).unwrap();
    let recipe =
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 2}}\n";
    let job = client.submit(recipe.to_owned(), &[]).await.unwrap();
    let job = end_of(&client, job["id"].as_str().unwrap()).await;
    assert_eq!(
        (&job["status"], &job["attempt"], &job["workers_lost"]),
        (&"succeeded".into(), &1.into(), &0.into()),
        "{job}"
    );
    assert!(server.terminate());
}
