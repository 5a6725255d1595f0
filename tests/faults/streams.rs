//! What streams need of the database while it fails: a ticket is good or is not, and no event is missed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use client::Client;
use serde_json::Value;
use testkit::TestServer;

use super::{BINARY, ERROR, KILL, RECIPE, Side};

pub const STEPS: &[&str] = &["store.issue_ticket", "store.use_ticket", "store.place_events"];

const PATIENCE: Duration = Duration::from_secs(20);

fn start(dir: &Path, database: &str, faults: &str) -> TestServer {
    let flags = ["--workers", "0", "--database", database];
    TestServer::start_with_faults(BINARY, &dir.join("data"), &testkit::workspace(), &flags, faults)
}

/// The status and what came of the body within a moment; none where the connection broke off.
fn ask(url: &str, method: &str, path: &str, headers: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    // a stream does not end, and begins with a snapshot
    while !text.contains("event: snapshot") {
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
            _ => break,
        }
    }
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text))
}

/// Without keys nobody needs a ticket, so that they are asked for by one.
fn with_key(dir: &Path, database: &str) -> String {
    let mut keys = std::process::Command::new(BINARY);
    keys.args(["keys", "create", "--name", "t", "--tenant", "t", "--scope", "jobs:read", "--database", database]);
    let made = keys.arg("--data-dir").arg(dir.join("data")).current_dir(testkit::workspace()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("authorization: Bearer {}\r\n", String::from_utf8(made.stdout).unwrap().trim())
}

#[test]
fn a_ticket_is_made_and_used_whatever_fails() {
    for step in ["store.issue_ticket", "store.use_ticket"] {
        for side in Side::BOTH {
            for how in [ERROR, KILL] {
                let dir = tempfile::tempdir().unwrap();
                let database = format!("sqlite://{}/jobs.db", dir.path().display());
                let key = with_key(dir.path(), &database);
                let mut server = start(dir.path(), &database, &format!("{}=1*{how}", side.of(step)));
                let get = |server: &TestServer| {
                    let headers = format!("{key}content-length: 0\r\n");
                    let (status, text) = ask(&server.url, "POST", "/v1/stream-tickets", &headers)?;
                    let made: Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
                    (status == 201).then(|| made["ticket"].as_str().unwrap().to_owned())
                };
                let opens = |server: &TestServer, ticket: &str| {
                    let path = format!("/v1/events?ticket={ticket}");
                    ask(&server.url, "GET", &path, "accept: text/event-stream\r\n").is_some_and(|it| it.0 == 200)
                };
                let first = get(&server);
                assert_eq!(first.is_none(), step == "store.issue_ticket", "{step} {side:?} {how}");
                if let Some(first) = &first {
                    assert!(!opens(&server, first), "{step} {side:?} {how}");
                }
                if how == KILL {
                    assert!(!server.ended().success());
                    server.mend();
                    server.restart();
                } else {
                    let until = std::time::Instant::now() + PATIENCE;
                    while server.faults_told() == 0 {
                        assert!(std::time::Instant::now() < until, "{step} {side:?}: nothing failed");
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
                // one that was used and not heard of is used
                if let Some(first) = first {
                    assert_eq!(opens(&server, &first), side == Side::Before, "{step} {how}");
                }
                let again = get(&server).unwrap();
                assert!(opens(&server, &again) && !opens(&server, &again), "{step} {side:?} {how}");
                assert!(server.terminate());
            }
        }
    }
}

/// SQLite places events as it writes them.
#[tokio::test]
async fn events_are_placed_once_whatever_fails_on_postgres() {
    for side in Side::BOTH {
        for how in [ERROR, KILL] {
            let database = match testkit::postgres::fresh_database() {
                Ok(database) => database,
                Err(reason) => return println!("not tested on postgres: {reason}"),
            };
            let dir = tempfile::tempdir().unwrap();
            let mut server = start(dir.path(), &database, &format!("{}=1*{how}", side.of("store.place_events")));
            let client = Client::new(&server.url).unwrap();
            // the reader of the log places them soon, and is the first to fail
            let first = client.submit(RECIPE.to_owned(), &[]).await;
            if how == KILL {
                assert!(!server.ended().success());
                server.mend();
                server.restart();
            }
            let client = Client::new(&server.url).unwrap();
            for _ in 0..if first.is_ok() { 2 } else { 3 } {
                client.submit(RECIPE.to_owned(), &[]).await.unwrap();
            }
            let jobs = client.jobs(&[]).await.unwrap()["data"].as_array().unwrap().clone();
            for job in &jobs {
                client.cancel(job["id"].as_str().unwrap()).await.unwrap();
            }
            let until = std::time::Instant::now() + PATIENCE;
            while how != KILL && server.faults_told() == 0 {
                assert!(std::time::Instant::now() < until, "{side:?}: nothing failed");
                std::thread::sleep(Duration::from_millis(10));
            }
            let (status, text) = ask(&server.url, "GET", "/v1/events?limit=100", "").unwrap();
            let log: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
            let kinds: Vec<_> = log["data"].as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap()).collect();
            assert_eq!(
                (status, log["next_cursor"].as_str()),
                (200, Some((2 * jobs.len()).to_string().as_str())),
                "{side:?} {how}: {log}"
            );
            assert_eq!(kinds.iter().filter(|kind| **kind == "cancelled").count(), jobs.len());
            assert!(jobs.len() >= 2 && server.terminate());
        }
    }
}
