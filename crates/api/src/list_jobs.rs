//! `GET /v1/jobs`: newest first, a page at a time.

use axum::{Json, extract::State};
use jobs::{Cursor, GroupId, JobFilter, JobPage, Status};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::job_object::JobObject;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};
use crate::query::Pairs;

#[derive(Serialize, ToSchema)]
pub(crate) struct JobList {
    /// Always `list`.
    object: &'static str,
    data: Vec<JobObject>,
    has_more: bool,
    /// For `after`, to read on; null on the last page.
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
        ("limit" = Option<u32>, Query, description = "1 to 100, else 20"),
        ("after" = Option<String>, Query, description = "The `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of jobs", body = JobList),
        (status = 400, description = "The query cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn list_jobs(State(api): State<Api>, query: Pairs) -> Result<Json<JobList>> {
    query.only(&["status", "group", "limit", "after"])?;
    let filter = JobFilter {
        status: statuses(&query)?,
        group: query.parsed::<GroupId>("group")?,
        after: query.parsed::<Cursor>("after")?,
        limit: query.limit()?,
    };
    let JobPage { jobs, next } = api.store.list(&filter).await?;
    Ok(Json(JobList {
        object: "list",
        data: jobs.into_iter().map(JobObject::from).collect(),
        has_more: next.is_some(),
        next_cursor: next.map(|cursor| cursor.encode()),
    }))
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
