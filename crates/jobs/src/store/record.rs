//! Appends what the worker did, and notes the phase it enters.

use super::Store;
use crate::{JobsError, Lease, NewEvent, Phase, Result};

const ENTER: &str = "\
    update jobs set phase = coalesce($3, phase) \
    where id = $1 and lease_token = $2 and status = 'running'";

impl Store {
    /// `phase` is the one that begins now, if the event ends another.
    pub async fn record(&self, lease: &Lease, phase: Option<Phase>, event: NewEvent) -> Result<()> {
        let mut write = self.write().await?;
        let entered = sqlx::query(ENTER)
            .bind(lease.job.id.as_str())
            .bind(lease.token)
            .bind(phase.map(Phase::as_str))
            .execute(write.connection())
            .await?;
        if entered.rows_affected() == 0 {
            return Err(JobsError::LeaseLost);
        }
        write.append(&lease.job.id, event).await?;
        write.commit().await
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        EventKind, Phase,
        testing::{a_warning, new_job, on_each_database},
    };

    #[tokio::test]
    async fn a_record_sets_the_phase_and_appends() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            fixture.store.record(&lease, Some(Phase::Merging), a_warning()).await.unwrap();
            fixture.store.record(&lease, None, a_warning()).await.unwrap();
            assert_eq!(fixture.job(&id).await.phase, Some(Phase::Merging));
            assert_eq!(fixture.kinds(&id).await[2..], [EventKind::Warning, EventKind::Warning]);
        })
        .await;
    }
}
