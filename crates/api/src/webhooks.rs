//! Webhooks: endpoints of a tenant, the webhook of a single job, and what was sent to either.

pub(crate) mod deliveries;
pub(crate) mod endpoints;
pub(crate) mod secret;

use std::collections::BTreeSet;

use jobs::{JobWebhook, WebhookEvent};
use recipe::escape;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::Api;
use crate::merge_request::invalid;
use crate::problem::{Finding, Problem, Result};
use crate::words::WebhookEventType;

/// The webhook of one job alone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobWebhook)]
pub(crate) struct JobWebhookObject {
    url: String,
    #[schema(value_type = Vec<WebhookEventType>)]
    events: Vec<&'static str>,
}

impl From<JobWebhook> for JobWebhookObject {
    fn from(webhook: JobWebhook) -> Self {
        Self { url: webhook.url, events: words(&webhook.events) }
    }
}

/// Where to send what.
#[derive(ToSchema)]
#[schema(as = WebhookRequest)]
#[expect(dead_code, reason = "written down for the documentation; what is posted is read key by key")]
pub(crate) struct WebhookBody {
    /// An `https` address in the internet, of at most 2048 characters.
    #[schema(example = "https://example.org/hook")]
    url: String,
    /// Only these; all where none are named.
    events: Option<Vec<WebhookEventType>>,
}

fn words(events: &BTreeSet<WebhookEvent>) -> Vec<&'static str> {
    events.iter().map(|event| event.as_str()).collect()
}

/// Reads `{url, events}`, or the URL alone; `at` is the pointer to it. Every mistake is noted.
pub(crate) fn read(value: Value, at: &str, findings: &mut Vec<Finding>) -> Option<JobWebhook> {
    let mut map = match value {
        Value::String(url) => return Some(JobWebhook { url, events: WebhookEvent::ALL.into() }),
        Value::Object(map) => map,
        _ => {
            findings.push(Finding::at(at, "invalid_value", "a webhook is an object, as {\"url\": \"https://...\"}"));
            return None;
        }
    };
    let events = match map.shift_remove("events") {
        None | Some(Value::Null) => WebhookEvent::ALL.into(),
        Some(named) => events(&named, &format!("{at}/events"), findings),
    };
    let url = match map.shift_remove("url") {
        Some(Value::String(url)) => Some(url),
        _ => {
            findings.push(Finding::at(format!("{at}/url"), "missing", "`url` is the address to send to, as a text"));
            None
        }
    };
    if let Some(key) = map.keys().next() {
        let pointer = format!("{at}/{}", escape(key));
        findings.push(Finding::at(pointer, "unknown_key", format!("unknown key `{key}`; there are url, events")));
    }
    Some(JobWebhook { url: url?, events })
}

fn events(named: &Value, at: &str, findings: &mut Vec<Finding>) -> BTreeSet<WebhookEvent> {
    let known: Option<BTreeSet<WebhookEvent>> =
        named.as_array().and_then(|named| named.iter().map(|word| WebhookEvent::parse(word.as_str()?)).collect());
    known.filter(|known| !known.is_empty()).unwrap_or_else(|| {
        let all = WebhookEvent::ALL.map(WebhookEvent::as_str).join(", ");
        findings.push(Finding::at(at, "invalid_value", format!("`events` is a list of some of {all}")));
        BTreeSet::new()
    })
}

/// That webhooks may go there, as far as the address itself tells.
pub(crate) fn check(api: &Api, webhook: &JobWebhook, at: &str) -> Result<()> {
    let reach = &api.config.webhooks.reach;
    reach.check(&webhook.url).map_err(|refused| -> Problem {
        // not with the address, which may have a password in it
        invalid(vec![Finding::at(
            format!("{at}/url"),
            "refused_url",
            format!("nothing is sent to this `url`: {refused}"),
        )])
    })
}
