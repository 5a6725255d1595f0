//! `GET /v1/jobs`: newest first, a page at a time.

use axum::{Json, extract::State};
use jobs::{Cursor, GroupId, JobFilter, JobPage, Status};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::fields::Fields;
use crate::job_object::JobObject;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::Pairs;
use crate::timestamp::milliseconds;

#[derive(Serialize, ToSchema)]
pub(crate) struct JobList {
    /// Always `list`.
    object: &'static str,
    #[schema(value_type = Vec<JobObject>)]
    data: Vec<Value>,
    has_more: bool,
    /// For `after`, to read on; null on the last page.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// List jobs, newest first
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "jobs",
    params(
        ("status" = Option<Vec<String>>, Query, description = "Only jobs in one of these: queued, running, succeeded, failed, cancelled; repeatable, or joined by commas"),
        ("group" = Option<String>, Query, description = "Only the jobs of this group"),
        ("method" = Option<String>, Query, description = "Only jobs of this merge method"),
        ("label" = Option<Vec<String>>, Query, description = "Only jobs with this label, as `key=value`; repeatable"),
        ("created_after" = Option<String>, Query, description = "Only jobs made then or later, as 2026-01-31T08:00:00Z"),
        ("created_before" = Option<String>, Query, description = "Only jobs made before then"),
        ("fields" = Option<String>, Query, description = "Only these fields of each job, joined by commas, as in `id,status,progress`"),
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20"),
        ("after" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of jobs", body = JobList),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn list_jobs(State(api): State<Api>, caller: Caller, query: Pairs) -> Result<Json<JobList>> {
    query.only(&[
        "status",
        "group",
        "method",
        "label",
        "created_after",
        "created_before",
        "fields",
        "limit",
        "after",
    ])?;
    let fields = Fields::asked(&query)?;
    let filter = JobFilter {
        tenant: caller.tenant,
        status: statuses(&query)?,
        group: query.parsed::<GroupId>("group")?,
        method: query.parsed("method")?,
        labels: query.all("label").map(label).collect::<Result<_>>()?,
        created_after: time(&query, "created_after")?,
        created_before: time(&query, "created_before")?,
        after: query.parsed::<Cursor>("after")?,
        limit: query.limit()?,
    };
    let JobPage { jobs, next } = api.store.list(&filter).await?;
    Ok(Json(JobList {
        object: "list",
        data: jobs.into_iter().map(|job| fields.pick(&JobObject::from(job))).collect(),
        has_more: next.is_some(),
        next_cursor: next.map(|cursor| cursor.encode()),
    }))
}

fn label(text: &str) -> Result<(String, String)> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| {
        Problem::new(Code::InvalidQuery, format!("query parameter `label` is {text:?}; write `label=key=value`"))
    })
}

fn time(query: &Pairs, key: &str) -> Result<Option<i64>> {
    let Some(text) = query.parsed::<String>(key)? else { return Ok(None) };
    let detail = || format!("query parameter `{key}` is {text:?}; it is a time as 2026-01-31T08:00:00Z");
    milliseconds(&text).map(Some).ok_or_else(|| Problem::new(Code::InvalidQuery, detail()))
}

fn statuses(query: &Pairs) -> Result<Vec<Status>> {
    query.all("status").flat_map(|words| words.split(',')).map(status).collect()
}

fn status(word: &str) -> Result<Status> {
    Status::ALL.into_iter().find(|status| status.as_str() == word).ok_or_else(|| {
        let known = Status::ALL.map(Status::as_str).join(", ");
        let detail = match word {
            "cancelling" => "jobs that are cancelling are found by status=running".to_owned(),
            _ => format!("{word:?} is no status; there are {known}"),
        };
        Problem::new(Code::InvalidQuery, detail)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{Answer, Fixture};

    fn ids(answer: &Answer) -> Vec<String> {
        let body = answer.json();
        body["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn pages_join_to_the_whole_list() {
        let fixture = Fixture::new().await;
        let mut submitted = Vec::new();
        for _ in 0..5 {
            submitted.push(fixture.submit().await.to_string());
        }
        submitted.reverse();
        let mut joined = Vec::new();
        let mut path = "/v1/jobs?limit=2".to_owned();
        loop {
            let page = fixture.get(&path).await;
            joined.extend(ids(&page));
            let body = page.json();
            let Some(cursor) = body["next_cursor"].as_str() else {
                assert_eq!(body["has_more"], false);
                break;
            };
            assert_eq!(body["has_more"], true);
            path = format!("/v1/jobs?limit=2&after={cursor}");
        }
        assert_eq!(joined, submitted);
        assert_eq!(ids(&fixture.get("/v1/jobs").await), submitted);
    }

    #[tokio::test]
    async fn a_list_is_narrowed_by_label_method_and_time() {
        let fixture = Fixture::new().await;
        fixture.submit().await;
        let labelled = fixture.post("/v1/jobs?label=team=a&label=run=7%3D8", crate::testing::RECIPE).await.json();
        let id = labelled["id"].as_str().unwrap().to_owned();
        let made = labelled["created_at"].as_str().unwrap();
        for (query, count) in [
            ("label=team=a", 1),
            ("label=team=a&label=run=7%3D8", 1),
            ("label=team=b", 0),
            ("method=linear", 2),
            ("method=ties", 0),
            ("created_before=2020-01-01T00:00:00Z", 0),
            (&format!("created_after={made}&label=team=a"), 1),
        ] {
            let found = ids(&fixture.get(&format!("/v1/jobs?{query}")).await);
            assert_eq!(found.len(), count, "{query}");
            assert!(!query.contains("team=a") || found == [id.clone()], "{query}");
        }
        for query in ["label=team", "created_after=yesterday", "method=a&method=b"] {
            assert_eq!(fixture.get(&format!("/v1/jobs?{query}")).await.status, 400, "{query}");
        }
    }

    #[tokio::test]
    async fn a_list_has_only_the_statuses_asked_for() {
        let fixture = Fixture::new().await;
        let running = fixture.submit().await.to_string();
        fixture.claim().await;
        let cancelled = fixture.submit().await.to_string();
        fixture.post(&format!("/v1/jobs/{cancelled}/cancel"), "").await;
        let queued = fixture.submit().await.to_string();
        for (query, expected) in [
            ("status=queued", vec![&queued]),
            ("status=queued,running", vec![&queued, &running]),
            ("status=cancelled&status=running", vec![&cancelled, &running]),
            ("status=failed", vec![]),
        ] {
            assert_eq!(ids(&fixture.get(&format!("/v1/jobs?{query}")).await).iter().collect::<Vec<_>>(), expected);
        }
        for query in ["status=done", "status=", "status=cancelling", "limit=0", "limit=101", "staus=queued"] {
            assert_eq!(fixture.get(&format!("/v1/jobs?{query}")).await.status, 400, "{query}");
        }
    }
}
