//! Which problem codes a status of an operation can have, for the contract. How routes refuse is compared with it.

use axum::http::Method;

use crate::caller::{Needed, needed};
use crate::problem::Code;

/// The words of the codes, in the order of [`Code::ALL`].
pub(crate) fn answered_codes(method: &Method, path: &str, status: u16) -> Vec<&'static str> {
    let codes = Code::ALL.into_iter().filter(|code| code.status() == status && can_answer(*code, method, path));
    codes.map(Code::word).collect()
}

fn can_answer(code: Code, method: &Method, path: &str) -> bool {
    let posts = *method == Method::POST;
    let makes_jobs = posts && matches!(path, "/v1/jobs" | "/v1/jobs/{id}/retry");
    let reads_recipe = makes_jobs || path == "/v1/plans";
    let needed = needed(method, path);
    match code {
        Code::BadRequest => path.contains('{'),
        Code::MalformedBody => *method != Method::GET,
        Code::InvalidHeader => makes_jobs || path.ends_with("/events"),
        Code::Unauthenticated | Code::RateLimited => needed != Some(Needed::Nothing),
        Code::MissingScope => matches!(needed, Some(Needed::Scope(_) | Needed::Either(..))),
        // of paths that are none
        Code::MethodNotAllowed => false,
        Code::NotFound => path.starts_with("/v1/workers/"),
        Code::JobNotFound => path.starts_with("/v1/jobs/"),
        Code::GroupNotFound => path.starts_with("/v1/groups/"),
        Code::ArtifactNotFound => path.contains("/artifacts"),
        Code::ArtifactShared | Code::ArtifactNotRemovable => *method == Method::DELETE && path == "/v1/jobs/{id}",
        Code::WebhookNotFound => path.starts_with("/v1/webhooks/{id}"),
        Code::DeliveryNotFound => path.starts_with("/v1/deliveries/"),
        Code::JobFinished => path == "/v1/jobs/{id}/cancel",
        Code::JobNotFinished => path.ends_with("/retry") || *method == Method::DELETE,
        Code::TooManyStreams => path.ends_with("/events") || path.ends_with("/logs"),
        Code::TooManyWebhooks => posts && path == "/v1/webhooks",
        Code::WebhookGone => path.ends_with("/redeliver"),
        Code::InvalidRequest => reads_recipe || path == "/v1/webhooks",
        Code::InvalidRecipe => reads_recipe,
        Code::InvalidOutput | Code::OutputExists => reads_recipe,
        Code::IdempotencyMismatch | Code::IdempotencyInFlight => makes_jobs,
        Code::TooManyQueued | Code::QueueFull => makes_jobs,
        Code::InsufficientStorage => reads_recipe,
        Code::InvalidQuery
        | Code::ForeignOrigin
        | Code::ForeignHost
        | Code::RangeNotSatisfiable
        | Code::RequestTimeout
        | Code::BodyTooLarge
        | Code::UnsupportedMediaType
        | Code::Internal
        | Code::Unavailable => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::document;
    use crate::testing::routes;

    #[test]
    fn every_status_that_is_documented_can_be_answered_with_some_code() {
        let contract = document();
        for (method, path) in routes() {
            let responses = &contract["paths"][&path][method.as_str().to_lowercase()]["responses"];
            for (status, response) in responses.as_object().unwrap().iter().filter(|(status, _)| status.as_str() >= "4")
            {
                assert!(!response["x-codes"].as_array().unwrap().is_empty(), "{method} {path} {status}");
            }
        }
        assert_eq!(answered_codes(&Method::GET, "/v1/jobs/{id}", 404), ["job_not_found"]);
        assert_eq!(answered_codes(&Method::GET, "/healthz", 429), [""; 0]);
    }

    #[test]
    fn every_code_is_listed_once() {
        let words: std::collections::BTreeSet<&str> = Code::ALL.into_iter().map(Code::word).collect();
        assert_eq!(words.len(), Code::ALL.len());
    }
}
