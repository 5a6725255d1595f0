//! The commands that speak to a server, as a pipeline calls them: exit codes, JSON on standard output, words beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::keys::key;
use crate::{BINARY, Served};

const RECIPE: &str = "examples/recipes/linear.yml";
const GRID: &str = "\ngrid:\n  models:\n    examples/models/upper: {weight: [1, 3]}\n";

/// A server and one who has a key of it, told by the environment.
struct Caller {
    served: Served,
    key: String,
}

impl Caller {
    fn new(scopes: &str, flags: &[&str]) -> Caller {
        let served = Served::start(flags);
        let key = key(&served.dir.path().join("data"), "research", scopes);
        Caller { served, key }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(testkit::workspace());
        command.env("AMALGAM_URL", &self.served.server.url).env("AMALGAM_API_KEY", &self.key);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The only JSON value on standard output, once the exit code is right.
    fn json(&self, args: &[&str], code: i32) -> Value {
        let mut lines = self.lines(args, code);
        assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
        lines.remove(0)
    }

    /// A JSON value a line.
    fn lines(&self, args: &[&str], code: i32) -> Vec<Value> {
        let output = self.run(&[args, &["--json"]].concat());
        let said = format!("{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{said}");
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect(&said)).collect()
    }

    fn path(&self, name: &str) -> String {
        self.served.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

#[test]
fn every_command_ends_with_its_exit_code_and_writes_json_alone() {
    let caller = Caller::new("jobs:read,jobs:write", &[]);
    let options = ["--label", "team=a", "--metadata", "who=me", "--priority", "-5", "--timeout", "600"];
    let more = ["--queue-ttl", "600", "--max-attempts", "2", "--reuse", "--idempotency-key", "once"];
    let submit = [&["submit", RECIPE], &options[..], &more].concat();
    let job = caller.json(&submit, 0);
    for (field, value) in
        [("/labels/team", "\"a\""), ("/metadata/who", "\"me\""), ("/priority", "-5"), ("/max_attempts", "2")]
    {
        assert_eq!(job.pointer(field).unwrap().to_string(), value, "{job}");
    }
    assert_eq!(job["timeout_seconds"].as_f64(), Some(600.0), "{job}");
    assert_eq!(caller.json(&submit, 0)["id"], job["id"]);
    let job = id(&job);
    let watched = caller.lines(&["watch", job], 0);
    assert_eq!(watched.last().unwrap()["event"], "end");
    let submitted = caller.lines(&["submit", RECIPE, "--watch"], 0);
    assert_eq!(submitted.last().unwrap()["data"]["status"], "succeeded");
    assert_eq!(caller.json(&["submit", RECIPE, "--wait", "60"], 0)["status"], "succeeded");

    let mine = ["jobs", "--label", "team=a", "--status", "succeeded", "--method", "linear"];
    let found = caller.lines(&[&mine[..], &["--created-after", "2020-01-01T00:00:00Z"]].concat(), 0);
    assert_eq!(found.iter().map(id).collect::<Vec<_>>(), [job]);
    assert_eq!(caller.lines(&["jobs", "--created-before", "2020-01-01T00:00:00Z"], 0).len(), 0);
    assert_eq!((caller.lines(&["jobs", "--limit", "2"], 0).len(), caller.lines(&["jobs", "--all"], 0).len()), (2, 3));

    let planned = caller.json(&["plan", RECIPE, "--remote"], 0);
    assert_eq!(planned, caller.json(&["plan", RECIPE], 0));
    let shown = |args: &[&str]| text(&caller.run(args).stdout);
    assert_eq!(shown(&["plan", RECIPE, "--remote", "--tensors"]), shown(&["plan", RECIPE, "--tensors"]));

    let again = caller.json(&["retry", job], 0);
    assert_eq!(again["retry_of"], job);
    caller.lines(&["watch", id(&again)], 0);
    let later = caller.json(&["submit", RECIPE, "--run-at", "2099-01-01T00:00:00Z", "--wait", "1"], 0);
    assert_eq!(later["status"], "queued");
    assert_eq!(caller.json(&["cancel", id(&later)], 0)["status"], "cancelled");
    assert_eq!(caller.lines(&["watch", id(&later)], 1).last().unwrap()["event"], "end");
    assert_eq!(caller.json(&["cancel", id(&again)], 2)["code"], "job_finished");
    assert_eq!(caller.json(&["artifacts", job], 0)["object"], "list");
    let events = caller.lines(&["events", "--after", "0", "--limit", "3"], 0);
    let stored = events.iter().filter(|event| !["snapshot", "progress"].contains(&event["event"].as_str().unwrap()));
    assert_eq!(stored.filter(|event| event["id"].is_string()).count(), 3, "{events:?}");
    let logged = caller.lines(&["logs", job, "--follow"], 0);
    let last = logged.last().unwrap()["line"].as_str().unwrap().to_owned();
    assert!(logged.len() >= 6 && last.contains(" succeeded "), "{logged:?}");
    assert_eq!(caller.lines(&["logs", job, "--tail", "1"], 0).last().unwrap()["line"], last.as_str());

    assert_eq!(caller.json(&["delete", id(&again)], 0)["deleted"], true);
    let own = caller.json(&["submit", RECIPE, "--wait", "60"], 0);
    let artifact = crate::published_dir(&own);
    assert!(artifact.join("manifest.json").exists());
    assert_eq!(caller.json(&["delete", id(&own), "--artifacts"], 0)["deleted"], true);
    assert!(!artifact.exists());

    let listed = caller.run(&["keys", "list", "--data-dir", &caller.path("data")]);
    let table = text(&listed.stdout);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(table.starts_with("id ") && row[4].ends_with('Z') && row[5] == "-" && row[6].ends_with('Z'), "{table}");
    assert_eq!(row[7], "-", "{table}");
}

#[test]
fn what_is_refused_or_out_of_reach_is_told_as_json_with_its_exit_code() {
    let caller = Caller::new("jobs:read", &["--workers", "0"]);
    let to = caller.path("to");
    let refused: [(&[&str], &str); 12] = [
        (&["watch", "job_0"], "job_not_found"),
        (&["watch", "group_0"], "group_not_found"),
        (&["artifacts", "job_0", "--to", &to], "job_not_found"),
        (&["artifacts", "group_0"], "group_not_found"),
        (&["jobs", "--status", "done"], "invalid_query"),
        (&["jobs", "--label", "team"], "invalid_query"),
        (&["events", "--after", "99999"], "invalid_query"),
        (&["submit", RECIPE], "missing_scope"),
        (&["cancel", "job_0"], "missing_scope"),
        (&["retry", "job_0"], "missing_scope"),
        (&["delete", "job_0", "--artifacts"], "missing_scope"),
        (&["plan", RECIPE, "--remote"], "missing_scope"),
    ];
    for (args, code) in refused {
        assert_eq!(caller.json(args, 2)["code"], code, "{args:?}");
    }
    caller.json(&["logs", "job_0", "--tail", "5"], 2);
    assert!(caller.json(&["submit", "nosuch.yml"], 2)["detail"].as_str().unwrap().contains("nosuch.yml"));
    for args in [&["check", "nosuch.yml"][..], &["plan", "nosuch.yml"], &["merge", "nosuch.yml", &to]] {
        assert!(caller.json(args, 2)["detail"].as_str().unwrap().contains("nosuch.yml"), "{args:?}");
    }
    let away = ["--url", "http://127.0.0.1:1", "--patience", "0"];
    for args in [&["jobs"][..], &["watch", "job_0"], &["events"], &["submit", RECIPE], &["logs", "job_0"]] {
        let told = caller.json(&[args, &away].concat(), 1);
        assert!(told["detail"].as_str().unwrap().starts_with("cannot reach"), "{args:?}: {told}");
    }
    for help in [&["--help"][..], &["submit", "--help"], &["artifacts", "--help"]] {
        assert!(text(&caller.run(help).stdout).contains("Exit codes:"), "{help:?}");
    }
}

#[test]
fn who_may_submit_and_not_look_is_told_which_scope_is_lacking() {
    let caller = Caller::new("jobs:write", &["--workers", "0"]);
    let output = caller.run(&["submit", RECIPE, "--watch"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("`jobs:read`") && told.contains("is submitted and goes on"), "{told}");
    assert!(text(&output.stdout).starts_with("job_"));
}

#[test]
fn a_key_is_made_listed_and_revoked_as_json() {
    let caller = Caller::new("jobs:read", &["--workers", "0"]);
    let data = caller.path("data");
    let keys = |args: &[&str], code| caller.json(&[&["keys"], args, &["--data-dir", &data]].concat(), code);
    let made = keys(&["create", "--name", "ci", "--tenant", "research", "--scope", "jobs:read"], 0);
    assert!(made["key"].as_str().unwrap().starts_with(&format!("amk_{}_", id(&made))));
    assert_eq!(keys(&["list"], 0).as_array().unwrap().len(), 2);
    assert_eq!(keys(&["revoke", id(&made)], 0)["revoked"], true);
    assert!(keys(&["revoke", "nosuch"], 2)["detail"].is_string());
}

/// Answers one request and gives its first line.
fn answering(listener: &TcpListener, body: &str) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
    let asked = lines.next().unwrap();
    assert!(lines.any(|line| line.is_empty()));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    asked
}

#[test]
fn a_log_is_written_line_by_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    for (flags, written) in [(&[][..], "one\ntwo\n"), (&["--json"], "{\"line\":\"one\"}\n{\"line\":\"two\"}\n")] {
        let mut logs = Command::new(BINARY);
        logs.args(["logs", "job_1", "--follow", "--tail", "2", "--url", &url]).args(flags).stdout(Stdio::piped());
        let child = logs.spawn().unwrap();
        assert_eq!(answering(&listener, "one\ntwo\n"), "GET /v1/jobs/job_1/logs?follow=true&tail=2 HTTP/1.1");
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), written));
    }
}

#[tokio::test]
async fn all_jobs_are_listed_page_by_page_and_a_limit_may_be_more_than_a_page() {
    let flags = ["--workers", "0", "--submits-per-minute-max", "1000", "--queued-per-key-max", "1000"];
    let caller = Caller::new("jobs:read,jobs:write", &flags);
    let client = caller.served.client().with_key(Some(caller.key.clone()));
    for _ in 0..103 {
        client.submit(crate::example("linear.yml"), &[]).await.unwrap();
    }
    let listed = |args: &[&str]| {
        let jobs = caller.lines(&[&["jobs"], args].concat(), 0);
        jobs.iter().map(|job| id(job).to_owned()).collect::<Vec<_>>()
    };
    let all = listed(&["--all"]);
    assert_eq!(all.len(), 103);
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 103);
    assert_eq!(listed(&["--limit", "101"]), all[..101]);
    assert_eq!(listed(&[]), all[..20]);
    let shown = caller.run(&["jobs"]);
    assert!(text(&shown.stderr).contains("--all"), "{}", text(&shown.stderr));
}

/// Begins to watch a job, and gives its id once it is known.
fn watching(caller: &Caller, more: &[&str]) -> (Child, String) {
    let mut command = caller.command(&[&["submit", RECIPE, "--watch"], more].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut id).unwrap();
    (child, id.trim().to_owned())
}

fn interrupted(mut child: Child, signal: &str) -> (Option<i32>, String) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    (child.wait().unwrap().code(), told)
}

#[test]
fn an_interrupted_watch_cancels_the_job_where_that_is_asked_for_and_else_says_that_it_goes_on() {
    let caller = Caller::new("jobs:read,jobs:write", &["--workers", "0"]);
    let status = |id: &str| {
        let jobs = caller.lines(&["jobs"], 0);
        jobs.into_iter().find(|job| job["id"] == id).unwrap()["status"].as_str().unwrap().to_owned()
    };
    let (child, job) = watching(&caller, &["--cancel-on-interrupt"]);
    let (code, told) = interrupted(child, "-INT");
    assert!(code == Some(130) && told.contains("is cancelled"), "{code:?} {told}");
    assert_eq!(status(&job), "cancelled");
    let (child, job) = watching(&caller, &[]);
    let (code, told) = interrupted(child, "-TERM");
    assert!(code == Some(143) && told.contains(&format!("{job} goes on")), "{code:?} {told}");
    assert_eq!(status(&job), "queued");
}

#[test]
fn the_artifacts_of_a_group_come_into_a_directory_each_and_a_download_goes_on() {
    let caller = Caller::new("jobs:read,jobs:write", &[]);
    let recipe = caller.path("recipe.yml");
    std::fs::write(&recipe, crate::example("linear.yml") + GRID).unwrap();
    let lines = caller.lines(&["submit", &recipe, "--watch"], 0);
    let group = id(&lines[0]);
    let to = caller.path("to");
    let artifacts = ["artifacts", group, "--to", &to];
    let said = caller.json(&artifacts, 0);
    let names: Vec<&str> = said["data"].as_array().unwrap().iter().map(|v| v["variant"].as_str().unwrap()).collect();
    assert_eq!(names, ["upper.weight-1", "upper.weight-3"]);
    let dir = std::path::Path::new(&to).join(names[1]);
    let model = dir.join("model.safetensors");
    let whole = std::fs::read(&model).unwrap();
    for file in said["data"][1]["artifacts"]["data"].as_array().unwrap() {
        let path = dir.join(file["path"].as_str().unwrap());
        assert_eq!(checkpoint::digest_file(&path).unwrap(), file["sha256"], "{}", path.display());
    }

    std::fs::remove_file(&model).unwrap();
    std::fs::write(dir.join(".model.safetensors.partial"), &whole[..whole.len() / 2]).unwrap();
    let kept = dir.join("config.json");
    let written = std::fs::metadata(&kept).unwrap().modified().unwrap();
    let shown = text(&caller.run(&artifacts).stdout);
    assert!(shown.contains("  upper.weight-3/model.safetensors\n"), "{shown}");
    assert_eq!(std::fs::read(&model).unwrap(), whole);
    assert_eq!(std::fs::metadata(&kept).unwrap().modified().unwrap(), written);
    assert!(!dir.join(".model.safetensors.partial").exists());

    std::fs::write(&kept, "{}").unwrap();
    std::fs::remove_file(&model).unwrap();
    let refused = caller.json(&artifacts, 2);
    assert!(refused["detail"].as_str().unwrap().contains("config.json exists and is another file"), "{refused}");
    assert!(!model.exists() && std::fs::read(&kept).unwrap() == b"{}");
}
