//! Asks for the end of every job of a group.

use super::{Store, cancel::cancel};
use crate::{Action, GroupId, Job, Result};

impl Store {
    /// Cancels what is not over, as `request_cancel` does, and gives all jobs as they then stand; none for an unknown group.
    pub async fn cancel_group(&self, id: &GroupId) -> Result<Vec<Job>> {
        let mut write = self.write("store.cancel_group").await?;
        let jobs = write.group(id).await?;
        let mut has_changed = false;
        for job in &jobs {
            has_changed |= cancel(&mut write, job).await?;
        }
        if !has_changed {
            write.abandon().await?;
            return Ok(jobs);
        }
        let jobs = write.group(id).await?;
        write.audit(Action::GroupCancelled, id.as_str()).await?;
        write.commit().await?;
        Ok(jobs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        EventKind, GroupId, Outcome, Status,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn what_is_not_over_is_cancelled_and_no_other_job() {
        on_each_database(async |fixture| {
            let made = fixture.enqueue_group(&["done", "running", "queued"]).await;
            let done = fixture.claim().await;
            fixture.store.finish(&done, Outcome::Succeeded { publication: json!({}), published: None }).await.unwrap();
            let running = fixture.claim().await;
            let beside = fixture.enqueue(new_job()).await;
            let group = made[0].member.clone().expect("of a group").group;
            for _ in 0..2 {
                let jobs = fixture.store.cancel_group(&group).await.unwrap();
                let statuses: Vec<Status> = jobs.iter().map(|job| job.status).collect();
                assert_eq!(statuses, [Status::Succeeded, Status::Running, Status::Cancelled]);
                assert!(jobs[1].is_cancelling());
            }
            assert_eq!(fixture.kinds(&running.job.id).await[2..], [EventKind::CancelRequested]);
            assert_eq!(fixture.job(&beside.id).await.status, Status::Queued);
            assert!(fixture.store.cancel_group(&GroupId::generate()).await.unwrap().is_empty());
        })
        .await;
    }
}
