//! Steps that a server takes for a request. Whoever asked asks again, as any client of a server that died would, and finds what
//! was asked for done once.

use std::path::Path;
use std::time::{Duration, Instant};

use client::{Client, ClientError};
use serde_json::Value;
use testkit::TestServer;

use super::{BINARY, ERROR, KILL, PANIC, RECIPE, Side};

pub const STEPS: &[&str] = &[
    "store.cancel",
    "store.cancel_group",
    "store.delete",
    "store.drain",
    "store.enqueue",
    "store.enqueue_group",
    "store.pause",
    "store.rescue",
    "store.resume",
];

const KEY: &str = "the-same-key";

async fn ask(client: &Client, step: &str, id: Option<&str>) -> Result<Value, ClientError> {
    match (step, id) {
        ("store.enqueue", _) => client.submit_as(KEY, RECIPE.to_owned(), &[]).await,
        ("store.enqueue_group", _) => client.submit_as(KEY, format!("{RECIPE}{GRID}"), &[]).await,
        ("store.cancel", Some(id)) => client.cancel(id).await,
        ("store.cancel_group", Some(id)) => client.cancel_group(id).await,
        ("store.delete", Some(id)) => client.delete(id).await,
        ("store.pause", _) => client.pause().await,
        ("store.resume", _) => client.resume().await,
        ("store.drain", _) => client.drain("nobody").await,
        _ => unreachable!("{step}"),
    }
}

const GRID: &str = "grid:\n  models:\n    examples/models/upper: {weight: [1, 3]}\n";

/// What must be there before the step can be taken.
async fn prepared(client: &Client, step: &str) -> Option<String> {
    let made = match step {
        "store.cancel" => ask(client, "store.enqueue", None).await.unwrap(),
        "store.cancel_group" => ask(client, "store.enqueue_group", None).await.unwrap(),
        "store.delete" => {
            let made = ask(client, "store.enqueue", None).await.unwrap();
            ask(client, "store.cancel", made["id"].as_str()).await.unwrap()
        }
        "store.resume" => {
            ask(client, "store.pause", None).await.unwrap();
            return None;
        }
        _ => return None,
    };
    Some(made["id"].as_str().unwrap().to_owned())
}

async fn one_case(dir: &Path, database: &str, step: &str, side: Side, how: &str) {
    let faults = format!("{}=1*{how}", side.of(step));
    let flags = ["--workers", "0", "--database", database];
    let data = dir.join("data");
    let root = testkit::workspace();
    // prepared before the fault is there, since a cancel needs what a submit makes
    let mut server = TestServer::start(BINARY, &data, &root, &flags);
    let id = prepared(&Client::new(&server.url).unwrap(), step).await;
    assert!(server.terminate());
    let mut server = TestServer::start_with_faults(BINARY, &data, &root, &flags, &faults);
    let first = ask(&Client::new(&server.url).unwrap(), step, id.as_deref()).await;
    match how {
        // the client has asked again by itself
        ERROR => {
            // what is gone is not there for those who ask again
            let may_be_gone = step == "store.drain" || (step == "store.delete" && side == Side::After);
            assert!(first.is_ok() || may_be_gone, "{step} {side:?} {how}: {first:?}");
            let until = Instant::now() + Duration::from_secs(30);
            while server.faults_told() == 0 {
                assert!(Instant::now() < until, "{step} {side:?}: nothing failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        PANIC => {
            assert!(matches!(&first, Err(ClientError::Refused(no)) if no.status == 500), "{step} {side:?}: {first:?}")
        }
        _ => {
            assert!(matches!(first, Err(ClientError::Unreachable { .. })), "{step} {side:?}: {first:?}");
            assert!(!server.ended().success());
            server.mend();
            server.restart();
        }
    }
    let client = Client::new(&server.url).unwrap();
    let again = ask(&client, step, id.as_deref()).await;
    check(&client, step, again).await;
    assert!(server.terminate());
}

/// A job that waits for too long without any worker; the server ends it, and dies or not in doing so.
async fn late_case(dir: &Path, database: &str, side: Side, how: &str) {
    let faults = format!("{}=1*{how}", side.of("store.rescue"));
    let flags = ["--workers", "0", "--database", database];
    let mut server = TestServer::start_with_faults(BINARY, &dir.join("data"), &testkit::workspace(), &flags, &faults);
    let ttl = [("queue_ttl_seconds", "1".to_owned())];
    let job = Client::new(&server.url).unwrap().submit(RECIPE.to_owned(), &ttl).await.unwrap();
    let id = job["id"].as_str().unwrap();
    if how != ERROR {
        // one that cannot keep its house ends, to be started again by whatever watches over it
        assert!(!server.ended().success());
        server.mend();
        server.restart();
    }
    let client = Client::new(&server.url).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let job = loop {
        let job = client.job(id).await.unwrap();
        if job["status"] != "queued" {
            break job;
        }
        assert!(Instant::now() < until, "{side:?} {how}: {job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(job["error"]["code"], "queue_ttl_exceeded", "{job}");
    assert_eq!(job["last_event_id"], "2", "{job}");
    assert!(how != ERROR || server.faults_told() > 0);
    assert!(server.terminate());
}

async fn check(client: &Client, step: &str, again: Result<Value, ClientError>) {
    if step == "store.drain" {
        assert!(matches!(again, Err(ClientError::Refused(no)) if no.status == 404));
        return;
    }
    let again = match again {
        Err(ClientError::Refused(no)) if step == "store.delete" && no.status == 404 => Value::Null,
        again => again.unwrap(),
    };
    let jobs = client.jobs(&[]).await.unwrap();
    let jobs = jobs["data"].as_array().unwrap();
    let expected = match step {
        "store.enqueue" | "store.cancel" => 1,
        "store.enqueue_group" | "store.cancel_group" => 2,
        _ => 0,
    };
    assert_eq!(jobs.len(), expected, "{step}: {jobs:?}");
    for job in jobs {
        let is_cancelled = step.starts_with("store.cancel");
        assert_eq!(job["status"], if is_cancelled { "cancelled" } else { "queued" }, "{step}");
        assert_eq!(job["last_event_id"], if is_cancelled { "2" } else { "1" }, "{step}: {job}");
    }
    match step {
        "store.pause" => assert!(!again["paused_at"].is_null(), "{again}"),
        "store.resume" => assert!(again["paused_at"].is_null(), "{again}"),
        _ => {}
    }
}

async fn every_step_fails(database: impl Fn(&Path) -> String) {
    for step in STEPS {
        for side in Side::BOTH {
            for how in [ERROR, PANIC, KILL] {
                let dir = tempfile::tempdir().unwrap();
                if *step == "store.rescue" {
                    late_case(dir.path(), &database(dir.path()), side, how).await;
                    continue;
                }
                one_case(dir.path(), &database(dir.path()), step, side, how).await;
            }
        }
    }
}

#[tokio::test]
async fn a_request_is_done_once_whatever_fails_on_sqlite() {
    every_step_fails(|dir| format!("sqlite://{}", dir.join("jobs.db").display())).await;
}

#[tokio::test]
async fn a_request_is_done_once_whatever_fails_on_postgres() {
    if let Err(reason) = testkit::postgres::fresh_database() {
        return println!("not tested on postgres: {reason}");
    }
    every_step_fails(|_| testkit::postgres::fresh_database().unwrap()).await;
}
