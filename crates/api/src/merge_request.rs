//! What is posted to make a job or a plan: a raw recipe with options in the query, or a JSON object that holds both.
//!
//! Both forms become one map of options, so that they refuse the same mistakes; what belongs into the recipe (`options`,
//! `variants`, `grid`) may stand beside it in the object only.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use axum::http::{HeaderMap, header};
use jobs::JobWebhook;
use recipe::escape;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::limits::{
    ATTEMPTS, ATTEMPTS_DEFAULT, KEY_CHARS_MAX, PAIRS_MAX, PRIORITY, SECONDS, TIME_END, VALUE_CHARS_MAX,
};
use crate::posted_recipe::{Posted, PostedRecipe};
use crate::problem::{Code, Finding, Problem, Result};
use crate::query::Pairs;
use crate::secrets;
use crate::timestamp::milliseconds;
use crate::webhooks::{self, WebhookBody};

const YAML_TYPES: [&str; 3] = ["application/yaml", "text/yaml", "application/x-yaml"];
const QUERY_KEYS: [&str; 12] = [
    "output",
    "lenient",
    "priority",
    "max_attempts",
    "timeout_seconds",
    "queue_ttl_seconds",
    "run_at",
    "reuse",
    "worker_label",
    "webhook",
    "label",
    "metadata",
];
const BODY_KEYS: [&str; 17] = [
    "recipe",
    "recipe_yaml",
    "options",
    "variants",
    "grid",
    "output",
    "labels",
    "metadata",
    "lenient",
    "priority",
    "max_attempts",
    "timeout_seconds",
    "queue_ttl_seconds",
    "run_at",
    "reuse",
    "worker_labels",
    "webhook",
];

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MergeRequest {
    pub(crate) recipe: PostedRecipe,
    /// The folder as given; `None` for one of the worker's choice.
    pub(crate) output: Option<String>,
    pub(crate) labels: Map<String, Value>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) lenient: bool,
    pub(crate) priority: i64,
    pub(crate) max_attempts: i64,
    pub(crate) timeout_seconds: Option<i64>,
    pub(crate) queue_ttl_seconds: Option<i64>,
    /// Milliseconds since the epoch.
    pub(crate) run_at: Option<i64>,
    /// What another job has published for the same plan will do.
    pub(crate) reuse: bool,
    pub(crate) worker_labels: BTreeSet<String>,
    /// Told of these jobs, beside the endpoints of the tenant.
    pub(crate) webhook: Option<JobWebhook>,
    /// Equal requests have equal digests.
    pub(crate) digest: String,
}

impl MergeRequest {
    /// `more` are keys of the query that the handler itself reads.
    pub(crate) fn read(headers: &HeaderMap, query: &Pairs, more: &[&str], body: &[u8]) -> Result<Self> {
        secrets::refuse(query, body)?;
        let media_type = media_type(headers);
        let map = match media_type.as_str() {
            "application/json" => json_body(query, more, body)?,
            yaml if YAML_TYPES.contains(&yaml) => yaml_body(query, more, body)?,
            other => return Err(unsupported(other)),
        };
        decode(map, digest(&media_type, query, body))
    }
}

pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn unsupported(found: &str) -> Problem {
    let found =
        if found.is_empty() { "a body without a content type".to_owned() } else { format!("content type {found:?}") };
    let detail = format!(
        "{found} is not taken; send a recipe with the header `Content-Type: application/yaml` \
         (curl: -H 'Content-Type: application/yaml' --data-binary @recipe.yaml), or an object as `application/json`"
    );
    Problem::new(Code::UnsupportedMediaType, detail)
}

fn digest(media_type: &str, query: &Pairs, body: &[u8]) -> String {
    let pairs: Vec<_> = query.iter().collect();
    let head = json!([media_type, pairs]).to_string();
    checkpoint::digest_bytes(&[head.as_bytes(), b"\n", body].concat())
}

fn json_body(query: &Pairs, more: &[&str], body: &[u8]) -> Result<Map<String, Value>> {
    if let Some((key, _)) = query.iter().find(|(key, _)| QUERY_KEYS.contains(key)) {
        let detail = format!("query parameter `{key}` goes with a YAML body; write it into the JSON object instead");
        return Err(Problem::new(Code::InvalidQuery, detail));
    }
    query.only(more)?;
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => {
            Err(invalid(vec![Finding::at("", "invalid_value", "the body is not an object; write {\"recipe\": {...}}")]))
        }
        Err(error) => Err(Problem::new(Code::MalformedBody, format!("the body is no JSON: {error}"))),
    }
}

fn yaml_body(query: &Pairs, more: &[&str], body: &[u8]) -> Result<Map<String, Value>> {
    query.only(&[&QUERY_KEYS, more].concat())?;
    let text = str::from_utf8(body).map_err(|error| {
        Problem::new(Code::MalformedBody, format!("the recipe is no UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    let mut map = Map::new();
    map.insert("recipe_yaml".to_owned(), json!(text));
    if let Some(output) = query.parsed::<String>("output")? {
        map.insert("output".to_owned(), json!(output));
    }
    for key in ["lenient", "reuse"] {
        if let Some(flag) = query.flag(key)? {
            map.insert(key.to_owned(), json!(flag));
        }
    }
    for key in ["priority", "max_attempts", "timeout_seconds", "queue_ttl_seconds"] {
        if let Some(number) = query.parsed::<i64>(key)? {
            map.insert(key.to_owned(), json!(number));
        }
    }
    if let Some(webhook) = query.parsed::<String>("webhook")? {
        map.insert("webhook".to_owned(), json!(webhook));
    }
    if let Some(run_at) = query.parsed::<String>("run_at")? {
        map.insert("run_at".to_owned(), json!(run_at));
    }
    map.insert("worker_labels".to_owned(), query.all("worker_label").collect());
    map.insert("labels".to_owned(), Value::Object(pairs(query, "label")?));
    map.insert("metadata".to_owned(), Value::Object(pairs(query, "metadata")?));
    Ok(map)
}

fn pairs(query: &Pairs, parameter: &str) -> Result<Map<String, Value>> {
    let wrong = |detail: String| Problem::new(Code::InvalidQuery, detail);
    let mut pairs = Map::new();
    for text in query.all(parameter) {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            wrong(format!("query parameter `{parameter}` is {text:?}; write `{parameter}=key=value`"))
        })?;
        if pairs.insert(key.to_owned(), json!(value)).is_some() {
            return Err(wrong(format!("query parameter `{parameter}` gives `{key}` twice")));
        }
    }
    Ok(pairs)
}

pub(crate) fn invalid(findings: Vec<Finding>) -> Problem {
    let detail = match findings.as_slice() {
        [only] => only.detail.clone(),
        many => format!("{} errors in the request; `errors` has each with its place", many.len()),
    };
    Problem::new(Code::InvalidRequest, detail).with_errors(findings)
}

fn decode(map: Map<String, Value>, digest: String) -> Result<MergeRequest> {
    let mut decoder = Decoder { map, findings: Vec::new() };
    decoder.unknown_keys();
    let recipe = decoder.recipe();
    let request = MergeRequest {
        recipe: PostedRecipe {
            posted: recipe.unwrap_or(Posted::Json(Value::Null)),
            options: decoder.options(),
            variants: decoder.take("variants"),
            grid: decoder.take("grid"),
        },
        output: decoder.output(),
        labels: decoder.pairs("labels"),
        metadata: decoder.pairs("metadata"),
        lenient: decoder.flag("lenient"),
        priority: decoder.integer("priority", PRIORITY, 0),
        max_attempts: decoder.integer("max_attempts", ATTEMPTS, ATTEMPTS_DEFAULT),
        timeout_seconds: decoder.optional_integer("timeout_seconds", SECONDS),
        queue_ttl_seconds: decoder.optional_integer("queue_ttl_seconds", SECONDS),
        run_at: decoder.time("run_at"),
        reuse: decoder.flag("reuse"),
        worker_labels: decoder.words("worker_labels"),
        webhook: decoder.webhook(),
        digest,
    };
    if request.reuse && request.output.is_some() {
        let detail = "`reuse` gives what another job has published where that is; leave out `reuse` or `output`";
        decoder.error("/reuse", "conflict", detail);
    }
    if decoder.findings.is_empty() { Ok(request) } else { Err(invalid(decoder.findings)) }
}

/// Takes the map apart, noting every mistake. What is mistaken reads as if absent.
struct Decoder {
    map: Map<String, Value>,
    findings: Vec<Finding>,
}

impl Decoder {
    fn error(&mut self, pointer: impl Into<String>, code: &str, detail: impl Into<String>) {
        self.findings.push(Finding::at(pointer, code, detail));
    }

    /// `null` is as good as absent.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    fn unknown_keys(&mut self) {
        let unknown: Vec<String> = self.map.keys().filter(|k| !BODY_KEYS.contains(&k.as_str())).cloned().collect();
        // as many as a recipe may have problems, whatever was posted
        for key in unknown.into_iter().take(recipe::limits::PROBLEMS_MAX) {
            let advice = match recipe::nearest(&key, BODY_KEYS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", BODY_KEYS.join(", ")),
            };
            self.error(format!("/{}", escape(&key)), "unknown_key", format!("unknown key `{key}`; {advice}"));
        }
    }

    fn recipe(&mut self) -> Option<Posted> {
        match (self.take("recipe"), self.take("recipe_yaml")) {
            (Some(value @ (Value::Object(_) | Value::Array(_))), None) => return Some(Posted::Json(value)),
            (None, Some(Value::String(text))) => return Some(Posted::Yaml(text)),
            (Some(_), Some(_)) => {
                self.error("/recipe_yaml", "invalid_value", "`recipe` and `recipe_yaml` are both there; keep one")
            }
            (Some(_), None) => self.error(
                "/recipe",
                "invalid_value",
                "`recipe` is an object, or a list of them; YAML text goes into `recipe_yaml`",
            ),
            (None, Some(_)) => self.error("/recipe_yaml", "invalid_value", "`recipe_yaml` is a text"),
            (None, None) => {
                self.error("", "missing", "no recipe; give it as an object in `recipe` or as text in `recipe_yaml`")
            }
        }
        None
    }

    /// Their names and values are the recipe's to check.
    fn options(&mut self) -> Map<String, Value> {
        match self.take("options") {
            None => Map::new(),
            Some(Value::Object(options)) => options,
            Some(_) => {
                self.error("/options", "invalid_value", "`options` is an object, as {\"allow_crimes\": true}");
                Map::new()
            }
        }
    }

    fn output(&mut self) -> Option<String> {
        match self.take("output")? {
            Value::String(path) => return Some(path),
            Value::Object(output) => return self.output_object(output),
            _ => self.error(
                "/output",
                "invalid_value",
                "`output` is a path or {\"kind\": \"folder\", \"path\": \"...\"}",
            ),
        }
        None
    }

    fn output_object(&mut self, mut output: Map<String, Value>) -> Option<String> {
        let kind = output.shift_remove("kind");
        let path = output.shift_remove("path").filter(|path| !path.is_null());
        if kind != Some(json!("folder")) {
            self.error("/output/kind", "invalid_value", "`kind` is \"folder\", the one kind of output there is");
        }
        if let Some(key) = output.keys().next() {
            let pointer = format!("/output/{}", escape(key));
            self.error(pointer, "unknown_key", format!("unknown key `{key}`; there are kind, path"));
        }
        match path? {
            Value::String(path) => return Some(path),
            _ => self.error("/output/path", "invalid_value", "`path` is a text"),
        }
        None
    }

    fn pairs(&mut self, key: &str) -> Map<String, Value> {
        let map = match self.take(key) {
            None => return Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => {
                self.error(format!("/{key}"), "invalid_value", format!("`{key}` is an object of texts"));
                return Map::new();
            }
        };
        if map.len() > PAIRS_MAX {
            let detail = format!("`{key}` has {} pairs; it may have {PAIRS_MAX}", map.len());
            self.error(format!("/{key}"), "too_many", detail);
            return Map::new();
        }
        map.iter().for_each(|(name, value)| self.pair(key, name, value));
        map
    }

    fn pair(&mut self, key: &str, name: &str, value: &Value) {
        let pointer = format!("/{key}/{}", escape(name));
        if name.is_empty() || name.chars().count() > KEY_CHARS_MAX {
            self.error(&pointer, "invalid_value", format!("a key of `{key}` has 1 to {KEY_CHARS_MAX} characters"));
        }
        if value.as_str().is_none_or(|text| text.chars().count() > VALUE_CHARS_MAX) {
            let detail = format!("a value of `{key}` is a text of at most {VALUE_CHARS_MAX} characters");
            self.error(&pointer, "invalid_value", detail);
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.take(key) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.error(format!("/{key}"), "invalid_value", format!("`{key}` is true or false"));
                false
            }
        }
    }

    fn integer(&mut self, key: &str, range: RangeInclusive<i64>, default: i64) -> i64 {
        self.optional_integer(key, range).unwrap_or(default)
    }

    fn optional_integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(key)?;
        if let Some(number) = value.as_i64().filter(|n| range.contains(n)) {
            return Some(number);
        }
        let detail = format!("`{key}` is {value}; it is a whole number from {} to {}", range.start(), range.end());
        self.error(format!("/{key}"), "invalid_value", detail);
        None
    }

    fn time(&mut self, key: &str) -> Option<i64> {
        let value = self.take(key)?;
        let time = value.as_str().and_then(milliseconds).filter(|time| *time < TIME_END);
        if time.is_none() {
            let detail = format!("`{key}` is {value}; it is a time before 2100, as 2026-01-31T08:00:00Z");
            self.error(format!("/{key}"), "invalid_value", detail);
        }
        time
    }

    /// Whether anything may be sent there is not for a plan to tell.
    fn webhook(&mut self) -> Option<JobWebhook> {
        let value = self.take("webhook")?;
        webhooks::read(value, "/webhook", &mut self.findings)
    }

    fn words(&mut self, key: &str) -> BTreeSet<String> {
        let fits = |word: &Value| word.as_str().is_some_and(|w| (1..=KEY_CHARS_MAX).contains(&w.chars().count()));
        match self.take(key) {
            None => return BTreeSet::new(),
            Some(Value::Array(words)) if words.len() <= PAIRS_MAX && words.iter().all(fits) => {
                return words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            Some(_) => {}
        }
        let detail = format!("`{key}` is a list of at most {PAIRS_MAX} texts of 1 to {KEY_CHARS_MAX} characters");
        self.error(format!("/{key}"), "invalid_value", detail);
        BTreeSet::new()
    }
}

/// A recipe and what belongs to it. Exactly one of `recipe` and `recipe_yaml` is there.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written down for the documentation; the decoder reads it key by key")]
pub(crate) struct MergeRequestBody {
    recipe: Option<RecipeBody>,
    /// The recipe as YAML text, of one document or several; errors then have line and column.
    recipe_yaml: Option<String>,
    /// Options of the recipe, as its own `options`; over those it has.
    #[schema(value_type = Option<Object>, example = json!({"allow_crimes": true, "out_shard_size": "5B"}))]
    options: Option<Value>,
    /// One job for each: a name, and what it changes in the form of the recipe. May also stand in the recipe.
    #[schema(value_type = Option<Vec<Object>>, example = json!([{"name": "mild", "parameters": {"t": 0.3}}, {"name": "strong", "parameters": {"t": 0.7}, "models": {"org/chat": {"weight": 0.2}}}]))]
    variants: Option<Value>,
    /// One job for each combination of the values listed, in the form of a variant. May also stand in the recipe.
    #[schema(value_type = Option<Object>, example = json!({"parameters": {"t": [0.3, 0.5, 0.7]}}))]
    grid: Option<Value>,
    /// Where the artifact goes: a folder below an output root of the server that does not exist yet. Each variant goes to
    /// a folder of its name below it.
    output: Option<OutputBody>,
    /// At most 16 pairs; keys of 64 characters, values of 512.
    labels: Option<std::collections::BTreeMap<String, String>>,
    /// At most 16 pairs; keys of 64 characters, values of 512.
    metadata: Option<std::collections::BTreeMap<String, String>>,
    /// Unknown names in the recipe are warnings.
    #[schema(default = false)]
    lenient: Option<bool>,
    /// Higher goes first.
    #[schema(minimum = -1000, maximum = 1000, default = 0)]
    priority: Option<i64>,
    #[schema(minimum = 1, maximum = 10, default = 3)]
    max_attempts: Option<i64>,
    /// An attempt that takes longer is stopped, and the job fails.
    #[schema(minimum = 1, maximum = 31536000)]
    timeout_seconds: Option<i64>,
    /// A job that no worker has begun for so long after its time fails.
    #[schema(minimum = 1, maximum = 31536000)]
    queue_ttl_seconds: Option<i64>,
    /// Not to be begun before this time.
    #[schema(format = DateTime)]
    run_at: Option<String>,
    /// Succeed with what another job has published for the same plan, if it is still there; only where no output is named.
    #[schema(default = false)]
    reuse: Option<bool>,
    /// Only workers that carry all of these take the job. At most 16, of 64 characters.
    worker_labels: Option<Vec<String>>,
    /// Told what becomes of the job; signed by the tenant's secret (`GET /v1/webhooks/secret`). The URL alone will do.
    webhook: Option<WebhookBody>,
}

/// The recipe as an object, or as a list of them: stages, of which later ones may use earlier ones by name.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) enum RecipeBody {
    #[schema(value_type = Object)]
    Document(()),
    #[schema(value_type = Vec<Object>)]
    Documents(()),
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) enum OutputBody {
    Path(String),
    Folder(FolderBody),
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FolderBody {
    #[schema(example = "folder")]
    kind: String,
    path: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, RECIPE, YAML};

    #[test]
    fn the_documented_keys_are_the_decoded_ones() {
        let schema = serde_json::to_value(<MergeRequestBody as utoipa::PartialSchema>::schema()).unwrap();
        let documented: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert!(
            BODY_KEYS.iter().all(|key| documented.contains(&&key.to_string())) && documented.len() == BODY_KEYS.len()
        );
    }

    #[tokio::test]
    async fn a_form_is_refused_with_the_header_to_send() {
        let fixture = Fixture::new().await;
        for content_type in ["application/x-www-form-urlencoded", "text/plain", ""] {
            let answer = fixture.post_as("/v1/jobs", content_type, RECIPE).await;
            assert_eq!(answer.status, 415, "{content_type}");
            assert!(answer.json()["detail"].as_str().unwrap().contains("Content-Type: application/yaml"));
        }
        for content_type in ["text/yaml", "application/x-yaml", "Application/YAML; charset=utf-8"] {
            assert_eq!(fixture.post_as("/v1/plans", content_type, RECIPE).await.status, 200, "{content_type}");
        }
    }

    #[tokio::test]
    async fn every_mistake_beside_the_recipe_is_told_at_once() {
        let fixture = Fixture::new().await;
        let pairs: Map<String, Value> = (0..17).map(|i| (i.to_string(), json!("v"))).collect();
        let body = json!({
            "recipe_yml": RECIPE, "options": [1], "output": {"kind": "hub", "repo": "a/b"}, "labels": {"a/b": 1}, "metadata": pairs,
            "lenient": "yes", "priority": 1.5, "max_attempts": 11,
        });
        let answer = fixture.post_json("/v1/jobs", &body).await;
        assert_eq!(answer.status, 422);
        let body = answer.json();
        let found: Vec<[&str; 2]> = body["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| [e["pointer"].as_str().unwrap(), e["code"].as_str().unwrap()])
            .collect();
        assert_eq!(
            found,
            [
                ["/recipe_yml", "unknown_key"],
                ["", "missing"],
                ["/options", "invalid_value"],
                ["/output/kind", "invalid_value"],
                ["/output/repo", "unknown_key"],
                ["/labels/a~1b", "invalid_value"],
                ["/metadata", "too_many"],
                ["/lenient", "invalid_value"],
                ["/priority", "invalid_value"],
                ["/max_attempts", "invalid_value"],
            ]
        );
        assert_eq!(body["errors"][0]["detail"], "unknown key `recipe_yml`; did you mean `recipe_yaml`?");
    }

    #[tokio::test]
    async fn a_mistaken_query_is_refused() {
        let fixture = Fixture::new().await;
        for query in [
            "lenint=true",
            "lenient=maybe",
            "priority=high",
            "label=k",
            "label=k=1&label=k=2",
            "output=a&output=b",
            "metadata=k",
            "max_attempts=many",
        ] {
            let answer = fixture.post_as(&format!("/v1/jobs?{query}"), YAML, RECIPE).await;
            assert_eq!(answer.status, 400, "{query}");
            assert_eq!(answer.json()["code"], "invalid_query", "{query}");
        }
        let answer = fixture.post_as("/v1/plans?tensors=true&tensors=false", YAML, RECIPE).await;
        assert!(answer.json()["detail"].as_str().unwrap().contains("`tensors` is given twice"));
        let answer = fixture.post_as("/v1/plans?tensor", YAML, RECIPE).await;
        assert!(answer.json()["detail"].as_str().unwrap().contains("did you mean `tensors`?"));
        let answer = fixture.post_json("/v1/jobs?output=x", &json!({"recipe_yaml": RECIPE})).await;
        assert!(answer.json()["detail"].as_str().unwrap().contains("into the JSON object"));
    }
}
