//! What whoever watches a process sees of it: metrics, log lines and spans, and who did what.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{BINARY, Served, end_of, example};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PATIENCE: Duration = Duration::from_secs(30);

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The answer to a request as it goes over the wire.
fn ask(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!("{head}\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Submits with a trace, and gives the id of the job.
fn submit_traced(served: &Served) -> String {
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\ncontent-type: application/yaml\r\nx-request-id: request-7\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01"
    );
    let answer = ask(served.server.url.trim_start_matches("http://"), &head, &example("linear.yml"));
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_job_is_found_in_metrics_and_by_its_trace_in_the_log_and_its_sender_in_the_audit_log() {
    let metrics = free_address().to_string();
    let mut served = Served::start(&["--metrics-listen", &metrics]);
    let id = submit_traced(&served);
    assert_eq!(end_of(&served.client(), &id).await["status"], "succeeded");
    let scrape = ask(&metrics, "GET /metrics HTTP/1.1", "");
    for line in [
        "merge_jobs_total{status=\"succeeded\",method=\"linear\"} 1",
        "merge_job_attempts_total{outcome=\"succeeded\"} 1",
        "merge_job_duration_seconds_count{phase=\"merging\"} 1",
        "http_requests_total{method=\"POST\",route=\"/v1/jobs\",status=\"201\"} 1",
    ] {
        assert!(scrape.lines().any(|found| found == line), "{line}\n{scrape}");
    }
    let audit = ask(served.server.url.trim_start_matches("http://"), "GET /v1/audit HTTP/1.1", "");
    let audit: Value = serde_json::from_str(audit.split_once("\r\n\r\n").unwrap().1).unwrap();
    let entry = &audit["data"][0];
    assert_eq!((&entry["action"], &entry["subject"]), (&"job.created".into(), &id.as_str().into()));
    assert_eq!((&entry["from_address"], &entry["request_id"]), (&"127.0.0.1".into(), &"request-7".into()));
    assert!(served.server.terminate());
    let log = served.server.log();
    let line = log.lines().find(|line| line.contains("job succeeded")).unwrap_or_else(|| panic!("{log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["span"]["trace_id"], &line["span"]["request_id"]), (&TRACE.into(), &"request-7".into()));
}

#[test]
fn metrics_that_others_reach_need_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "0.0.0.0:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .current_dir(testkit::workspace())
        .output()
        .unwrap();
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && reason.contains("--scope metrics"), "{reason}");
}

/// Whatever is sent to it, as it comes.
fn collector(listener: TcpListener) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut buffer, mut request) = (stream.unwrap(), [0; 8192], Vec::new());
            // a client that keeps the connection waits for its answer
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                request.extend_from_slice(&buffer[..read]);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    receiver
}

#[tokio::test]
async fn the_span_of_a_job_reaches_a_collector_and_names_the_trace_of_its_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collected = collector(listener);
    let mut served = Served::start(&["--otlp-endpoint", &endpoint]);
    let id = submit_traced(&served);
    end_of(&served.client(), &id).await;
    assert!(served.server.terminate());
    let trace: Vec<u8> = (0..16).map(|byte| u8::from_str_radix(&TRACE[2 * byte..2 * byte + 2], 16).unwrap()).collect();
    let holds = |all: &[u8], part: &[u8]| all.windows(part.len()).any(|found| found == part);
    let until = Instant::now() + PATIENCE;
    loop {
        let request = collected.recv_timeout(until - Instant::now()).expect("the span of the job is sent");
        assert!(request.starts_with(b"POST /v1/traces "));
        if holds(&request, id.as_bytes()) && holds(&request, &trace) {
            return;
        }
    }
}
