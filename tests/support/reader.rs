//! Reads a job's log and its artifact as a stranger: nothing here knows how the queue works.

use std::collections::BTreeSet;
use std::path::Path;

use client::Client;
use serde_json::Value;

/// One log without gaps, one end, no word of a stale worker, and an artifact that is whole. Gives the kinds of its events.
pub async fn check(client: &Client, artifacts: &Path, job: &Value) -> Vec<String> {
    let id = job["id"].as_str().unwrap();
    let mut watch = client.watch(id);
    let (mut seqs, mut kinds, mut attempts) = (Vec::new(), Vec::new(), BTreeSet::new());
    while let Some(event) = watch.next().await.unwrap() {
        if ["snapshot", "progress", "end"].contains(&event.kind.as_str()) {
            continue;
        }
        if event.kind == "started" {
            let attempt = event.data["data"]["attempt"].as_i64().unwrap();
            assert!(attempts.insert(attempt), "{id}: attempt {attempt} began twice");
        }
        seqs.push(event.data["id"].as_str().unwrap().to_owned());
        kinds.push(event.kind);
    }
    let numbers: Vec<String> = (1..=seqs.len()).map(|n| n.to_string()).collect();
    assert_eq!(seqs, numbers, "{id}: the log has gaps");
    let terminal = |kind: &&String| ["succeeded", "failed", "cancelled"].contains(&kind.as_str());
    assert_eq!(kinds.iter().filter(terminal).count(), 1, "{id}: {kinds:?}");
    let last = kinds.last().unwrap();
    assert_eq!(*last, job["status"].as_str().unwrap(), "{id}: {kinds:?}");
    let told = job["attempts"].as_array().unwrap();
    assert_eq!(told.len(), attempts.len(), "{id}: {job}");
    let open = told.iter().filter(|attempt| attempt["finished_at"].is_null()).count();
    assert_eq!(open, 0, "{id}: an attempt has no end: {job}");
    for attempt in &told[..told.len().saturating_sub(1)] {
        let outcome = attempt["outcome"].as_str().unwrap();
        assert!(["retried", "released", "worker_lost"].contains(&outcome), "{id}: a finish by a stale worker: {job}");
    }
    let artifact = artifacts.join(id);
    if last == "succeeded" {
        let uri = job["publication"]["uri"].as_str().unwrap();
        assert_whole(Path::new(uri.trim_start_matches("file://")), &job["publication"]["files"]);
    } else if artifact.exists() {
        // published in the moment in which it was cancelled or lost: not half, then
        let manifest = std::fs::read(artifact.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_whole(&artifact, &manifest["outputs"]);
    }
    kinds
}

fn assert_whole(artifact: &Path, files: &Value) {
    for file in files.as_array().unwrap() {
        let path = artifact.join(file["path"].as_str().unwrap());
        assert_eq!(checkpoint::digest_file(&path).unwrap(), file["sha256"], "{}", path.display());
    }
}
