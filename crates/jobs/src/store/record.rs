//! Appends what the worker did, and notes the phase it enters.

use super::statement::{query, query_scalar};
use super::{Store, write::Write};
use crate::{JobsError, Lease, NewEvent, Phase, Result};

const ENTER: &str = "\
    update jobs set phase = coalesce($3, phase) \
    where id = $1 and lease_token = $2 and status = 'running'";

/// Since the attempt began, which is an event of its own.
const TOLD: &str = "\
    select count(*) from events where job_id = $1 and type = $2 and message = $3 and data = $4 \
    and seq > (select max(seq) from events where job_id = $1 and type = 'started')";

impl Store {
    /// `phase` is the one that begins now, if the event ends another.
    pub async fn record(&self, lease: &Lease, phase: Option<Phase>, event: NewEvent) -> Result<()> {
        self.enter(lease, phase, event, false).await
    }

    /// As `record`, after one that failed and may have been heard all the same: nothing is told twice in one attempt.
    pub async fn record_unless_told(&self, lease: &Lease, phase: Option<Phase>, event: NewEvent) -> Result<()> {
        self.enter(lease, phase, event, true).await
    }

    async fn enter(&self, lease: &Lease, phase: Option<Phase>, event: NewEvent, may_be_told: bool) -> Result<()> {
        let mut write = self.write("store.record").await?;
        let entered = query(ENTER)
            .bind(lease.job.id.as_str())
            .bind(lease.token)
            .bind(phase.map(Phase::as_str))
            .execute(write.connection())
            .await?;
        if entered.rows_affected() == 0 {
            return Err(JobsError::LeaseLost);
        }
        if may_be_told && is_told(&mut write, lease, &event).await? {
            return write.abandon().await;
        }
        write.append(&lease.job.id, event).await?;
        write.commit().await
    }
}

async fn is_told(write: &mut Write<'_>, lease: &Lease, event: &NewEvent) -> Result<bool> {
    let told: i64 = query_scalar(TOLD)
        .bind(lease.job.id.as_str())
        .bind(event.kind.as_str())
        .bind(event.message.as_str())
        .bind(event.data.to_string())
        .fetch_one(write.connection())
        .await?;
    Ok(told > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        EventKind, NewEvent, Phase,
        testing::{a_warning, new_job, on_each_database},
    };

    #[tokio::test]
    async fn what_was_heard_after_all_is_not_told_again_in_one_attempt() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            for _ in 0..2 {
                fixture.store.record_unless_told(&lease, None, a_warning()).await.unwrap();
            }
            assert_eq!(fixture.kinds(&id).await[2..], [EventKind::Warning]);
            fixture.store.release(&lease).await.unwrap();
            let lease = fixture.claim().await;
            fixture.store.record_unless_told(&lease, None, a_warning()).await.unwrap();
            let kinds = fixture.kinds(&id).await;
            assert_eq!(kinds[3..], [EventKind::Released, EventKind::Started, EventKind::Warning]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_message_may_hold_whatever_a_recipe_may() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let data = json!({"pointer": "/a\0b"});
            let event = NewEvent { message: "unknown key `a\0b`".to_owned(), data: data.clone(), ..a_warning() };
            fixture.store.record(&lease, None, event).await.unwrap();
            let told = fixture.store.events(&id, 2, 1).await.unwrap().remove(0);
            assert_eq!((told.message.as_str(), told.data), ("unknown key `a\u{fffd}b`", data));
        })
        .await;
    }

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
