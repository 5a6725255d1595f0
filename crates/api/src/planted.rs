//! That a key that was sent is nowhere to be read: a test plants keys wherever a client could put one, and then reads all there
//! is.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, Once};

use axum::http::Method;
use jobs::{NewKey, Scope};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::testing::{Fixture, RECIPE, YAML};

/// All that this process logs from now on, of every thread and level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A subscriber of one thread would not hear those that speak to the database.
fn log() -> Log {
    static STARTED: Once = Once::new();
    let log = Log::default();
    STARTED.call_once(|| {
        let subscriber = tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE);
        let subscriber = subscriber.with_writer(log.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other test sets one for the process");
    });
    log
}

fn files(dir: &Path, found: &mut Vec<u8>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.extend(std::fs::read(&path).unwrap()),
        }
    }
}

fn holds(all: &[u8], secret: &str) -> bool {
    all.windows(secret.len()).any(|part| part == secret.as_bytes())
}

#[tokio::test]
async fn a_planted_key_is_in_no_log_no_answer_and_no_file() {
    let log = log();
    let fixture = Fixture::new().await;
    let new =
        NewKey { name: "test".into(), tenant: "a".into(), scopes: Scope::ALL.into(), expires_at: None, adopts: false };
    let own = fixture.store.create_key(new).await.unwrap().1.reveal().to_owned();
    let bearer = format!("Bearer {own}");
    // one of another server, and a token of another service
    let stranger = format!("amk_0123456789ab_{}", "5eed".repeat(16));
    let hub = format!("hf_{}", "pLanTed".repeat(5));
    let mut answers = Vec::new();
    for secret in [&own, &stranger, &hub] {
        let hook =
            json!({"recipe_yaml": RECIPE, "webhook": {"url": format!("https://h/?t={secret}"), "secret": secret}});
        let labelled = json!({"recipe_yaml": RECIPE, "labels": {"k": secret}}).to_string();
        let noted = json!({"recipe_yaml": RECIPE, "metadata": {secret.as_str(): "v"}}).to_string();
        let (post, get) = (Method::POST, Method::GET);
        let json_type = "application/json";
        let requests = [
            (post.clone(), "/v1/jobs".to_owned(), YAML, format!("{RECIPE}# {secret}\n")),
            (post.clone(), "/v1/jobs".to_owned(), YAML, RECIPE.replace("model: b", &format!("model: {secret}"))),
            (post.clone(), format!("/v1/jobs?label=k={secret}"), YAML, RECIPE.to_owned()),
            (post.clone(), format!("/v1/jobs?output={secret}"), YAML, RECIPE.to_owned()),
            (post.clone(), format!("/v1/jobs?token={secret}"), YAML, RECIPE.to_owned()),
            (post.clone(), "/v1/jobs".to_owned(), json_type, labelled),
            (post.clone(), "/v1/jobs".to_owned(), json_type, noted),
            (post.clone(), "/v1/jobs".to_owned(), json_type, hook.to_string()),
            (post.clone(), "/v1/plans".to_owned(), YAML, RECIPE.replace("model: b", &format!("model: {secret}"))),
            (post.clone(), format!("/v1/jobs/{secret}/cancel"), YAML, String::new()),
            (post, format!("/v1/workers/{secret}/drain"), YAML, String::new()),
            (get.clone(), format!("/v1/jobs?token={secret}"), YAML, String::new()),
            (get.clone(), format!("/v1/jobs?after={secret}"), YAML, String::new()),
            (get.clone(), format!("/v1/jobs?{secret}=1"), YAML, String::new()),
            (get.clone(), format!("/v1/audit?action={secret}"), YAML, String::new()),
            (get.clone(), format!("/v1/jobs/{secret}"), YAML, String::new()),
            (get, format!("/{secret}"), YAML, String::new()),
        ];
        for (method, path, content_type, body) in requests {
            let headers = [("authorization", bearer.as_str()), ("content-type", content_type)];
            let answer = fixture.send(method.clone(), &path, &headers, &body).await;
            assert!(
                (400..500).contains(&answer.status),
                "{method} {}: {}",
                path.replace(secret, "SECRET"),
                answer.status
            );
            answers.push(answer.text());
        }
        for header in ["idempotency-key", "x-request-id", "traceparent", "user-agent", "referer", "cookie", "accept"] {
            let headers = [("authorization", bearer.as_str()), ("content-type", YAML), (header, secret.as_str())];
            let answer = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await;
            answers.push(format!("{} {}", answer.header("x-request-id"), answer.text()));
        }
        for wrong in [format!("Bearer {secret}0"), format!("Basic {secret}"), (*secret).clone()] {
            answers.push(fixture.send(Method::GET, "/v1/jobs", &[("authorization", &wrong)], "").await.text());
        }
    }
    // of the jobs that were made in spite of a header
    let jobs = fixture.send(Method::GET, "/v1/jobs?limit=100", &[("authorization", &bearer)], "").await;
    for job in jobs.json()["data"].as_array().unwrap() {
        let events = job["links"]["events"].as_str().unwrap();
        answers.push(fixture.send(Method::GET, events, &[("authorization", &bearer)], "").await.text());
    }
    answers.push(jobs.text());
    answers.push(fixture.send(Method::GET, "/v1/audit?limit=100", &[("authorization", &bearer)], "").await.text());
    answers.push(fixture.meter.text());
    let mut kept = Vec::new();
    files(fixture.path(), &mut kept);
    let logged = log.0.lock().unwrap().clone();
    assert!(kept.len() > 4096 && holds(&logged, "insert into jobs"), "the log and the files were read");
    for secret in [&own, &stranger, &hub] {
        // what a key begins with is its id, and no secret
        let secret = &secret[secret.len() - 24..];
        assert!(!holds(&kept, secret), "in a file");
        assert!(!holds(&logged, secret), "in the log");
        assert!(answers.iter().all(|answer| !answer.contains(secret)), "in an answer: {answers:?}");
    }
}
