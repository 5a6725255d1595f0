//! How every route of the contract refuses: one table for each way in which a request can be wrong, with the exact documents.
//! A route that is new, or answers otherwise than before, changes a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use axum::http::Method;
use jobs::{Scope, WorkerId};
use serde_json::{Value, json};

use crate::ApiLimits;
use crate::caller::{Needed, needed};
use crate::contract::document;
use crate::testing::{Answer, Fixture, RECIPE, VARIANTS, YAML, a_delivery, limits, routes};

const BODY_BYTES_MAX: usize = 4096;
const JSON: &str = "application/json";
const HOOK: &str = r#"{"url": "https://example.org/"}"#;

/// A server with a key of every scope in each of two tenants.
struct Asked {
    fixture: Fixture,
    mine: String,
    other: String,
}

/// A route, asked for something of the first tenant that is there.
struct Route {
    method: Method,
    /// As in the contract.
    path: String,
    /// Empty where the path names nothing.
    id: String,
    takes: Vec<String>,
}

impl Route {
    fn uri(&self) -> String {
        self.path.replace("{id}", &self.id).replace("{path}", "model.safetensors")
    }

    /// A request that is right.
    fn body(&self, content_type: &str) -> &'static str {
        match (self.path.as_str(), content_type) {
            ("/v1/webhooks", _) => HOOK,
            (_, YAML) => RECIPE,
            (_, _) => r#"{"recipe_yaml": "merge_method: linear"}"#,
        }
    }

    /// Reads have no body that could be wrong.
    fn has_room_for_a_body(&self) -> bool {
        self.method != Method::GET
    }
}

impl Asked {
    async fn new() -> Self {
        let limits = ApiLimits {
            body_bytes_max: BODY_BYTES_MAX,
            requests_per_minute_max: 100_000,
            submits_per_minute_max: 100_000,
            ..limits()
        };
        let fixture = Fixture::with_limits(limits).await;
        let (mine, other) = (fixture.key("a", &Scope::ALL).await, fixture.key("b", &Scope::ALL).await);
        Self { fixture, mine, other }
    }

    /// Every route of the contract, each with something of its own.
    async fn routes(&self) -> Vec<Route> {
        let (contract, mut all) = (document(), Vec::new());
        for (method, path) in routes() {
            let id = if path.contains("{id}") { self.subject(&path).await } else { String::new() };
            let takes = content_types(&contract, &method, &path);
            all.push(Route { method, path, id, takes });
        }
        all
    }

    async fn subject(&self, path: &str) -> String {
        match path.split('/').nth(2) {
            Some("jobs") => self.fixture.submit_as(&self.mine).await,
            Some("groups") => {
                let headers = [("authorization", self.mine.as_str()), ("content-type", YAML)];
                let group = self.fixture.send(Method::POST, "/v1/jobs", &headers, VARIANTS).await.json();
                group["id"].as_str().unwrap().to_owned()
            }
            Some("webhooks") => a_delivery(&self.fixture, &self.mine).await.0,
            Some("deliveries") => a_delivery(&self.fixture, &self.mine).await.1,
            Some("workers") => {
                let worker = WorkerId::generate("node");
                self.fixture.store.report_worker(&worker, &json!({})).await.unwrap();
                worker.to_string()
            }
            _ => panic!("say here what {path} names"),
        }
    }

    async fn ask(&self, route: &Route, headers: &[(&str, &str)], body: &str) -> Answer {
        self.fixture.send(route.method.clone(), &route.uri(), headers, body).await
    }

    /// A request that is right but for the headers, which come last.
    async fn ask_with(&self, route: &Route, headers: &[(&str, &str)]) -> Answer {
        let content_type = route.takes.first().map_or("", String::as_str);
        let body = if content_type.is_empty() { "" } else { route.body(content_type) };
        self.ask(route, &[&[("content-type", content_type)], headers].concat(), body).await
    }
}

fn content_types(contract: &Value, method: &Method, path: &str) -> Vec<String> {
    let operation = &contract["paths"][path][method.as_str().to_lowercase()];
    let content = operation["requestBody"]["content"].as_object();
    content.into_iter().flatten().map(|(content_type, _)| content_type.clone()).collect()
}

/// Routes by how they answer, in the order in which they were asked.
struct Table {
    contract: Value,
    lines: Vec<(String, String)>,
}

impl Table {
    fn new() -> Self {
        Self { contract: document(), lines: Vec::new() }
    }

    fn skip(&mut self, route: &Route) {
        self.lines.push((format!("{} {} -> -", route.method, route.path), String::new()));
    }

    /// An error is a whole problem document, of a status that the contract has for the route.
    fn add(&mut self, route: &Route, asked: &str, answer: &Answer) {
        let line = format!("{} {}{asked} -> {}", route.method, route.path, answer.status);
        if answer.status < 400 {
            return self.lines.push((line, String::new()));
        }
        let responses = &self.contract["paths"][&route.path][route.method.as_str().to_lowercase()]["responses"];
        let status = answer.status.to_string();
        let codes = responses[&status]["x-codes"].as_array().cloned().unwrap_or_default();
        assert!(codes.contains(&answer.json()["code"]), "the contract has no such code for {line}: {}", answer.text());
        self.lines.push((line, told(answer, &route.id)));
    }

    fn text(self) -> String {
        let mut order: Vec<String> = Vec::new();
        let mut lines_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (line, document) in self.lines {
            if !order.contains(&document) {
                order.push(document.clone());
            }
            lines_of.entry(document).or_default().push(line);
        }
        let mut text = String::new();
        for document in order {
            writeln!(text, "{}\n{document}", lines_of[&document].join("\n")).unwrap();
        }
        text
    }
}

/// The document of an error, without what differs each time.
fn told(answer: &Answer, id: &str) -> String {
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let mut body = answer.json();
    assert_eq!(body["status"], answer.status);
    assert_eq!(body["request_id"], answer.header("x-request-id"));
    let code = body["code"].as_str().unwrap();
    assert_eq!(body["type"], format!("urn:amalgam:problem:{}", code.replace('_', "-")));
    body["request_id"] = json!("[request id]");
    let named = ["allow", "www-authenticate", "retry-after"].map(|name| (name, answer.header(name)));
    let headers: String =
        named.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}: {value}\n")).collect();
    let text = format!("{headers}{}\n", serde_json::to_string_pretty(&body).unwrap());
    if id.is_empty() { text } else { text.replace(id, "[id]") }
}

#[tokio::test]
async fn without_a_key() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    for route in asked.routes().await {
        match needed(&route.method, &route.path) {
            Some(Needed::Nothing) => table.skip(&route),
            _ => table.add(&route, "", &asked.ask_with(&route, &[]).await),
        }
    }
    insta::assert_snapshot!(table.text());
}

#[tokio::test]
async fn with_every_scope_but_the_one_that_is_needed() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    for route in asked.routes().await {
        let lacking: BTreeSet<Scope> = match needed(&route.method, &route.path).unwrap() {
            Needed::Nothing | Needed::Key => BTreeSet::new(),
            Needed::Scope(scope) => [scope].into(),
            Needed::Either(one, other) => [one, other].into(),
        };
        if lacking.is_empty() {
            table.skip(&route);
            continue;
        }
        let others: Vec<Scope> = Scope::ALL.into_iter().filter(|scope| !lacking.contains(scope)).collect();
        let key = asked.fixture.key("a", &others).await;
        table.add(&route, "", &asked.ask_with(&route, &[("authorization", &key)]).await);
    }
    insta::assert_snapshot!(table.text());
}

#[tokio::test]
async fn as_another_tenant() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    for route in asked.routes().await {
        // workers are nobody's
        if route.id.is_empty() || route.path.contains("workers") {
            table.skip(&route);
        } else {
            table.add(&route, "", &asked.ask_with(&route, &[("authorization", &asked.other)]).await);
        }
    }
    insta::assert_snapshot!(table.text());
}

#[tokio::test]
async fn from_a_page_of_another_site() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    for route in asked.routes().await {
        let headers = [("authorization", asked.mine.as_str()), ("origin", "https://evil.example")];
        table.add(&route, "", &asked.ask_with(&route, &headers).await);
    }
    insta::assert_snapshot!(table.text());
}

#[tokio::test]
async fn with_a_body_that_is_too_large() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    let large = "#".repeat(BODY_BYTES_MAX + 1);
    for route in asked.routes().await {
        if !route.has_room_for_a_body() {
            table.skip(&route);
            continue;
        }
        let content_type = route.takes.first().map_or(JSON, String::as_str);
        let headers = [("authorization", asked.mine.as_str()), ("content-type", content_type)];
        table.add(&route, "", &asked.ask(&route, &headers, &large).await);
    }
    insta::assert_snapshot!(table.text());
}

#[tokio::test]
async fn with_a_content_type_that_is_not_taken() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    for route in asked.routes().await {
        if route.takes.is_empty() {
            table.skip(&route);
            continue;
        }
        for (content_type, name) in [("text/plain", " as text/plain"), ("", " as nothing")] {
            let headers = [("authorization", asked.mine.as_str()), ("content-type", content_type)];
            table.add(&route, name, &asked.ask(&route, &headers, route.body(&route.takes[0])).await);
        }
    }
    insta::assert_snapshot!(table.text());
}

#[tokio::test]
async fn with_a_body_that_cannot_be_read() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    for route in asked.routes().await {
        if !route.has_room_for_a_body() {
            table.skip(&route);
            continue;
        }
        let own = if route.takes.is_empty() { vec![JSON.to_owned()] } else { route.takes.clone() };
        for content_type in own {
            let headers = [("authorization", asked.mine.as_str()), ("content-type", content_type.as_str())];
            let answer = asked.ask(&route, &headers, "{\"a\": [").await;
            table.add(&route, &format!(" as {content_type}"), &answer);
        }
    }
    insta::assert_snapshot!(table.text());
}

/// Beside what the contract has: what a path does with every other method.
#[tokio::test]
async fn with_a_method_that_the_path_does_not_take() {
    let (asked, mut table) = (Asked::new().await, Table::new());
    let taken: BTreeSet<(String, String)> =
        routes().into_iter().map(|(method, path)| (path, method.to_string())).collect();
    let paths: BTreeSet<&String> = taken.iter().map(|(path, _)| path).collect();
    for path in paths {
        let id = if path.contains("{id}") { asked.subject(path).await } else { String::new() };
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] {
            let reads = method == "HEAD" && taken.contains(&(path.clone(), "GET".to_owned()));
            if reads || taken.contains(&(path.clone(), method.to_owned())) {
                continue;
            }
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let route = Route { method, path: path.clone(), id: id.clone(), takes: Vec::new() };
            let answer = asked.ask(&route, &[("authorization", &asked.mine)], "").await;
            let line = format!("{} {} -> {} {}", route.method, route.path, answer.status, answer.header("allow"));
            assert!(
                answer
                    .header("allow")
                    .split(',')
                    .all(|method| { method == "HEAD" || taken.contains(&(path.clone(), method.to_owned())) })
                    && !answer.header("allow").is_empty(),
                "{line}"
            );
            let bare = answer.status < 400 || route.method == Method::HEAD;
            let document = if bare { String::new() } else { told(&answer, &id) };
            // `Allow` is in the line
            let document = document.lines().filter(|line| !line.starts_with("allow")).collect::<Vec<_>>().join("\n");
            table.lines.push((line, format!("{document}\n")));
        }
    }
    insta::assert_snapshot!(table.text());
}
