//! Reads the event log of a job from any place.

use super::statement::query;
use super::{Store, row};
use crate::{Event, JobId, Result};

const AFTER: &str = "\
    select job_id, seq, type, level, message, data, created_at from events \
    where job_id = $1 and seq > $2 order by seq limit $3";

impl Store {
    /// The events behind `after`, oldest first. 0 is before the first.
    pub async fn events(&self, id: &JobId, after: i64, limit: u32) -> Result<Vec<Event>> {
        let rows = query(AFTER)
            .bind(id.as_str())
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&mut *self.reading().await?)
            .await?;
        rows.iter().map(row::event).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        EventKind, JobId, Level, NewEvent, Outcome,
        testing::{a_warning, new_job, on_each_database},
    };

    #[tokio::test]
    async fn an_event_reads_back_as_it_was_written() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let (kind, level) = (EventKind::Planned, Level::Info);
            let told = NewEvent { kind, level, message: "plan ü".to_owned(), data: json!({"tensors": 3}) };
            fixture.store.record(&lease, None, told.clone()).await.unwrap();
            let event = fixture.store.events(&id, 2, 10).await.unwrap().remove(0);
            assert_eq!((event.job_id, event.seq), (id, 3));
            let kept = NewEvent { kind: event.kind, level: event.level, message: event.message, data: event.data };
            assert_eq!(kept, told);
        })
        .await;
    }

    #[tokio::test]
    async fn events_go_on_after_any_seq() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            for _ in 0..4 {
                fixture.store.record(&lease, None, a_warning()).await.unwrap();
            }
            let seqs = async |after, limit| {
                let events = fixture.store.events(&id, after, limit).await.unwrap();
                events.iter().map(|event| event.seq).collect::<Vec<_>>()
            };
            assert_eq!(seqs(0, 2).await, [1, 2]);
            assert_eq!(seqs(2, 100).await, [3, 4, 5, 6]);
            assert!(seqs(6, 100).await.is_empty());
            assert!(fixture.store.events(&JobId::generate(), 0, 9).await.unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn events_have_no_gaps() {
        const WRITERS: i64 = 6;
        on_each_database(async |fixture| {
            let id = fixture.enqueue(new_job()).await.id;
            let lease = fixture.claim().await;
            let writers: Vec<_> = (0..WRITERS)
                .map(|_| {
                    let (store, lease) = (fixture.store.clone(), lease.clone());
                    tokio::spawn(async move {
                        for _ in 0..5 {
                            store.record(&lease, None, a_warning()).await.unwrap();
                            store.heartbeat(&lease, None).await.unwrap();
                            store.request_cancel(&lease.job.id).await.unwrap();
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.unwrap();
            }
            let job = fixture.store.finish(&lease, Outcome::Cancelled).await.unwrap();
            let events = fixture.store.events(&id, 0, 1000).await.unwrap();
            let seqs: Vec<i64> = events.iter().map(|event| event.seq).collect();
            // queued, started, every record, one cancel_requested, cancelled
            let all: Vec<i64> = (1..=2 + WRITERS * 5 + 2).collect();
            assert_eq!(seqs, all);
            assert_eq!(job.last_seq, all.len() as i64);
            assert!(events.last().expect("not empty").kind.is_terminal());
        })
        .await;
    }
}
