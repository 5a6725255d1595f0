//! What happens to a job when the process that runs it goes away.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testkit::{TestServer, sparse_checkpoint};

use crate::{end_of, published_dir};

/// Large enough that a merge takes a while, though the models take no room on disk.
const MODEL_BYTES: u64 = 600 << 20;

const RECIPE: &str =
    "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 2}}\n";

struct Slow {
    dir: tempfile::TempDir,
    server: TestServer,
}

impl Slow {
    fn start() -> Slow {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            sparse_checkpoint(&dir.path().join("models").join(name), MODEL_BYTES);
        }
        let flags = ["--threads", "1", "--lease-seconds", "900"];
        let server = crate::start_server(&dir.path().join("data"), &dir.path().join("models"), &flags);
        Slow { dir, server }
    }

    fn client(&self) -> client::Client {
        client::Client::new(&self.server.url).unwrap()
    }

    async fn submit(&self) -> String {
        let job = self.client().submit(RECIPE.to_owned(), &[]).await.unwrap();
        job["id"].as_str().unwrap().to_owned()
    }

    /// Waits until tensors are being written.
    async fn merging(&self, id: &str) {
        let mut watch = self.client().watch(id);
        while let Some(event) = watch.next().await.unwrap() {
            if event.kind == "planned" {
                let waiting = std::time::Instant::now();
                while is_empty(&self.work()) && waiting.elapsed() < Duration::from_secs(10) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                return;
            }
        }
        panic!("the job ended before it was planned");
    }

    fn work(&self) -> std::path::PathBuf {
        self.dir.path().join("data/work")
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

async fn kinds(client: &client::Client, id: &str) -> Vec<String> {
    let mut watch = client.watch(id);
    let mut kinds = Vec::new();
    while let Some(event) = watch.next().await.unwrap() {
        kinds.push(event.kind);
    }
    kinds
}

fn assert_whole(job: &Value) {
    assert_eq!(job["status"], "succeeded", "{job}");
    let dir = published_dir(job);
    for file in job["publication"]["files"].as_array().unwrap() {
        let path = dir.join(file["path"].as_str().unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file["bytes"].as_u64().unwrap(), "{}", path.display());
        assert_eq!(checkpoint::digest_file(&path).unwrap(), file["sha256"], "{}", path.display());
    }
}

#[tokio::test]
async fn a_server_killed_in_mid_merge_takes_the_job_up_again() {
    let mut slow = Slow::start();
    let id = slow.submit().await;
    slow.merging(&id).await;
    slow.server.kill();
    assert!(!is_empty(&slow.work()), "killed too late: the merge was over");
    assert!(is_empty(&slow.dir.path().join("data/artifacts")), "half an artifact was published");
    slow.server.restart();
    // far less than the lease: the dead worker's is ended when the next one starts
    let job = tokio::time::timeout(Duration::from_secs(300), end_of(&slow.client(), &id)).await.unwrap();
    assert_whole(&job);
    assert_eq!(job["attempt"], 2);
    let kinds = kinds(&slow.client(), &id).await;
    assert!(kinds.contains(&"lease_expired".to_owned()), "{kinds:?}");
    assert!(slow.server.terminate());
    assert!(is_empty(&slow.work()));
}

#[tokio::test]
async fn a_server_asked_to_stop_gives_its_job_back_and_ends_well() {
    let mut slow = Slow::start();
    let id = slow.submit().await;
    slow.merging(&id).await;
    assert!(slow.server.terminate());
    slow.server.restart();
    let job = end_of(&slow.client(), &id).await;
    assert_whole(&job);
    let kinds = kinds(&slow.client(), &id).await;
    assert!(kinds.contains(&"released".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn a_running_job_is_cancelled_and_leaves_nothing_behind() {
    let mut slow = Slow::start();
    let id = slow.submit().await;
    slow.merging(&id).await;
    let cancelling = slow.client().cancel(&id).await.unwrap();
    assert_eq!(cancelling["status"], "cancelling");
    let job = end_of(&slow.client(), &id).await;
    assert_eq!(job["status"], "cancelled", "{job}");
    assert!(is_empty(&slow.dir.path().join("data/artifacts")));
    let again = slow.client().cancel(&id).await.unwrap();
    assert_eq!(again["status"], "cancelled");
    assert!(slow.server.terminate());
    assert!(is_empty(&slow.work()));
}
