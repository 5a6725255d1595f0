//! Limits that are settings, from the command line to the answer.

use client::ClientError;

use crate::{Served, example};

fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (u16, String) {
    match answer.unwrap_err() {
        ClientError::Refused(no) => (no.status, no.problem["code"].as_str().unwrap_or_default().to_owned()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_the_command_line_allows_is_what_is_answered() {
    let flags = ["--workers", "0", "--queued-per-key-max", "2", "--body-bytes-max", "2KiB"];
    let served = Served::start(&[&flags[..], &["--submits-per-minute-max", "4"]].concat());
    let key = crate::keys::key(&served.dir.path().join("data"), "research", "jobs:read,jobs:write");
    // one with patience would wait for its turn
    let client = served.client().with_key(Some(key)).with_patience(std::time::Duration::ZERO);
    let large = format!("{}#{}\n", example("linear.yml"), "x".repeat(2048));
    assert_eq!(refused(client.plan(large, &[]).await), (413, "body_too_large".to_owned()));
    for _ in 0..2 {
        client.submit(example("linear.yml"), &[]).await.unwrap();
    }
    assert_eq!(refused(client.submit(example("linear.yml"), &[]).await), (429, "too_many_queued".to_owned()));
    assert_eq!(refused(client.submit(example("linear.yml"), &[]).await), (429, "rate_limited".to_owned()));
    assert_eq!(client.jobs(&[]).await.unwrap()["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_disk_below_its_floor_takes_no_job() {
    // no disk has so much
    let served = Served::start(&["--disk-floor", "1000000TiB"]);
    let answer = served.client().submit(example("linear.yml"), &[]).await;
    assert_eq!(refused(answer), (507, "insufficient_storage".to_owned()));
    assert_eq!(served.client().jobs(&[]).await.unwrap()["data"].as_array().unwrap().len(), 0);
}
