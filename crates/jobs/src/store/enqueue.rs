//! Accepts a job. Once this returns, the job survives power loss.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{Row, any::AnyRow};

use super::statement::query;
use super::{Store, admit::admit, outbox, row, tasks, write::Write};
use crate::{
    Action, Enqueued, EventKind, Idempotency, Job, JobId, JobsError, Level, NewEvent, NewJob, QueueLimits, Result,
};

/// Another request with the same key inserts nothing, also when both arrive at once.
const INSERT: &str = "\
    insert into jobs (id, status, recipe, recipe_format, method, lenient, output, labels, metadata, priority, run_at, \
    max_attempts, created_at, idempotency_key, request_digest, group_id, group_position, variant, variant_settings, \
    owner, start_by, timeout_ms, requirements, reuse, needs_memory, needs_disk, needs_gpu_memory, needs_labels, \
    tenant, retry_of, request_id, traceparent) \
    values ($1, 'queued', $2, $3, $4, $5, $6, $7, $8, $9, $18, $11, $10, $12, $13, $14, $15, $16, $17, $19, $20, $21, $22, $23, \
    $24, $25, $26, $27, $28, $29, $30, $31) \
    on conflict (idempotency_key) do nothing";

const BY_KEY: &str = "select id, request_digest from jobs where idempotency_key = $1";

impl Store {
    /// As [`Store::enqueue_within`], however many wait.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued> {
        self.enqueue_within(job, QueueLimits::NONE).await
    }

    /// Writes the job, its task and the event `queued`, or finds the job that the same key and request made before.
    pub async fn enqueue_within(&self, job: NewJob, limits: QueueLimits) -> Result<Enqueued> {
        let mut write = self.write("store.enqueue").await?;
        let Some(created) = create(&mut write, &job).await? else {
            let replayed = replay(&mut write, job.idempotency).await?;
            write.abandon().await?;
            return Ok(Enqueued::Replayed(replayed));
        };
        admit(&mut write, &job.admission.owner, limits).await?;
        let action = if created.retry_of.is_some() { Action::JobRetried } else { Action::JobCreated };
        write.audit(action, created.id.as_str()).await?;
        write.commit().await?;
        Ok(Enqueued::Created(created))
    }

    /// The job that this key has made already; `None` for a new key. Saves a caller the checks that no longer hold once
    /// the job has run, as that its output does not exist.
    pub async fn replayed(&self, idempotency: &Idempotency) -> Result<Option<Job>> {
        let mut reader = self.reading().await?;
        let Some(first) = query(BY_KEY).bind(idempotency.key.as_str()).fetch_optional(&mut *reader).await? else {
            return Ok(None);
        };
        self.job(&of_same_request(&first, &idempotency.request_digest)?).await
    }
}

/// `None` when the key of the job is taken.
pub(super) async fn create(write: &mut Write<'_>, job: &NewJob) -> Result<Option<Job>> {
    if !insert(write, job).await? {
        return Ok(None);
    }
    if let Some(webhook) = &job.webhook {
        outbox::keep_webhook(write, &job.id, webhook).await?;
    }
    tasks::insert(write, &job.id).await?;
    write.append(&job.id, queued()).await?;
    Ok(Some(write.written_job(&job.id).await?))
}

async fn insert(write: &mut Write<'_>, job: &NewJob) -> Result<bool> {
    let now = write.now;
    let (key, digest) = job.idempotency.as_ref().map(|it| (it.key.as_str(), it.request_digest.as_str())).unzip();
    let member = job.member.as_ref();
    let admission = &job.admission;
    let run_at = admission.run_at.unwrap_or(now).max(now);
    let inserted = query(INSERT)
        .bind(job.id.as_str())
        .bind(job.recipe.as_str())
        .bind(job.recipe_format.as_str())
        .bind(job.method.as_str())
        .bind(i64::from(job.lenient))
        .bind(job.output.to_string())
        .bind(Value::Object(job.labels.clone()).to_string())
        .bind(Value::Object(job.metadata.clone()).to_string())
        .bind(job.priority)
        .bind(now)
        .bind(job.max_attempts)
        .bind(key)
        .bind(digest)
        .bind(member.map(|it| it.group.as_str()))
        .bind(member.map(|it| it.position))
        .bind(member.map(|it| it.variant.as_str()))
        .bind(member.map(|it| Value::Object(it.settings.clone()).to_string()))
        .bind(run_at)
        .bind(admission.owner.as_str())
        .bind(admission.queue_ttl_ms.map(|ttl| run_at.saturating_add(ttl)))
        .bind(admission.timeout_ms)
        .bind(serde_json::to_string(&admission.requirements).expect("numbers and words are JSON"))
        .bind(i64::from(admission.reuse))
        .bind(bytes(admission.requirements.memory_bytes))
        .bind(bytes(admission.requirements.disk_bytes))
        .bind(bytes(admission.requirements.gpu_memory_bytes))
        .bind(labels(&admission.requirements.labels))
        .bind(admission.tenant.as_str())
        .bind(job.retry_of.as_ref().map(JobId::as_str))
        .bind(job.origin.request_id.as_deref())
        .bind(job.origin.traceparent.as_deref())
        .execute(write.connection())
        .await?;
    Ok(inserted.rows_affected() == 1)
}

/// As a column holds it; more is as good as without end.
pub(super) fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// In their order, so that equal sets are equal texts.
pub(super) fn labels(of: &BTreeSet<String>) -> String {
    serde_json::to_string(of).expect("words are JSON")
}

/// The job that the same key and request made before.
pub(super) async fn replay(write: &mut Write<'_>, idempotency: Option<Idempotency>) -> Result<Job> {
    let Idempotency { key, request_digest } = idempotency.expect("only a key can conflict");
    let first = query(BY_KEY).bind(key).fetch_one(write.connection()).await?;
    write.written_job(&of_same_request(&first, &request_digest)?).await
}

/// The job of a key, if the request that made it is the same.
fn of_same_request(first: &AnyRow, request_digest: &str) -> Result<JobId> {
    if first.try_get::<String, _>("request_digest")? != request_digest {
        return Err(JobsError::IdempotencyMismatch);
    }
    row::parsed(first, "id")
}

fn queued() -> NewEvent {
    NewEvent { kind: EventKind::Queued, level: Level::Info, message: "job queued".to_owned(), data: json!({}) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        Admission, Enqueued, EventKind, GroupId, Idempotency, JobId, JobWebhook, JobsError, Member, NewJob, Origin,
        RecipeFormat, Requirements, Status, WebhookEvent,
        testing::{new_job, on_each_database},
    };

    fn keyed(key: &str, request_digest: &str) -> NewJob {
        NewJob {
            idempotency: Some(Idempotency { key: key.to_owned(), request_digest: request_digest.to_owned() }),
            ..new_job()
        }
    }

    #[tokio::test]
    async fn a_key_finds_its_job_before_anything_is_written() {
        on_each_database(async |fixture| {
            let idempotency = |digest: &str| Idempotency { key: "k".to_owned(), request_digest: digest.to_owned() };
            assert!(fixture.store.replayed(&idempotency("a")).await.unwrap().is_none());
            let id = fixture.enqueue(keyed("k", "a")).await.id;
            assert_eq!(fixture.store.replayed(&idempotency("a")).await.unwrap().unwrap().id, id);
            let other = fixture.store.replayed(&idempotency("b")).await;
            assert!(matches!(other, Err(JobsError::IdempotencyMismatch)));
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_reads_back_as_it_was_written() {
        on_each_database(async |fixture| {
            let asked = NewJob {
                recipe: "merge_method: ties # ü".to_owned(),
                recipe_format: RecipeFormat::Json,
                method: "ties".to_owned(),
                lenient: true,
                output: json!({"uri": "file:///out"}),
                labels: json!({"team": "a"}).as_object().unwrap().clone(),
                metadata: json!({"b": 1, "a": [null]}).as_object().unwrap().clone(),
                priority: -3,
                max_attempts: 7,
                retry_of: Some(JobId::generate()),
                admission: Admission {
                    tenant: "research".to_owned(),
                    queue_ttl_ms: Some(1000),
                    timeout_ms: Some(2000),
                    reuse: true,
                    requirements: Requirements {
                        memory_bytes: 3,
                        labels: ["gpu".to_owned()].into(),
                        ..Requirements::default()
                    },
                    ..Admission::default()
                },
                member: Some(Member {
                    group: GroupId::generate(),
                    position: 2,
                    variant: "mild".to_owned(),
                    settings: json!({"t": 0.3}).as_object().unwrap().clone(),
                }),
                webhook: Some(JobWebhook {
                    url: "https://example.org/hook".to_owned(),
                    events: [WebhookEvent::Failed].into(),
                }),
                origin: Origin { request_id: Some("r".to_owned()), traceparent: Some("00-a-b-01".to_owned()) },
                ..new_job()
            };
            fixture.enqueue(asked.clone()).await;
            let job = fixture.store.job(&asked.id).await.unwrap().expect("stored");
            let kept = NewJob {
                id: job.id,
                recipe: job.recipe,
                recipe_format: job.recipe_format,
                method: job.method,
                lenient: job.lenient,
                output: job.output,
                labels: job.labels,
                metadata: job.metadata,
                priority: job.priority,
                max_attempts: job.max_attempts,
                admission: Admission {
                    tenant: job.tenant,
                    owner: String::new(),
                    run_at: None,
                    queue_ttl_ms: job.start_by.map(|start_by| start_by - job.run_at),
                    timeout_ms: job.timeout_ms,
                    reuse: job.reuse,
                    requirements: job.requirements,
                },
                retry_of: job.retry_of,
                member: job.member,
                webhook: job.webhook,
                origin: job.origin,
                idempotency: None,
            };
            assert_eq!(kept, asked);
            assert_eq!((job.status, job.attempt, job.started_at), (Status::Queued, 0, None));
        })
        .await;
    }

    #[tokio::test]
    async fn the_event_queued_is_the_first() {
        on_each_database(async |fixture| {
            let job = fixture.enqueue(new_job()).await;
            assert_eq!(job.last_seq, 1);
            assert_eq!(fixture.kinds(&job.id).await, [EventKind::Queued]);
        })
        .await;
    }

    #[tokio::test]
    async fn same_idempotency_key_replays() {
        on_each_database(async |fixture| {
            let first = fixture.enqueue(keyed("k", "d")).await;
            let again = fixture.store.enqueue(keyed("k", "d")).await.unwrap();
            assert_eq!(again, Enqueued::Replayed(first));
            let other = fixture.store.enqueue(keyed("other", "d")).await.unwrap();
            assert!(matches!(other, Enqueued::Created(_)));
        })
        .await;
    }

    #[tokio::test]
    async fn same_idempotency_key_with_another_request_is_refused() {
        on_each_database(async |fixture| {
            fixture.enqueue(keyed("k", "d")).await;
            let error = fixture.store.enqueue(keyed("k", "e")).await.unwrap_err();
            assert!(matches!(error, JobsError::IdempotencyMismatch));
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_with_one_key_at_once_make_one_job() {
        on_each_database(async |fixture| {
            let calls: Vec<_> = (0..8)
                .map(|_| {
                    let store = fixture.store.clone();
                    tokio::spawn(async move { store.enqueue(keyed("k", "d")).await.unwrap() })
                })
                .collect();
            let mut created = 0;
            for call in calls {
                created += usize::from(matches!(call.await.unwrap(), Enqueued::Created(_)));
            }
            assert_eq!(created, 1);
            assert_eq!(fixture.count("select count(*) from jobs").await, 1);
            assert_eq!(fixture.count("select count(*) from tasks where kind = 'merge'").await, 1);
        })
        .await;
    }
}
