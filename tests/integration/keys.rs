//! Keys from the command line to the last file: who may do what, and what is told of a key.

use std::path::Path;
use std::process::{Command, Output};

use client::{Client, ClientError};
use serde_json::Value;

use crate::{BINARY, Served, end_of, example, published_dir, start_server};

fn keys(data: &Path, args: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("keys")
        .args(args)
        .arg("--data-dir")
        .arg(data)
        .current_dir(testkit::workspace())
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

fn key(data: &Path, tenant: &str, scopes: &str) -> String {
    told(&keys(data, &["create", "--name", "test", "--tenant", tenant, "--scope", scopes]))
}

fn status(refused: &ClientError) -> u16 {
    match refused {
        ClientError::Refused(refused) => refused.status,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_tenant_works_with_its_key_and_sees_nothing_of_another() {
    let served = Served::start(&[]);
    let data = served.dir.path().join("data");
    let with = |key: &str| served.client().with_key(Some(key.to_owned()));
    assert!(served.client().jobs(&[]).await.is_ok(), "without keys none is asked for");
    let (mine, other) = (key(&data, "research", "jobs:read,jobs:write"), key(&data, "sales", "jobs:read"));
    assert_eq!(status(&served.client().jobs(&[]).await.unwrap_err()), 401);
    let output = vec![("output", "first".to_owned())];
    let job = with(&mine).submit(example("linear.yml"), &output).await.unwrap();
    let id = job["id"].as_str().unwrap();
    let job = end_of(&with(&mine), id).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    assert!(published_dir(&job).ends_with("artifacts/research/first"), "{job}");
    assert_eq!(status(&with(&other).job(id).await.unwrap_err()), 404);
    assert_eq!(status(&with(&other).submit(example("linear.yml"), &[]).await.unwrap_err()), 403);
    assert_eq!(with(&other).jobs(&[]).await.unwrap()["data"].as_array().unwrap().len(), 0);
    assert_eq!(status(&with(&mine).pause().await.unwrap_err()), 403);
    let listed: Value = serde_json::from_str(&told(&keys(&data, &["list", "--json"]))).unwrap();
    told(&keys(&data, &["revoke", listed[0]["id"].as_str().unwrap()]));
    assert_eq!(status(&with(&mine).job(id).await.unwrap_err()), 401);
}

#[tokio::test]
async fn a_server_without_keys_is_for_this_machine_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let serve = || {
        let mut serve = Command::new(BINARY);
        serve.args(["serve", "--listen", "0.0.0.0:0", "--data-dir"]).arg(&data).current_dir(testkit::workspace());
        serve
    };
    let refused = serve().output().unwrap();
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && reason.contains("amalgam keys create"), "{reason}");
    key(&data, "research", "jobs:read");
    let mut server = start_server(&data, &testkit::workspace(), &["--listen-any"]);
    let url = server.url.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(status(&Client::new(&url).unwrap().jobs(&[]).await.unwrap_err()), 401);
    assert!(server.terminate());
}

#[tokio::test]
async fn a_key_is_in_no_file_and_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let key = key(&data, "research", "jobs:read,jobs:write,admin");
    let mut server = start_server(&data, &testkit::workspace(), &["--log", "trace"]);
    let client = Client::new(&server.url).unwrap().with_key(Some(key.clone()));
    let job = client.submit(example("linear.yml"), &[]).await.unwrap();
    end_of(&client, job["id"].as_str().unwrap()).await;
    client.pause().await.unwrap();
    assert!(server.terminate());
    let secret = key.rsplit('_').next().unwrap();
    assert!(!server.log().contains(secret) && server.log().contains("job succeeded"));
    let mut files = vec![data];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
        seen += 1;
    }
    assert!(seen > 5);
}

#[test]
fn names_scopes_and_ids_that_are_none_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for (args, word) in [
        (vec!["create", "--name", "x", "--tenant", "../up", "--scope", "admin"], "tenant"),
        (vec!["create", "--name", "", "--tenant", "a", "--scope", "admin"], "name"),
        (vec!["create", "--name", "x", "--tenant", "a", "--scope", "jobs"], "jobs:read"),
        (vec!["create", "--name", "x", "--tenant", "a"], "--scope"),
        (vec!["revoke", "nosuch"], "keys list"),
    ] {
        let output = keys(&dir.path().join("data"), &args);
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && reason.contains(word), "{args:?}: {reason}");
    }
}
