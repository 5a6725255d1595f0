//! Lists jobs, newest first.

use super::statement::query;
use super::{Store, connect::Dialect, row};
use crate::{Cursor, Job, JobFilter, JobPage, Result};

/// Statuses come first, then what else is asked for; every value is bound.
const ORDER: &str = "order by created_at desc, id desc limit";

impl Store {
    pub async fn list(&self, filter: &JobFilter) -> Result<JobPage> {
        let (conditions, values) = conditions(filter, self.shared.dialect);
        let sql = format!("where {} {ORDER} ${}", conditions.join(" and "), values.len() + 1);
        let mut query = query(row::select_job_where(&sql));
        for value in values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        // one more than asked tells whether there is a next page
        let rows = query.bind(i64::from(filter.limit) + 1).fetch_all(&mut *self.reading().await?).await?;
        let jobs: Vec<Job> = rows.iter().map(row::job).collect::<Result<_>>()?;
        Ok(cut(jobs, filter.limit as usize))
    }
}

enum Value {
    Text(String),
    Number(i64),
}

/// What is asked for, as conditions with numbered places and the values for these. Nothing of a value is in the text.
fn conditions(filter: &JobFilter, dialect: Dialect) -> (Vec<String>, Vec<Value>) {
    let mut values = vec![Value::Text(filter.tenant.clone())];
    let mut conditions = vec!["tenant = $1".to_owned()];
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("${}", values.len())));
    };
    if let Some(method) = &filter.method {
        add("method = ?", Value::Text(method.clone()));
    }
    if let Some(group) = &filter.group {
        add("group_id = ?", Value::Text(group.to_string()));
    }
    if let Some(after) = filter.created_after {
        add("created_at >= ?", Value::Number(after));
    }
    if let Some(before) = filter.created_before {
        add("created_at < ?", Value::Number(before));
    }
    for (key, value) in &filter.labels {
        // labels are one JSON text, in which a pair stands as it would alone: a quote inside of a text never stands without its
        // backslash, so that nothing else looks like a pair
        let pair = format!("{}:{}", serde_json::json!(key), serde_json::json!(value));
        add(&format!("{}(labels, ?) > 0", dialect.position()), Value::Text(pair));
    }
    if let Some(cursor) = &filter.after {
        add("created_at <= ?", Value::Number(cursor.created_at));
        add("(created_at < ?", Value::Number(cursor.created_at));
        let at = conditions.len() - 1;
        values.push(Value::Text(cursor.id.to_string()));
        conditions[at] += &format!(" or id < ${})", values.len());
    }
    if !filter.status.is_empty() {
        let from = values.len();
        values.extend(filter.status.iter().map(|status| Value::Text(status.as_str().to_owned())));
        let places: Vec<String> = (from + 1..=values.len()).map(|place| format!("${place}")).collect();
        conditions.push(format!("status in ({})", places.join(", ")));
    }
    (conditions, values)
}

fn cut(mut jobs: Vec<Job>, limit: usize) -> JobPage {
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let next = jobs.last().filter(|_| more).map(Cursor::at);
    JobPage { jobs, next }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use crate::{
        Admission, Cursor, JobFilter, JobId, NewJob, Status,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn list_pages_newest_first() {
        on_each_database(async |fixture| {
            let mut made: Vec<JobId> = Vec::new();
            for n in 0..7 {
                made.push(fixture.enqueue(new_job()).await.id);
                // some share a millisecond on SQLite, so that ids must decide
                fixture.advance(Duration::from_millis(n % 2)).await;
            }
            fixture.sql("update jobs set created_at = created_at / 20").await;
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = fixture.store.list(&JobFilter { after, limit: 3, ..JobFilter::default() }).await.unwrap();
                seen.extend(page.jobs.into_iter().map(|job| job.id));
                let Some(next) = page.next else { break };
                after = Some(Cursor::parse(&next.encode()).unwrap());
            }
            made.reverse();
            assert_eq!(seen, made);
        })
        .await;
    }

    #[tokio::test]
    async fn a_tenant_has_only_its_own() {
        on_each_database(async |fixture| {
            let of = |tenant: &str| NewJob {
                admission: Admission { tenant: tenant.to_owned(), ..Admission::default() },
                ..new_job()
            };
            let mine = fixture.enqueue(of("a")).await.id;
            fixture.enqueue(of("b")).await;
            fixture.enqueue(new_job()).await;
            let filter = JobFilter { tenant: "a".to_owned(), limit: 10, ..JobFilter::default() };
            let jobs = fixture.store.list(&filter).await.unwrap().jobs;
            assert_eq!(jobs.iter().map(|job| &job.id).collect::<Vec<_>>(), [&mine]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_list_has_what_every_filter_lets_through() {
        on_each_database(async |fixture| {
            let labelled = |labels: serde_json::Value, method: &str| NewJob {
                labels: labels.as_object().unwrap().clone(),
                method: method.to_owned(),
                ..new_job()
            };
            let a = fixture.enqueue(labelled(json!({"team": "a", "x%_!": "\"q\\"}), "ties")).await;
            let b = fixture.enqueue(labelled(json!({"team": "ab", "k": "\"team\":\"a\""}), "linear")).await;
            let found = async |filter: JobFilter| {
                let jobs = fixture.store.list(&JobFilter { limit: 10, ..filter }).await.unwrap().jobs;
                jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
            };
            let with = |key: &str, value: &str| JobFilter {
                labels: vec![(key.to_owned(), value.to_owned())],
                ..JobFilter::default()
            };
            assert_eq!(found(with("team", "a")).await, std::slice::from_ref(&a.id));
            assert_eq!(found(with("x%_!", "\"q\\")).await, std::slice::from_ref(&a.id));
            assert_eq!(found(with("k", "\"team\":\"a\"")).await, std::slice::from_ref(&b.id));
            for (key, value) in [("team", "%"), ("tea_", "a"), ("team", "A"), ("eam", "a"), ("team", "")] {
                assert!(found(with(key, value)).await.is_empty(), "{key}={value}");
            }
            let both = JobFilter {
                labels: vec![("team".into(), "a".into()), ("k".into(), "v".into())],
                ..JobFilter::default()
            };
            assert!(found(both).await.is_empty());
            assert_eq!(
                found(JobFilter { method: Some("ties".into()), ..JobFilter::default() }).await,
                std::slice::from_ref(&a.id)
            );
            let after = JobFilter { created_after: Some(a.created_at), ..JobFilter::default() };
            assert_eq!(found(after).await.len(), 2);
            let before = JobFilter { created_before: Some(a.created_at), ..JobFilter::default() };
            assert!(found(before).await.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_full_last_page_has_no_next() {
        on_each_database(async |fixture| {
            for _ in 0..2 {
                fixture.enqueue(new_job()).await;
            }
            let page = fixture.store.list(&JobFilter { limit: 2, ..JobFilter::default() }).await.unwrap();
            assert_eq!((page.jobs.len(), page.next), (2, None));
        })
        .await;
    }

    #[tokio::test]
    async fn list_keeps_to_the_group_asked_for() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            let group = fixture.enqueue_group(&["a", "b"]).await;
            fixture.enqueue_group(&["a"]).await;
            let member = group[0].member.clone().expect("of a group");
            let filter = JobFilter { group: Some(member.group), limit: 10, ..JobFilter::default() };
            let page = fixture.store.list(&filter).await.unwrap();
            let ids: Vec<_> = page.jobs.iter().rev().map(|job| &job.id).collect();
            assert_eq!(ids, group.iter().map(|job| &job.id).collect::<Vec<_>>());
        })
        .await;
    }

    #[tokio::test]
    async fn list_keeps_to_the_statuses_asked_for() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            fixture.enqueue(new_job()).await;
            let lease = fixture.claim().await;
            let of = async |status: &[Status]| {
                let filter = JobFilter { status: status.to_vec(), limit: 10, ..JobFilter::default() };
                fixture.store.list(&filter).await.unwrap().jobs
            };
            assert_eq!(of(&[Status::Running]).await[0].id, lease.job.id);
            assert_eq!(of(&[Status::Running]).await.len(), 1);
            assert_eq!(of(&[Status::Running, Status::Queued]).await.len(), 2);
            assert_eq!(of(&[Status::Failed]).await.len(), 0);
            assert_eq!(of(&[]).await.len(), 2);
        })
        .await;
    }
}
