//! Keys while the database fails: what was made is good, what was revoked is not, and a use that cannot be noted is no refusal.

use std::path::Path;
use std::process::{Command, Output};

use client::Client;
use testkit::TestServer;

use super::{BINARY, ERROR, KILL, PANIC, Side};

pub const STEPS: &[&str] = &["store.create_key", "store.revoke_key", "store.use_key"];

fn keys(data: &Path, args: &[&str], faults: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("keys").args(args).arg("--data-dir").arg(data).env("FAILPOINTS", faults);
    command.current_dir(testkit::workspace()).output().unwrap()
}

const CREATE: &[&str] = &["create", "--name", "test", "--tenant", "a", "--scope", "jobs:read"];

fn created(data: &Path) -> String {
    let output = keys(data, CREATE, "");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn id(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

async fn is_good(data: &Path, key: &str) -> bool {
    let mut server = TestServer::start(BINARY, data, &testkit::workspace(), &["--workers", "0"]);
    let answer = Client::new(&server.url).unwrap().with_key(Some(key.to_owned())).jobs(&[]).await;
    assert!(server.terminate());
    answer.is_ok()
}

#[tokio::test]
async fn a_key_is_made_or_revoked_whatever_fails() {
    for side in Side::BOTH {
        for how in [ERROR, PANIC, KILL] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let fault = |step: &str| format!("{}=1*{how}", side.of(step));
            // who made it does not know it, so that it opens nothing
            assert!(!keys(&data, CREATE, &fault("store.create_key")).status.success(), "{side:?} {how}");
            let key = created(&data);
            assert!(!keys(&data, &["revoke", id(&key)], &fault("store.revoke_key")).status.success());
            assert_eq!(is_good(&data, &key).await, side == Side::Before, "{side:?} {how}");
            assert!(keys(&data, &["revoke", id(&key)], "").status.success());
            assert!(!is_good(&data, &key).await);
        }
    }
}

#[tokio::test]
async fn a_use_that_cannot_be_noted_is_asked_again() {
    for side in Side::BOTH {
        for how in [ERROR, KILL] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            let key = created(&data);
            let faults = format!("{}=1*{how}", side.of("store.use_key"));
            let flags = ["--workers", "0"];
            let mut server = TestServer::start_with_faults(BINARY, &data, &testkit::workspace(), &flags, &faults);
            let ask = async |server: &TestServer| {
                Client::new(&server.url).unwrap().with_key(Some(key.clone())).jobs(&[]).await
            };
            let first = ask(&server).await;
            if how == KILL {
                assert!(first.is_err() && !server.ended().success());
                server.mend();
                server.restart();
            } else {
                assert!(first.is_ok(), "{side:?} {how}: {first:?}");
                assert!(server.faults_told() > 0);
            }
            assert!(ask(&server).await.is_ok());
            assert!(server.terminate());
        }
    }
}
