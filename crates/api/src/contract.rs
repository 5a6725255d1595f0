//! The contract: what is generated from the handlers, and beside it the bounds that its generator has no words for. They are the
//! limits that the handlers hold, so that neither can change alone.

use serde_json::{Map, Value, json};

use crate::answered_codes::answered_codes;
use crate::caller::{Needed, needed};
use crate::fields::known;
use crate::limits::{
    ATTEMPTS, IDEMPOTENCY_KEY_CHARS_MAX, KEY_CHARS_MAX, PAGE_DEFAULT, PAGE_MAX, PAIRS_MAX, PRIORITY, SECONDS, TAIL_MAX,
    VALUE_CHARS_MAX,
};
use crate::router::routes;

/// The OpenAPI 3.1 document of the service.
pub(crate) fn document() -> Value {
    let mut document = serde_json::to_value(routes().into_openapi()).expect("an OpenAPI document is plain data");
    each_operation(&mut document, |path, method, operation| {
        each_parameter(operation, |named, schema| bound(path, method, named, schema));
        operation["responses"].as_object_mut().into_iter().flatten().for_each(|(_, response)| plain_headers(response));
        open(path, method, operation);
        codes(path, method, operation);
    });
    bodies(&mut document);
    document
}

fn each_operation(document: &mut Value, mut change: impl FnMut(&str, &str, &mut Value)) {
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            change(path, method, operation);
        }
    }
}

/// With its name, and whether it is one of the query.
fn each_parameter(operation: &mut Value, mut change: impl FnMut((&str, bool), &mut Map<String, Value>)) {
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap_or_default().to_owned();
        let is_of_query = parameter["in"] == "query";
        if let Some(schema) = parameter.get_mut("schema").and_then(Value::as_object_mut) {
            not_null(schema);
            change((&name, is_of_query), schema);
        }
    }
}

/// A parameter that is there has a value.
fn not_null(schema: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = schema.get_mut("type") else { return };
    types.retain(|of| of != "null");
    if let [only] = types.as_slice() {
        let only = only.clone();
        schema.insert("type".to_owned(), only);
    }
}

fn plain_headers(response: &mut Value) {
    for (_, header) in response.get_mut("headers").and_then(Value::as_object_mut).into_iter().flatten() {
        header.get_mut("schema").and_then(Value::as_object_mut).into_iter().for_each(not_null);
    }
}

/// A text without the character that no database can hold.
const NO_NUL: &str = r"^[^\x00]*$";

const JOBS: &str = "/v1/jobs";

fn bound(path: &str, method: &str, (name, is_of_query): (&str, bool), schema: &mut Map<String, Value>) {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let pair = format!(r"^[^=\x00]{{1,{KEY_CHARS_MAX}}}=[^\x00]{{0,{VALUE_CHARS_MAX}}}$");
    let bounds = match (path, method, name) {
        (_, "get", "limit") => json!({"minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT}),
        ("/v1/events" | "/v1/jobs/{id}/events", "get", "after" | "Last-Event-ID") => json!({"minimum": 0}),
        (_, "get", "tail") => json!({"minimum": 1, "maximum": TAIL_MAX}),
        (JOBS, "get", "group") => text("^group_[0-9a-f]{32}$"),
        (JOBS, "get", "after") => text(r"^[0-9a-f]{1,15}\.job_[0-9a-f]{32}$"),
        (JOBS, "get", "label") => json!({"items": text(r"^[^\x00]*=[^\x00]*$")}),
        (JOBS, "get", "status") => {
            json!({"items": {"type": "string", "enum": jobs::Status::ALL.map(jobs::Status::as_str)}})
        }
        (_, "get", "fields") => text(&format!("^({0})(,({0}))*$", known().join("|"))),
        ("/v1/audit", "get", "action") => json!({"enum": jobs::Action::ALL.map(jobs::Action::as_str)}),
        ("/v1/audit", "get", "after") => text(r"^[0-9a-f]{1,15}\.aud_[0-9a-f]{32}$"),
        ("/v1/jobs/{id}/deliveries" | "/v1/webhooks/{id}/deliveries", "get", "after") => text("^msg_[0-9a-f]{32}$"),
        (_, "get", "created_after" | "created_before") | (_, "post", "run_at") => json!({"format": "date-time"}),
        (_, "post", "priority") => json!({"minimum": PRIORITY.start(), "maximum": PRIORITY.end()}),
        (_, "post", "max_attempts") => json!({"minimum": ATTEMPTS.start(), "maximum": ATTEMPTS.end()}),
        (_, "post", "timeout_seconds" | "queue_ttl_seconds") => {
            json!({"minimum": SECONDS.start(), "maximum": SECONDS.end()})
        }
        (_, "post", "worker_label") => {
            let mut word = word();
            word["pattern"] = json!(NO_NUL);
            json!({"maxItems": PAIRS_MAX, "items": word})
        }
        (_, "post", "label" | "metadata") => json!({"maxItems": PAIRS_MAX, "items": text(&pair)}),
        (_, "post", "Idempotency-Key") => {
            json!({"minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX, "pattern": "^[ -~]+$"})
        }
        // as everywhere in a query
        (_, _, _) if is_of_query && schema.get("type") == Some(&json!("string")) => text(NO_NUL),
        _ => return,
    };
    schema.extend(bounds.as_object().cloned().unwrap_or_default());
}

fn word() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX})
}

/// Each error says which codes it can have; an open route has none about keys.
fn codes(path: &str, method: &str, operation: &mut Value) {
    let method = axum::http::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    responses.retain(|status, response| {
        let is_problem = response["content"].get("application/problem+json").is_some();
        let codes = answered_codes(&method, path, status.parse().unwrap_or_default());
        if is_problem {
            response["x-codes"] = json!(codes);
        }
        // who asks for no key counts nobody's requests
        !is_problem || !codes.is_empty() || needed(&method, path) != Some(Needed::Nothing)
    });
}

/// What asks for no key says so.
fn open(path: &str, method: &str, operation: &mut Value) {
    let method = axum::http::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
    if needed(&method, path) != Some(Needed::Nothing) {
        return;
    }
    operation["security"] = json!([]);
}

/// What is always the same word is that word alone.
fn kinds(schemas: &mut Value) {
    for (_, schema) in schemas.as_object_mut().into_iter().flatten() {
        let Some(kind) = schema.pointer_mut("/properties/object").and_then(Value::as_object_mut) else { continue };
        let about = kind.remove("description");
        let word = about.as_ref().and_then(Value::as_str).and_then(|about| about.split('`').nth(1));
        kind.insert("enum".to_owned(), json!([word]));
    }
}

fn bodies(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    kinds(schemas);
    let request = &mut schemas["MergeRequestBody"];
    request["additionalProperties"] = json!(false);
    request["properties"]["worker_labels"]["items"] = word();
    request["properties"]["worker_labels"]["maxItems"] = json!(PAIRS_MAX);
    for pairs in ["labels", "metadata"] {
        let pairs = &mut request["properties"][pairs];
        pairs["maxProperties"] = json!(PAIRS_MAX);
        pairs["propertyNames"] = word();
        pairs["additionalProperties"] = json!({"type": "string", "maxLength": VALUE_CHARS_MAX});
    }
    let webhook = &mut schemas["WebhookRequest"];
    webhook["additionalProperties"] = json!(false);
    webhook["properties"]["url"]["pattern"] = json!("^https://");
    webhook["properties"]["url"]["maxLength"] = json!(webhook::limits::URL_CHARS_MAX);
    webhook["properties"]["events"]["minItems"] = json!(1);
    webhook["properties"]["events"]["items"]["enum"] = json!(jobs::WebhookEvent::ALL.map(jobs::WebhookEvent::as_str));
    schemas["FolderBody"]["additionalProperties"] = json!(false);
    schemas["FolderBody"]["properties"]["kind"]["enum"] = json!(["folder"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_on_something_that_is_there() {
        let document = document();
        for (pointer, expected) in [
            ("/components/schemas/MergeRequestBody/properties/worker_labels/type/0", json!("array")),
            ("/components/schemas/MergeRequestBody/properties/labels/maxProperties", json!(16)),
            ("/components/schemas/FolderBody/properties/kind/type", json!("string")),
            ("/paths/~1healthz/get/security", json!([])),
        ] {
            assert_eq!(document.pointer(pointer), Some(&expected), "{pointer}");
        }
        let mut bounded = Vec::new();
        each_operation(&mut document.clone(), |path, method, operation| {
            each_parameter(operation, |(name, is_of_query), schema| {
                assert!(!schema["type"].is_array(), "{path} {name}");
                let before = schema.clone();
                bound(path, method, (name, is_of_query), schema);
                assert_eq!(before, *schema, "{path} {name}");
                let mut bare = Map::new();
                bound(path, method, (name, is_of_query), &mut bare);
                if !bare.is_empty() {
                    bounded.push(name.to_owned());
                }
            });
        });
        for name in
            ["limit", "after", "Last-Event-ID", "group", "label", "status", "created_after", "run_at", "priority"]
        {
            assert!(bounded.iter().any(|it| it == name), "{name}");
        }
    }
}
