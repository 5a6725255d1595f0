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

pub fn key(data: &Path, tenant: &str, scopes: &str) -> String {
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
    let mut server = start_server(&data, &testkit::workspace(), &["--listen", "0.0.0.0:0"]);
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
        (vec!["revoke", "nosuch"], "no database"),
        (vec!["list"], "no database"),
    ] {
        let output = keys(&dir.path().join("data"), &args);
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && reason.contains(word), "{args:?}: {reason}");
    }
    let made = key(&dir.path().join("data"), "a", "admin");
    let unknown = keys(&dir.path().join("data"), &["revoke", &made.replace("amk_", "amk_0")]);
    let reason = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && reason.contains("keys list") && !reason.contains(&made[20..]), "{reason}");
    told(&keys(&dir.path().join("data"), &["revoke", &made]));
}

#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let served = Served::start(&["--workers", "0"]);
    let data = served.dir.path().join("data");
    let key = key(&data, "research", "jobs:read,jobs:write");
    let client = served.client().with_key(Some(key.clone()));
    let job = client.submit(example("linear.yml"), &[]).await.unwrap();
    let mut watch = client.watch(job["id"].as_str().unwrap());
    assert_eq!(watch.next().await.unwrap().unwrap().kind, "snapshot");
    told(&keys(&data, &["revoke", &key]));
    let refused = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(std::time::Duration::from_secs(20), refused).await.expect("the stream ends");
    assert_eq!(status(&refused), 401);
}

#[tokio::test]
async fn a_tenant_cannot_merge_what_another_has_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for name in ["sort", "upper"] {
        let (from, to) =
            (testkit::workspace().join("examples/models").join(name), dir.path().join("models").join(name));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let (mine, other) = (key(&data, "alpha", "jobs:read,jobs:write"), key(&data, "beta", "jobs:read,jobs:write"));
    let mut server = start_server(&data, dir.path(), &[]);
    let with = |key: &str| Client::new(&server.url).unwrap().with_key(Some(key.to_owned()));
    let recipe = |model: &str| format!("merge_method: passthrough\nmodels: [{{model: {model}}}]\n");
    let output = vec![("output", "secret".to_owned())];
    let job = with(&mine).submit(recipe("models/sort"), &output).await.unwrap();
    assert_eq!(end_of(&with(&mine), job["id"].as_str().unwrap()).await["status"], "succeeded");
    let made = recipe("data/artifacts/alpha/secret");
    let refused = with(&other).submit(made.clone(), &[]).await.unwrap_err();
    assert!(status(&refused) == 422 && refused.to_string().contains("no such directory"), "{refused}");
    let again = with(&mine).submit(made, &[]).await.unwrap();
    assert_eq!(end_of(&with(&mine), again["id"].as_str().unwrap()).await["status"], "succeeded");
    assert!(server.terminate());
}
