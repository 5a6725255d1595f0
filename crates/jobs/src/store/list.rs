//! Lists jobs, newest first.

use super::statement::query;
use super::{Store, row};
use crate::{Cursor, GroupId, Job, JobFilter, JobPage, Result, Status};

/// Five places, one for each status; an unused place repeats another. No group is the empty text.
const FILTERED: &str = "\
    where status in ($1, $2, $3, $4, $5) \
    and (created_at < $6 or (created_at = $6 and id < $7)) \
    and ($9 = '' or group_id = $9) \
    order by created_at desc, id desc limit $8";

impl Store {
    pub async fn list(&self, filter: &JobFilter) -> Result<JobPage> {
        let mut query = query(row::select_job(FILTERED, ""));
        for status in five(&filter.status) {
            query = query.bind(status.as_str());
        }
        let (created_at, id) = behind(filter.after.as_ref());
        // one more than asked tells whether there is a next page
        let rows = query
            .bind(created_at)
            .bind(id)
            .bind(i64::from(filter.limit) + 1)
            .bind(filter.group.as_ref().map_or("", GroupId::as_str))
            .fetch_all(&mut *self.reading().await?)
            .await?;
        let jobs: Vec<Job> = rows.iter().map(row::job).collect::<Result<_>>()?;
        Ok(cut(jobs, filter.limit as usize))
    }
}

fn five(asked: &[Status]) -> impl Iterator<Item = Status> {
    let asked = if asked.is_empty() { &Status::ALL } else { asked };
    Status::ALL.into_iter().map(|status| if asked.contains(&status) { status } else { asked[0] })
}

fn behind(after: Option<&Cursor>) -> (i64, &str) {
    after.map_or((i64::MAX, ""), |cursor| (cursor.created_at, cursor.id.as_str()))
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

    use crate::{
        Cursor, JobFilter, JobId, Status,
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
                let page =
                    fixture.store.list(&JobFilter { status: vec![], group: None, after, limit: 3 }).await.unwrap();
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
    async fn a_full_last_page_has_no_next() {
        on_each_database(async |fixture| {
            for _ in 0..2 {
                fixture.enqueue(new_job()).await;
            }
            let page =
                fixture.store.list(&JobFilter { status: vec![], group: None, after: None, limit: 2 }).await.unwrap();
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
            let filter = JobFilter { status: vec![], group: Some(member.group), after: None, limit: 10 };
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
                let filter = JobFilter { status: status.to_vec(), group: None, after: None, limit: 10 };
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
