//! Forgets one job that is over, with all that belongs to it. Its artifact stays.

use super::statement::query;
use super::{Store, prune};
use crate::{Action, JobId, Result};

/// What asking for it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Done,
    /// It waits or runs: a promise is kept or cancelled, not forgotten.
    NotOver,
    Unknown,
}

impl Store {
    pub async fn delete_job(&self, id: &JobId) -> Result<Deleted> {
        let mut write = self.write("store.delete").await?;
        let answer = match write.job(id).await? {
            None => Deleted::Unknown,
            Some(job) if !job.status.is_terminal() => Deleted::NotOver,
            Some(_) => Deleted::Done,
        };
        if answer != Deleted::Done {
            write.abandon().await?;
            return Ok(answer);
        }
        write.forget_events(id).await?;
        for part in prune::PARTS_OF {
            query(part).bind(id.as_str()).execute(write.connection()).await?;
        }
        write.audit(Action::JobDeleted, id.as_str()).await?;
        write.commit().await?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::Deleted;
    use crate::{
        JobId, Outcome,
        testing::{a_failure, new_job, on_each_database},
    };

    #[tokio::test]
    async fn only_what_is_over_is_forgotten_and_then_wholly() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            let id = fixture.enqueue(new_job()).await.id;
            let other = fixture.enqueue(new_job()).await.id;
            assert_eq!(store.delete_job(&id).await.unwrap(), Deleted::NotOver);
            let lease = fixture.claim().await;
            assert_eq!(store.delete_job(&id).await.unwrap(), Deleted::NotOver);
            store.finish(&lease, Outcome::Failed(a_failure(1))).await.unwrap();
            assert_eq!(store.delete_job(&id).await.unwrap(), Deleted::Done);
            assert_eq!(store.delete_job(&id).await.unwrap(), Deleted::Unknown);
            assert_eq!(store.delete_job(&JobId::generate()).await.unwrap(), Deleted::Unknown);
            assert!(store.job(&id).await.unwrap().is_none() && store.job(&other).await.unwrap().is_some());
            let left =
                "select (select count(*) from events) + (select count(*) from attempts) + (select count(*) from tasks)";
            assert_eq!(fixture.count(left).await, 2, "an event and a task of the other");
        })
        .await;
    }
}
