//! Webhooks while the database fails: what became of a job is told, by one id however often, and what was asked for is done.

use std::path::Path;
use std::time::Duration;

use client::{Client, ClientError};
use serde_json::Value;
use testkit::TestServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{BINARY, ERROR, KILL, PANIC, RECIPE, Side};

/// Those of requests, then those of the server itself.
pub const STEPS: &[&str] = &[
    "store.create_webhook",
    "store.delete_webhook",
    "store.redeliver",
    "store.rotate_webhook",
    "store.claim_deliveries",
    "store.settle_delivery",
];

const FLAGS: [&str; 5] = ["--workers", "0", "--webhook-insecure-http", "--webhook-allow-network", "127.0.0.0/8"];

/// A delivery whose sender died is its alone for a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Takes whatever comes, and tells the ids.
struct Receiver {
    url: String,
    ids: mpsc::UnboundedReceiver<String>,
}

impl Receiver {
    async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (tell, ids) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // one whose sender is killed breaks off
                if let Some(id) = take(stream).await {
                    let _ = tell.send(id);
                }
            }
        });
        Receiver { url, ids }
    }

    async fn next(&mut self) -> String {
        timeout(PATIENCE, self.ids.recv()).await.expect("a delivery comes").unwrap()
    }
}

async fn take(mut stream: TcpStream) -> Option<String> {
    let mut request = Vec::new();
    let id = loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                let mut fields = head.lines().filter_map(|line| line.split_once(": "));
                fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
            };
            if body.len() >= header("content-length")?.parse().ok()? {
                break header("webhook-id")?;
            }
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.ok()?;
    Some(id)
}

/// A job that has ended, and whose webhook is told so.
async fn cancelled(client: &Client, webhook: &str) -> String {
    let job = client.submit(RECIPE.to_owned(), &[("webhook", webhook.to_owned())]).await.unwrap();
    let id = job["id"].as_str().unwrap().to_owned();
    client.cancel(&id).await.unwrap();
    id
}

async fn delivery(client: &Client, job: &str) -> Value {
    let deliveries = client.deliveries(job).await.unwrap();
    assert_eq!(deliveries["data"].as_array().unwrap().len(), 1, "{deliveries}");
    deliveries["data"][0].clone()
}

async fn delivered(client: &Client, job: &str) -> Value {
    let look = async {
        loop {
            let delivery = delivery(client, job).await;
            if delivery["status"] == "delivered" {
                return delivery;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, look).await.expect("it is delivered in the end")
}

/// Whether it has ended by itself.
fn is_over(how: &str, step: &str) -> bool {
    // whoever sends is missed when it panics; one delivery is not
    how == KILL || (how == PANIC && step == "store.claim_deliveries")
}

async fn told_case(dir: &Path, step: &str, side: Side, how: &str) {
    let faults = format!("{}=1*{how}", side.of(step));
    let mut receiver = Receiver::start().await;
    let mut server = TestServer::start_with_faults(BINARY, &dir.join("data"), &testkit::workspace(), &FLAGS, &faults);
    let client = Client::new(&server.url).unwrap();
    let job = client.submit(RECIPE.to_owned(), &[("webhook", receiver.url.clone())]).await.unwrap();
    let job = job["id"].as_str().unwrap().to_owned();
    // the server may be gone before it has answered
    let _ = client.cancel(&job).await;
    if is_over(how, step) {
        assert!(!tokio::task::block_in_place(|| server.ended()).success(), "{step} {side:?} {how}");
        server.mend();
        server.restart();
    }
    let client = Client::new(&server.url).unwrap();
    let delivery = delivered(&client, &job).await;
    assert_eq!(delivery["type"], "job.cancelled");
    assert_eq!(receiver.next().await, delivery["id"].as_str().unwrap(), "{step} {side:?} {how}");
    while let Ok(again) = receiver.ids.try_recv() {
        assert_eq!(again, delivery["id"].as_str().unwrap(), "{step} {side:?} {how}");
    }
    // what is logged is read a moment later
    let failed = async {
        while !is_over(how, step) && server.faults_told() == 0 && !server.log().contains("did not end well") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), failed).await.unwrap_or_else(|_| panic!("{step} {side:?} {how}: nothing failed"));
    assert!(server.terminate());
}

async fn ask(client: &Client, step: &str, id: &str) -> Result<Value, ClientError> {
    match step {
        "store.create_webhook" => client.create_webhook(id).await,
        "store.delete_webhook" => client.delete_webhook(id).await,
        "store.rotate_webhook" => client.rotate_webhook(id).await,
        "store.redeliver" => client.redeliver(id).await,
        _ => unreachable!("{step}"),
    }
}

async fn asked_case(dir: &Path, step: &str, side: Side, how: &str) {
    let data = dir.join("data");
    let root = testkit::workspace();
    let mut receiver = Receiver::start().await;
    // what is asked for needs something to be asked of
    let mut server = TestServer::start(BINARY, &data, &root, &FLAGS);
    let client = Client::new(&server.url).unwrap();
    let (mut job, mut id) = (String::new(), receiver.url.clone());
    if step == "store.redeliver" {
        job = cancelled(&client, &receiver.url).await;
        id = delivered(&client, &job).await["id"].as_str().unwrap().to_owned();
        receiver.next().await;
    } else if step != "store.create_webhook" {
        id = client.create_webhook(&receiver.url).await.unwrap()["id"].as_str().unwrap().to_owned();
    }
    assert!(server.terminate());
    let faults = format!("{}=1*{how}", side.of(step));
    let mut server = TestServer::start_with_faults(BINARY, &data, &root, &FLAGS, &faults);
    let first = ask(&Client::new(&server.url).unwrap(), step, &id).await;
    match how {
        // the client has asked again by itself, and what is gone is not there for those who ask again
        ERROR => assert!(first.is_ok() || step == "store.delete_webhook", "{step} {side:?}: {first:?}"),
        PANIC => {
            assert!(matches!(&first, Err(ClientError::Refused(no)) if no.status == 500), "{step} {side:?}: {first:?}")
        }
        _ => {
            assert!(first.is_err());
            assert!(!tokio::task::block_in_place(|| server.ended()).success());
            server.mend();
            server.restart();
        }
    }
    let client = Client::new(&server.url).unwrap();
    let again = ask(&client, step, &id).await;
    let there = client.webhooks().await.unwrap();
    let there = there["data"].as_array().unwrap();
    match step {
        "store.create_webhook" => assert!(again.is_ok() && (1..=3).contains(&there.len()), "{there:?}"),
        "store.delete_webhook" => assert!(there.is_empty(), "{there:?}"),
        "store.rotate_webhook" => {
            assert!(again.unwrap()["secret"].as_str().unwrap().starts_with("whsec_"));
            assert!(there.len() == 1 && !there[0]["rotated_at"].is_null(), "{there:?}");
        }
        _ => {
            assert!(again.is_ok(), "{again:?}");
            assert_eq!(receiver.next().await, id);
            delivered(&client, &job).await;
        }
    }
    assert!(server.terminate());
}

/// All at once, since some wait for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_job_is_told_whatever_fails() {
    let mut cases = JoinSet::new();
    for step in ["store.claim_deliveries", "store.settle_delivery"] {
        for side in Side::BOTH {
            for how in [ERROR, PANIC, KILL] {
                cases.spawn(async move {
                    let dir = tempfile::tempdir().unwrap();
                    told_case(dir.path(), step, side, how).await;
                });
            }
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_webhooks_is_done_whatever_fails() {
    for step in ["store.create_webhook", "store.delete_webhook", "store.redeliver", "store.rotate_webhook"] {
        for side in Side::BOTH {
            for how in [ERROR, PANIC, KILL] {
                let dir = tempfile::tempdir().unwrap();
                asked_case(dir.path(), step, side, how).await;
            }
        }
    }
}
