//! Rows to types. What cannot be read is an error with its column, never a default.

use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use crate::{Event, Job, JobsError, Member, Origin, Result, word};

const JOB: &str = "\
    select id, status, phase, recipe, recipe_format, method, lenient, output, labels, metadata, priority, attempt, \
    max_attempts, cancel_requested_at, progress, error, publication, plan_digest, lease_owner, created_at, started_at, \
    finished_at, event_seq, group_id, group_position, variant, variant_settings, \
    lost, run_at, start_by, timeout_ms, reuse, requirements, lease_token, tenant, retry_of, webhook, request_id, \
    traceparent \
    from jobs";

/// The query for whole jobs, restricted and locked by constant text.
pub(super) fn select_job(restriction: &'static str, lock: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{JOB} {restriction} {lock}"))
}

/// As `select_job`, by conditions that hold no value.
pub(super) fn select_job_where(restriction: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{JOB} {restriction}"))
}

pub(super) fn job(row: &AnyRow) -> Result<Job> {
    Ok(Job {
        id: parsed(row, "id")?,
        tenant: row.try_get("tenant")?,
        status: word_in(row, "status")?,
        phase: optional_word(row, "phase")?,
        recipe: row.try_get("recipe")?,
        recipe_format: word_in(row, "recipe_format")?,
        method: row.try_get("method")?,
        lenient: row.try_get::<i64, _>("lenient")? != 0,
        output: json(row, "output")?,
        labels: json(row, "labels")?,
        metadata: json(row, "metadata")?,
        priority: row.try_get("priority")?,
        attempt: row.try_get("attempt")?,
        max_attempts: row.try_get("max_attempts")?,
        lost: row.try_get("lost")?,
        run_at: row.try_get("run_at")?,
        start_by: row.try_get("start_by")?,
        timeout_ms: row.try_get("timeout_ms")?,
        reuse: row.try_get::<i64, _>("reuse")? != 0,
        requirements: json(row, "requirements")?,
        retry_of: row
            .try_get::<Option<String>, _>("retry_of")?
            .map(|id| id.parse())
            .transpose()
            .map_err(|e| corrupt("retry_of", e))?,
        member: member(row)?,
        webhook: optional_json(row, "webhook")?,
        origin: Origin { request_id: row.try_get("request_id")?, traceparent: row.try_get("traceparent")? },
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        progress: optional_json(row, "progress")?,
        error: optional_json(row, "error")?,
        publication: optional_json(row, "publication")?,
        plan_digest: row.try_get("plan_digest")?,
        worker: row.try_get("lease_owner")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        last_seq: row.try_get("event_seq")?,
    })
}

fn member(row: &AnyRow) -> Result<Option<Member>> {
    if row.try_get::<Option<String>, _>("group_id")?.is_none() {
        return Ok(None);
    }
    Ok(Some(Member {
        group: parsed(row, "group_id")?,
        position: row.try_get("group_position")?,
        variant: row.try_get("variant")?,
        settings: json(row, "variant_settings")?,
    }))
}

pub(super) fn event(row: &AnyRow) -> Result<Event> {
    Ok(Event {
        job_id: parsed(row, "job_id")?,
        seq: row.try_get("seq")?,
        kind: word_in(row, "type")?,
        level: word_in(row, "level")?,
        message: row.try_get("message")?,
        data: json(row, "data")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(super) fn parsed<T>(row: &AnyRow, column: &'static str) -> Result<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    row.try_get::<String, _>(column)?.parse().map_err(|error| corrupt(column, error))
}

pub(super) fn word_in<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<T> {
    word::parse(&row.try_get::<String, _>(column)?).map_err(|error| corrupt(column, error))
}

fn optional_word<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| word::parse(&text).map_err(|error| corrupt(column, error))).transpose()
}

pub(super) fn json<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<T> {
    serde_json::from_str(&row.try_get::<String, _>(column)?).map_err(|error| corrupt(column, error))
}

pub(super) fn optional_json<T: DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| corrupt(column, error))).transpose()
}

pub(super) fn corrupt(column: &'static str, reason: impl std::fmt::Display) -> JobsError {
    JobsError::Corrupt { column, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use crate::{
        JobsError,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn an_unreadable_column_is_named() {
        on_each_database(async |fixture| {
            let job = fixture.enqueue(new_job()).await;
            fixture.sql("update jobs set labels = '{'").await;
            let error = fixture.store.job(&job.id).await.unwrap_err();
            assert!(matches!(error, JobsError::Corrupt { column: "labels", .. }), "{error}");
        })
        .await;
    }
}
