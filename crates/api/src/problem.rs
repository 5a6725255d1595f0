//! Errors become HTTP here and nowhere else: RFC 9457 documents, `application/problem+json`.
//!
//! A handler returns a [`Problem`]; it travels as an extension of an empty response to [`render`], which knows the request
//! id, writes the document and logs the cause, once. Errors of the framework are recognised there by their status alone.

use std::{collections::BTreeMap, error::Error, sync::Arc};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jobs::JobsError;
use recipe::Refusal;
use serde::Serialize;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, RefOr, ResponseBuilder, ResponsesBuilder, Type,
        response::Response as Documented,
    },
};

use crate::secrets::redacted;

const PROBLEM_JSON: &str = "application/problem+json";

pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// The public word for what went wrong. Also the end of the problem's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BadRequest,
    MalformedBody,
    InvalidQuery,
    InvalidHeader,
    Unauthenticated,
    MissingScope,
    ForeignOrigin,
    NotFound,
    JobNotFound,
    GroupNotFound,
    ArtifactNotFound,
    ArtifactShared,
    ArtifactNotRemovable,
    WebhookNotFound,
    DeliveryNotFound,
    RangeNotSatisfiable,
    MethodNotAllowed,
    JobFinished,
    JobNotFinished,
    TooManyStreams,
    RequestTimeout,
    TooManyWebhooks,
    WebhookGone,
    BodyTooLarge,
    UnsupportedMediaType,
    ForeignHost,
    InvalidRequest,
    InvalidRecipe,
    InvalidOutput,
    OutputExists,
    IdempotencyMismatch,
    IdempotencyInFlight,
    RateLimited,
    TooManyQueued,
    QueueFull,
    InsufficientStorage,
    Internal,
    Unavailable,
}

struct Facts {
    word: &'static str,
    status: StatusCode,
    title: &'static str,
}

impl Code {
    pub(crate) const ALL: [Self; 38] = [
        Self::ArtifactShared,
        Self::ArtifactNotRemovable,
        Self::BadRequest,
        Self::MalformedBody,
        Self::InvalidQuery,
        Self::InvalidHeader,
        Self::Unauthenticated,
        Self::MissingScope,
        Self::ForeignOrigin,
        Self::NotFound,
        Self::JobNotFound,
        Self::GroupNotFound,
        Self::ArtifactNotFound,
        Self::WebhookNotFound,
        Self::DeliveryNotFound,
        Self::RangeNotSatisfiable,
        Self::MethodNotAllowed,
        Self::JobFinished,
        Self::JobNotFinished,
        Self::TooManyStreams,
        Self::RequestTimeout,
        Self::TooManyWebhooks,
        Self::WebhookGone,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::ForeignHost,
        Self::InvalidRequest,
        Self::InvalidRecipe,
        Self::InvalidOutput,
        Self::OutputExists,
        Self::IdempotencyMismatch,
        Self::IdempotencyInFlight,
        Self::RateLimited,
        Self::TooManyQueued,
        Self::QueueFull,
        Self::InsufficientStorage,
        Self::Internal,
        Self::Unavailable,
    ];

    pub(crate) fn status(self) -> u16 {
        self.facts().status.as_u16()
    }

    pub(crate) fn word(self) -> &'static str {
        self.facts().word
    }

    fn facts(self) -> Facts {
        use StatusCode as S;
        let (word, status, title) = match self {
            Self::BadRequest => ("bad_request", S::BAD_REQUEST, "The request cannot be understood"),
            Self::MalformedBody => ("malformed_body", S::BAD_REQUEST, "The body cannot be read"),
            Self::JobNotFinished => ("job_not_finished", S::CONFLICT, "The job is not over"),
            Self::ArtifactNotFound => ("artifact_not_found", S::NOT_FOUND, "There is no such artifact"),
            Self::ArtifactShared => ("artifact_shared", S::CONFLICT, "Another job has the same artifact"),
            Self::ArtifactNotRemovable => {
                ("artifact_not_removable", S::CONFLICT, "The artifact is not this server's to remove")
            }
            Self::WebhookNotFound => ("webhook_not_found", S::NOT_FOUND, "There is no such webhook"),
            Self::DeliveryNotFound => ("delivery_not_found", S::NOT_FOUND, "There is no such delivery"),
            Self::TooManyWebhooks => ("too_many_webhooks", S::CONFLICT, "There are as many webhooks as there may be"),
            Self::WebhookGone => ("webhook_gone", S::CONFLICT, "The webhook takes nothing more"),
            Self::RangeNotSatisfiable => {
                ("range_not_satisfiable", S::RANGE_NOT_SATISFIABLE, "The file has no such range")
            }
            Self::Unauthenticated => {
                ("unauthenticated", S::UNAUTHORIZED, "The request comes with no key that is known")
            }
            Self::MissingScope => ("missing_scope", S::FORBIDDEN, "The key may not do this"),
            Self::InvalidQuery => ("invalid_query", S::BAD_REQUEST, "The query cannot be understood"),
            Self::InvalidHeader => ("invalid_header", S::BAD_REQUEST, "A header cannot be understood"),
            Self::ForeignOrigin => ("foreign_origin", S::FORBIDDEN, "Pages of other sites may not do this"),
            Self::NotFound => ("not_found", S::NOT_FOUND, "There is nothing at this path"),
            Self::JobNotFound => ("job_not_found", S::NOT_FOUND, "There is no such job"),
            Self::GroupNotFound => ("group_not_found", S::NOT_FOUND, "There is no such group"),
            Self::MethodNotAllowed => {
                ("method_not_allowed", S::METHOD_NOT_ALLOWED, "This path does not take this method")
            }
            Self::JobFinished => ("job_finished", S::CONFLICT, "The job has finished"),
            Self::RequestTimeout => ("request_timeout", S::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::TooManyStreams => ("too_many_streams", S::TOO_MANY_REQUESTS, "The key has too many open streams"),
            Self::BodyTooLarge => ("body_too_large", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", S::UNSUPPORTED_MEDIA_TYPE, "This content type is not taken")
            }
            Self::ForeignHost => ("foreign_host", S::MISDIRECTED_REQUEST, "This server is not that host"),
            Self::InvalidRequest => ("invalid_request", S::UNPROCESSABLE_ENTITY, "The request is wrong"),
            Self::InvalidRecipe => ("invalid_recipe", S::UNPROCESSABLE_ENTITY, "The recipe cannot be merged"),
            Self::InvalidOutput => ("invalid_output", S::UNPROCESSABLE_ENTITY, "The output cannot be written there"),
            Self::OutputExists => ("output_exists", S::UNPROCESSABLE_ENTITY, "The output exists already"),
            Self::IdempotencyMismatch => {
                ("idempotency_mismatch", S::UNPROCESSABLE_ENTITY, "The idempotency key was used before")
            }
            Self::IdempotencyInFlight => ("idempotency_in_flight", S::CONFLICT, "The same request is being worked on"),
            Self::RateLimited => ("rate_limited", S::TOO_MANY_REQUESTS, "The key asks too often"),
            Self::TooManyQueued => ("too_many_queued", S::TOO_MANY_REQUESTS, "The key has too many jobs waiting"),
            Self::QueueFull => ("queue_full", S::SERVICE_UNAVAILABLE, "The queue is full"),
            Self::InsufficientStorage => {
                ("insufficient_storage", S::INSUFFICIENT_STORAGE, "The server has no room for the job")
            }
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "The server failed"),
            Self::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE, "The server cannot answer now"),
        };
        Facts { word, status, title }
    }

    /// Whether the same request may succeed later.
    fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::IdempotencyInFlight
                | Self::RateLimited
                | Self::TooManyQueued
                | Self::QueueFull
                | Self::InsufficientStorage
                | Self::TooManyStreams
                | Self::RequestTimeout
        )
    }

    /// What an error of the framework means.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            other if other.is_server_error() => Self::Internal,
            _ => Self::BadRequest,
        }
    }

    fn general_detail(self) -> String {
        match self {
            Self::NotFound => "no resource has this path; GET / lists what there is".to_owned(),
            Self::MethodNotAllowed => "the header `Allow` names the methods of this path".to_owned(),
            Self::Internal => "the server's log has the cause, by this request id".to_owned(),
            other => other.facts().title.to_lowercase(),
        }
    }
}

/// One finding about a request: an error, or a warning that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Finding {
    /// JSON pointer into the recipe; for what is said beside the recipe, such as `/output`, into the request.
    pub(crate) pointer: String,
    /// Line in the recipe's text, from 1; absent when the recipe came as an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) column: Option<u32>,
    /// Stable word for programs.
    pub(crate) code: String,
    /// What was found and what to write instead.
    pub(crate) detail: String,
}

impl Finding {
    pub(crate) fn at(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), line: None, column: None, code: code.to_owned(), detail: detail.into() }
    }

    fn without_secrets(mut self) -> Self {
        self.pointer = redacted(&self.pointer).into_owned();
        self.detail = redacted(&self.detail).into_owned();
        self
    }

    pub(crate) fn all(problems: Vec<recipe::Problem>) -> Vec<Self> {
        problems.into_iter().map(Self::from).collect()
    }
}

impl From<recipe::Problem> for Finding {
    fn from(problem: recipe::Problem) -> Self {
        let recipe::Problem { pointer, line, column, code, detail } = problem;
        Self { pointer, line, column, code, detail }
    }
}

/// An error on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    retry_after_seconds: Option<u64>,
    /// For the log only.
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let (errors, warnings) = (Vec::new(), Vec::new());
        Self { code, detail: detail.into(), errors, warnings, retry_after_seconds: None, cause: None }
    }

    pub(crate) fn with_errors(mut self, errors: Vec<Finding>) -> Self {
        self.errors = errors;
        self
    }

    /// From when on the same request may succeed.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    pub(crate) fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    pub(crate) fn internal() -> Self {
        Self::new(Code::Internal, Code::Internal.general_detail())
    }

    /// What a task that did not end well came to.
    pub(crate) fn of_task(error: tokio::task::JoinError) -> Self {
        Self::internal().because(error)
    }

    pub(crate) fn no_job(id: &str) -> Self {
        Self::new(Code::JobNotFound, format!("there is no job {id:?}"))
    }

    pub(crate) fn no_webhook(id: &str) -> Self {
        Self::new(Code::WebhookNotFound, format!("there is no webhook {id:?}"))
    }

    pub(crate) fn no_delivery(id: &str) -> Self {
        Self::new(Code::DeliveryNotFound, format!("there is no delivery {id:?}"))
    }

    pub(crate) fn no_group(id: &str) -> Self {
        Self::new(Code::GroupNotFound, format!("there is no group {id:?}"))
    }
}

impl From<JobsError> for Problem {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::IdempotencyMismatch => Self::new(
                Code::IdempotencyMismatch,
                "this Idempotency-Key came with another request before; choose a new key for a new job",
            ),
            JobsError::Replaced { .. } => Self::new(
                Code::Unavailable,
                "the database's file is not there any more; its server's log says where it was",
            )
            .because(error),
            JobsError::TooManyQueued { max } => Self::new(
                Code::TooManyQueued,
                format!("this key may have {max} jobs waiting at once; try again when some of them are begun"),
            )
            .retry_after(QUEUE_RETRY_AFTER_SECONDS),
            JobsError::QueueFull { max } => Self::new(
                Code::QueueFull,
                format!("{max} jobs wait, and no more may; try again when some of them are begun"),
            )
            .retry_after(QUEUE_RETRY_AFTER_SECONDS),
            JobsError::Database(_) | JobsError::NotWritable { .. } => {
                Self::new(Code::Unavailable, "the database does not answer; try again").because(error)
            }
            JobsError::LeaseLost
            | JobsError::Url { .. }
            | JobsError::Directory { .. }
            | JobsError::NetworkFileSystem { .. }
            | JobsError::Unusable { .. }
            | JobsError::Backup(_)
            | JobsError::Migrate(_)
            | JobsError::Corrupt { .. } => Self::internal().because(error),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = match refusal.problems.as_slice() {
            [only] => only.to_string(),
            many => format!("{} errors in the recipe; `errors` has each with its place", many.len()),
        };
        let mut problem = Self::new(Code::InvalidRecipe, detail).with_errors(Finding::all(refusal.problems));
        problem.warnings = Finding::all(refusal.warnings);
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.facts().status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemDocument {
    /// `urn:amalgam:problem:` and the code with hyphens.
    #[serde(rename = "type")]
    #[schema(example = "urn:amalgam:problem:invalid-recipe")]
    kind: String,
    title: &'static str,
    #[schema(example = 422)]
    status: u16,
    detail: String,
    /// Stable word for programs.
    #[schema(example = "invalid_recipe")]
    code: &'static str,
    /// Also in the header `X-Request-Id`, and in the server's log.
    request_id: String,
    /// The same request may succeed later.
    retryable: bool,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

/// A database that fails over is back soon.
const RETRY_AFTER_SECONDS: u64 = 1;
/// When jobs are begun nobody knows: soon enough to be first, and seldom enough to be no load.
const QUEUE_RETRY_AFTER_SECONDS: u64 = 10;

/// Gives an error response its document. Others pass as they are.
pub(crate) fn render(mut response: Response, request_id: &str) -> Response {
    let status = response.status();
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if status.is_client_error() || status.is_server_error() => {
            let code = Code::of_status(status);
            Problem::new(code, code.general_detail())
        }
        None => return response,
    };
    log(&problem);
    let waits = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    let unavailable = waits.then_some(RETRY_AFTER_SECONDS);
    let retry_after = problem.retry_after_seconds.or(unavailable);
    let mut rendered = (status, Json(document(problem, status, request_id))).into_response();
    let headers = rendered.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::REQUEST_TIMEOUT {
        // the rest of the body is not waited for
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // what layers have said beside the body, as of the methods that are allowed, or to a browser
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            headers.insert(name.clone(), value.clone());
        }
    }
    rendered
}

fn document(problem: Problem, status: StatusCode, request_id: &str) -> ProblemDocument {
    let Facts { word, title, .. } = problem.code.facts();
    ProblemDocument {
        kind: format!("urn:amalgam:problem:{}", word.replace('_', "-")),
        title,
        status: status.as_u16(),
        detail: redacted(&problem.detail).into_owned(),
        code: word,
        request_id: request_id.to_owned(),
        retryable: problem.code.is_retryable(),
        errors: problem.errors.into_iter().map(Finding::without_secrets).collect(),
        warnings: problem.warnings.into_iter().map(Finding::without_secrets).collect(),
    }
}

fn log(problem: &Problem) {
    let Some(cause) = &problem.cause else { return };
    tracing::error!(code = problem.code.facts().word, %cause, "request failed");
}

/// Its headers are also in every other answer to a key.
fn documented_rate_limit(mut response: Documented) -> Documented {
    let text = |about: &str| {
        let string = ObjectBuilder::new().schema_type(Type::String).build();
        RefOr::T(HeaderBuilder::new().schema(Some(string)).description(Some(about)).build())
    };
    let headers = [
        ("Retry-After", "Seconds"),
        ("RateLimit", "What is left of each quota, and in how many seconds there is more: `\"requests\";r=1187;t=1`"),
        ("RateLimit-Policy", "The quotas: `\"requests\";q=1200;w=60` are 1200 in 60 seconds"),
    ];
    response.headers.extend(headers.map(|(name, about)| (name.to_owned(), text(about))));
    response
}

/// The errors that any operation may answer with, for its documentation.
pub(crate) struct AnyProblem;

impl IntoResponses for AnyProblem {
    fn responses() -> BTreeMap<String, RefOr<Documented>> {
        let documented = |description: &str| {
            let content =
                ContentBuilder::new().schema(Some(utoipa::openapi::Ref::from_schema_name(ProblemDocument::name())));
            ResponseBuilder::new().description(description).content(PROBLEM_JSON, content.build()).build()
        };
        ResponsesBuilder::new()
            .response("401", documented("The server asks for an API key, and this is none that it knows."))
            .response("403", documented("The key lacks the scope, or the `Origin` is another site's."))
            .response("421", documented("The `Host` is not one this server answers to."))
            .response(
                "429",
                documented_rate_limit(documented(
                    "The key asks too often, or has too many jobs waiting; `Retry-After` says when to ask again.",
                )),
            )
            .response("500", documented("The server failed; its log has the cause by `request_id`."))
            .response("503", documented("The database does not answer, or the queue is full; try again."))
            .build()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, RECIPE, YAML};

    #[tokio::test]
    async fn every_error_is_a_problem_document() {
        let fixture = Fixture::new().await;
        let job = "/v1/jobs/job_0190a1b2c3d47e8f90a1b2c3d4e5f607";
        let large = "x".repeat(crate::ApiLimits::default().body_bytes_max + 1);
        let json = "application/json";
        let cases = [
            (Method::GET, "/nosuch", "", "", 404, "not-found"),
            (Method::DELETE, "/v1/jobs", "", "", 405, "method-not-allowed"),
            (Method::GET, job, "", "", 404, "job-not-found"),
            (Method::GET, "/v1/jobs/job_1", "", "", 404, "job-not-found"),
            (Method::POST, &format!("{job}/cancel"), "", "", 404, "job-not-found"),
            (Method::GET, &format!("{job}/events"), "", "", 404, "job-not-found"),
            (Method::GET, "/v1/groups/group_0190a1b2c3d47e8f90a1b2c3d4e5f607", "", "", 404, "group-not-found"),
            (Method::GET, "/v1/groups/job_0190a1b2c3d47e8f90a1b2c3d4e5f607", "", "", 404, "group-not-found"),
            (Method::POST, "/v1/groups/group_1/cancel", "", "", 404, "group-not-found"),
            (Method::GET, "/v1/jobs?group=job_1", "", "", 400, "invalid-query"),
            (Method::GET, "/v1/jobs/%ff", "", "", 400, "bad-request"),
            (Method::GET, "/v1/jobs?limit=many", "", "", 400, "invalid-query"),
            (Method::GET, "/v1/jobs?after=nowhere", "", "", 400, "invalid-query"),
            (Method::POST, "/v1/jobs", "text/plain", RECIPE, 415, "unsupported-media-type"),
            (Method::POST, "/v1/jobs", json, "{", 400, "malformed-body"),
            (Method::POST, "/v1/jobs", json, "[]", 422, "invalid-request"),
            (Method::POST, "/v1/jobs", YAML, &large, 413, "body-too-large"),
            (Method::POST, "/v1/jobs", YAML, "a: [", 422, "invalid-recipe"),
            (Method::POST, "/v1/plans", YAML, "{}", 422, "invalid-recipe"),
        ];
        for (method, path, content_type, body, status, slug) in cases {
            let answer = fixture.send(method.clone(), path, &[("content-type", content_type)], body).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.header("content-type"), PROBLEM_JSON, "{method} {path}");
            let body = answer.json();
            assert_eq!(body["type"], format!("urn:amalgam:problem:{slug}"), "{method} {path}");
            assert_eq!(body["status"], status);
            assert_eq!(body["request_id"], answer.header("x-request-id"));
            assert_eq!(body["retryable"], false);
            for key in ["title", "detail", "code", "errors"] {
                assert!(!body[key].is_null(), "{method} {path} has no {key}");
            }
        }
    }

    #[tokio::test]
    async fn an_absent_database_is_a_problem_that_may_pass() {
        let fixture = Fixture::new().await;
        fixture.store.close().await;
        for path in ["/v1/jobs", "/readyz"] {
            let answer = fixture.get(path).await;
            assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
            let body = answer.json();
            assert_eq!((&body["code"], &body["retryable"]), (&json!("unavailable"), &json!(true)));
            assert_eq!(body["detail"], "the database does not answer; try again");
        }
    }

    #[test]
    fn a_server_error_tells_nothing_of_its_cause() {
        let error = JobsError::Corrupt { column: "labels", reason: "secret".to_owned() };
        let problem = Problem::from(error);
        let told = serde_json::to_string(&document(problem, StatusCode::INTERNAL_SERVER_ERROR, "id")).unwrap();
        assert!(!told.contains("secret") && !told.contains("labels"), "{told}");
    }
}
