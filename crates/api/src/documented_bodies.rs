//! That what is answered is what the contract says: real bodies of every read route are held against their schemas.

use axum::http::Method;
use jobs::{Outcome, Scope, WorkerId};
use serde_json::{Value, json};

use crate::contract::document;
use crate::testing::{Fixture, RECIPE, VARIANTS, YAML, a_delivery, routes};

/// What of a value is otherwise than its schema has it, each with its place.
pub(crate) fn misfits(contract: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { contract, found: &mut found }.at("", schema, value, true);
    found
}

struct Check<'a> {
    contract: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    /// `closed` where a key that the schema lacks is a misfit.
    fn at(&mut self, place: &str, schema: &Value, value: &Value, closed: bool) {
        let list = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
        if let Some(reference) = schema["$ref"].as_str() {
            let named = self.contract.pointer(&reference[1..]).expect("every reference is defined").clone();
            return self.at(place, &named, value, closed);
        }
        let one_of = list("oneOf");
        if !one_of.is_empty() {
            let tries: Vec<_> = one_of.iter().map(|one| misfits(self.contract, one, value)).collect();
            if !tries.iter().any(Vec::is_empty) {
                self.found.push(format!("{place} is none of what it may be: {tries:?}"));
            }
        }
        let parts = list("allOf");
        for part in &parts {
            self.at(place, part, value, false);
        }
        let words = list("enum");
        if !words.is_empty() && !words.contains(value) {
            self.found.push(format!("{place} is {value} and none of {words:?}"));
        }
        self.typed(place, schema, value);
        for (at, item) in value.as_array().into_iter().flatten().enumerate() {
            self.at(&format!("{place}/{at}"), &schema["items"], item, true);
        }
        self.keys(place, schema, value, closed && parts.is_empty());
    }

    fn typed(&mut self, place: &str, schema: &Value, value: &Value) {
        let types = match &schema["type"] {
            Value::Null => return,
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        };
        let fits = |of: &str| match of {
            "null" => value.is_null(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("what is {other}?"),
        };
        if !types.iter().any(|of| fits(of.as_str().unwrap())) {
            self.found.push(format!("{place} is {value} and none of {types:?}"));
        }
    }

    fn keys(&mut self, place: &str, schema: &Value, value: &Value, closed: bool) {
        let Some(object) = value.as_object() else { return };
        for key in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(key.as_str().unwrap()) {
                self.found.push(format!("{place} lacks {key}"));
            }
        }
        for (key, value) in object {
            let place = format!("{place}/{key}");
            match (schema["properties"].get(key), &schema["additionalProperties"]) {
                (Some(known), _) => self.at(&place, known, value, true),
                (None, more @ Value::Object(_)) => self.at(&place, more, value, true),
                (None, _) if closed && schema["properties"].is_object() => {
                    self.found.push(format!("{place} is unknown"))
                }
                (None, _) => {}
            }
        }
    }
}

/// A job that is over, with all that a worker tells of it, and one that runs.
async fn jobs(fixture: &Fixture, key: &str) -> [String; 3] {
    let headers = [("authorization", key), ("content-type", YAML)];
    let query = "timeout_seconds=9&queue_ttl_seconds=99&label=a=b&metadata=c=d&webhook=https://example.org/";
    let path = format!("/v1/jobs?output=x&priority=1000&{query}");
    let done = fixture.send(Method::POST, &path, &headers, RECIPE).await.json()["id"].as_str().unwrap().to_owned();
    let lease = fixture.claim().await;
    fixture.progress(&lease, 5).await;
    fixture.record(&lease, jobs::Phase::Merging).await;
    let sha256 = "0".repeat(64);
    let publication = json!({"uri": "file:///out/x", "plan_digest": sha256, "bytes": 9, "manifest_sha256": sha256,
        "files": [{"path": "model.safetensors", "bytes": 9, "sha256": sha256}]});
    fixture.store.finish(&lease, Outcome::Succeeded { publication, published: None }).await.unwrap();
    let failed = fixture.submit_as(key).await;
    let lease = fixture.claim().await;
    fixture.fail(&lease).await;
    let running = fixture.submit_as(key).await;
    fixture.claim().await;
    [done, failed, running]
}

#[tokio::test]
async fn every_read_answers_as_the_contract_says() {
    let (contract, fixture) = (document(), Fixture::new().await);
    let key = fixture.key("a", &Scope::ALL).await;
    let jobs = jobs(&fixture, &key).await;
    let headers = [("authorization", key.as_str()), ("content-type", YAML)];
    let group =
        fixture.send(Method::POST, "/v1/jobs", &headers, VARIANTS).await.json()["id"].as_str().unwrap().to_owned();
    let (webhook, _) = a_delivery(&fixture, &key).await;
    fixture.store.report_worker(&WorkerId::generate("node"), &json!({"slots": 1})).await.unwrap();
    let mut seen = 0;
    for (method, path) in routes().into_iter().filter(|(method, _)| *method == Method::GET) {
        let schema = &contract["paths"][&path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let ids = match path.split('/').nth(2) {
            // what has no artifact has none to list
            _ if path.ends_with("/artifacts") => &jobs[..1],
            Some("groups") => &[group.clone()][..],
            Some("webhooks") => &[webhook.clone()][..],
            _ => &jobs[..],
        };
        for id in ids {
            let answer = fixture.send(method.clone(), &path.replace("{id}", id), &headers[..1], "").await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            let misfits = misfits(&contract, schema, &answer.json());
            assert!(misfits.is_empty(), "{path}: {misfits:#?}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[tokio::test]
async fn every_change_answers_as_the_contract_says() {
    let (contract, fixture) = (document(), Fixture::new().await);
    let cases = [
        ("/v1/jobs", "201", YAML, RECIPE),
        ("/v1/jobs", "201", YAML, VARIANTS),
        ("/v1/plans", "200", YAML, RECIPE),
        ("/v1/plans", "200", YAML, VARIANTS),
        ("/v1/plans?tensors=true", "200", YAML, RECIPE),
        ("/v1/webhooks", "201", "application/json", r#"{"url": "https://example.org/"}"#),
        ("/v1/queue/pause", "200", "", ""),
        ("/v1/queue/resume", "200", "", ""),
        ("/v1/stream-tickets", "201", "", ""),
        ("/v1/jobs", "422", YAML, "a: ["),
        ("/v1/jobs", "415", "", RECIPE),
    ];
    for (path, status, content_type, body) in cases {
        let answer = fixture.post_as(path, content_type, body).await;
        let path = path.split('?').next().unwrap();
        assert_eq!(answer.status.to_string(), status, "{path}: {}", answer.text());
        let content = &contract["paths"][path]["post"]["responses"][status]["content"][answer.header("content-type")];
        let misfits = misfits(&contract, &content["schema"], &answer.json());
        assert!(misfits.is_empty() && !content.is_null(), "{path}: {misfits:#?}");
    }
}

#[test]
fn a_body_that_does_not_fit_is_told_with_its_place() {
    let contract = json!({"components": {"schemas": {"Word": {"type": "string", "enum": ["a", "b"]}}}});
    let word = json!({"$ref": "#/components/schemas/Word"});
    let schema = json!({"type": "object", "required": ["one"], "properties": {
        "one": word, "all": {"type": "array", "items": word}, "pairs": {"type": "object", "additionalProperties": {"type": "string"}},
        "maybe": {"oneOf": [{"type": "null"}, word]},
    }});
    let fits = json!({"one": "a", "all": ["b"], "pairs": {"x": "y"}, "maybe": null});
    assert_eq!(misfits(&contract, &schema, &fits), [""; 0]);
    for (wrong, place) in [
        (json!({}), " lacks"),
        (json!({"one": "c"}), "/one is"),
        (json!({"one": "a", "all": [1]}), "/all/0 is"),
        (json!({"one": "a", "pairs": {"x": 1}}), "/pairs/x is"),
        (json!({"one": "a", "maybe": "c"}), "/maybe is"),
        (json!({"one": "a", "more": 1}), "/more is unknown"),
    ] {
        let found = misfits(&contract, &schema, &wrong);
        assert!(found.first().is_some_and(|first| first.starts_with(place)), "{found:?}");
    }
}
