//! Accepts all jobs of a group, or none.

use super::{
    Store,
    admit::admit,
    enqueue::{create, replay},
};
use crate::{Action, Enqueued, Job, NewJob, QueueLimits, Result};

impl Store {
    /// As [`Store::enqueue_group_within`], however many wait.
    pub async fn enqueue_group(&self, jobs: Vec<NewJob>) -> Result<Enqueued<Vec<Job>>> {
        self.enqueue_group_within(jobs, QueueLimits::NONE).await
    }

    /// Writes every job in one transaction. The key of the request, if there is one, stands on the first.
    pub async fn enqueue_group_within(&self, jobs: Vec<NewJob>, limits: QueueLimits) -> Result<Enqueued<Vec<Job>>> {
        let mut write = self.write("store.enqueue_group").await?;
        // all are of the one who asked
        let owner = jobs.first().map(|job| job.admission.owner.clone()).unwrap_or_default();
        let mut created = Vec::with_capacity(jobs.len());
        for job in jobs {
            let Some(job) = create(&mut write, &job).await? else {
                let first = replay(&mut write, job.idempotency).await?;
                let replayed = match &first.member {
                    Some(member) => write.group(&member.group).await?,
                    None => vec![first],
                };
                write.abandon().await?;
                return Ok(Enqueued::Replayed(replayed));
            };
            created.push(job);
        }
        admit(&mut write, &owner, limits).await?;
        if let Some(member) = created.first().and_then(|job| job.member.clone()) {
            write.audit(Action::GroupCreated, member.group.as_str()).await?;
        }
        write.commit().await?;
        Ok(Enqueued::Created(created))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Enqueued, EventKind, Idempotency, JobsError, NewJob,
        testing::{new_group, new_job, on_each_database},
    };

    fn keyed(request_digest: &str) -> Vec<NewJob> {
        let mut jobs = new_group(&["a", "b"]);
        jobs[0].idempotency = Some(Idempotency { key: "k".to_owned(), request_digest: request_digest.to_owned() });
        jobs
    }

    #[tokio::test]
    async fn every_job_of_a_group_is_queued_and_told() {
        on_each_database(async |fixture| {
            let jobs = fixture.enqueue_group(&["a", "b", "c"]).await;
            for job in &jobs {
                assert_eq!(fixture.kinds(&job.id).await, [EventKind::Queued]);
            }
            // and they are run in the order of the request
            for job in &jobs {
                assert_eq!(fixture.claim().await.job.id, job.id);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_group_that_cannot_be_written_leaves_nothing() {
        on_each_database(async |fixture| {
            let mut jobs = new_group(&["a", "b"]);
            jobs[1].id = jobs[0].id.clone();
            fixture.store.enqueue_group(jobs).await.unwrap_err();
            assert_eq!(fixture.count("select count(*) from jobs").await, 0);
            assert_eq!(fixture.count("select count(*) from events").await, 0);
        })
        .await;
    }

    #[tokio::test]
    async fn the_key_of_a_group_replays_all_its_jobs() {
        on_each_database(async |fixture| {
            let Enqueued::Created(made) = fixture.store.enqueue_group(keyed("d")).await.unwrap() else {
                panic!("replayed")
            };
            assert_eq!(fixture.store.enqueue_group(keyed("d")).await.unwrap(), Enqueued::Replayed(made.clone()));
            let refused = fixture.store.enqueue_group(keyed("e")).await;
            assert!(matches!(refused, Err(JobsError::IdempotencyMismatch)));
            // a job alone cannot take it either
            let alone = NewJob { idempotency: keyed("e")[0].idempotency.clone(), ..new_job() };
            assert!(matches!(fixture.store.enqueue(alone).await, Err(JobsError::IdempotencyMismatch)));
            assert_eq!(fixture.count("select count(*) from jobs").await, 2);
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_with_one_key_at_once_make_one_group() {
        on_each_database(async |fixture| {
            let calls: Vec<_> = (0..6)
                .map(|_| {
                    let store = fixture.store.clone();
                    tokio::spawn(async move { store.enqueue_group(keyed("d")).await.unwrap() })
                })
                .collect();
            let mut created = 0;
            for call in calls {
                match call.await.unwrap() {
                    Enqueued::Created(_) => created += 1,
                    Enqueued::Replayed(jobs) => assert_eq!(jobs.len(), 2),
                }
            }
            assert_eq!((created, fixture.count("select count(*) from jobs").await), (1, 2));
        })
        .await;
    }
}
