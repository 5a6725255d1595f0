//! What webhooks are to be told, written in the transaction of the event it tells of: what happened is told, and nothing else is.

use serde_json::{Value, json};
use sqlx::Row;

use super::statement::query;
use super::{webhooks, write::Write};
use crate::{DeliveryId, EventKind, Job, JobId, JobWebhook, Result, WebhookEvent, rfc3339};

const KEEP: &str = "update jobs set webhook = $2 where id = $1";

/// Whether anybody listens: most jobs have no webhook, and are not to be read a second time.
const LISTENS: &str = "\
    select webhook, \
    (select count(*) from webhooks where webhooks.tenant = jobs.tenant and disabled_at is null) as endpoints \
    from jobs where id = $1";

const ENDPOINTS: &str = "select id, events from webhooks where tenant = $1 and disabled_at is null order by id";

const WRITE: &str = "\
    insert into deliveries (id, tenant, webhook_id, url, job_id, type, payload, status, created_at, next_at) \
    values ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, $8)";

pub(super) async fn keep_webhook(write: &mut Write<'_>, id: &JobId, webhook: &JobWebhook) -> Result<()> {
    let text = serde_json::to_string(webhook).expect("words are JSON");
    query(KEEP).bind(id.as_str()).bind(text).execute(write.connection()).await?;
    Ok(())
}

/// Writes a delivery for each webhook that wants the event.
pub(super) async fn tell(write: &mut Write<'_>, id: &JobId, kind: EventKind) -> Result<()> {
    let Some(event) = WebhookEvent::of(kind) else { return Ok(()) };
    let listens = query(LISTENS).bind(id.as_str()).fetch_one(write.connection()).await?;
    let endpoints: i64 = listens.try_get("endpoints")?;
    if endpoints == 0 && listens.try_get::<Option<String>, _>("webhook")?.is_none() {
        return Ok(());
    }
    let job = write.written_job(id).await?;
    let payload = payload(&job, event, write.now).to_string();
    if let Some(own) = job.webhook.as_ref().filter(|own| own.events.contains(&event)) {
        deliver(write, &job, event, &payload, To::Address(&own.url)).await?;
    }
    let endpoints = query(ENDPOINTS).bind(job.tenant.as_str()).fetch_all(write.connection()).await?;
    for endpoint in &endpoints {
        if webhooks::events(endpoint)?.contains(&event) {
            deliver(write, &job, event, &payload, To::Endpoint(endpoint.try_get("id")?)).await?;
        }
    }
    Ok(())
}

enum To<'a> {
    Address(&'a str),
    Endpoint(String),
}

async fn deliver(write: &mut Write<'_>, job: &Job, event: WebhookEvent, payload: &str, to: To<'_>) -> Result<()> {
    let now = write.now;
    let (webhook, url) = match to {
        To::Address(url) => (None, Some(url.to_owned())),
        To::Endpoint(id) => (Some(id), None),
    };
    query(WRITE)
        .bind(DeliveryId::generate().as_str())
        .bind(job.tenant.as_str())
        .bind(webhook)
        .bind(url)
        .bind(job.id.as_str())
        .bind(event.as_str())
        .bind(payload)
        .bind(now)
        .execute(write.connection())
        .await?;
    Ok(())
}

/// Enough to know what happened to which job; the rest is asked for with a key. The recipe stays here.
fn payload(job: &Job, event: WebhookEvent, now: i64) -> Value {
    let path = format!("/v1/jobs/{}", job.id);
    json!({
        "type": event.as_str(),
        "timestamp": rfc3339(now),
        "data": {
            "id": job.id,
            "object": "job",
            "status": job.status,
            "method": job.method,
            "attempt": job.attempt,
            "labels": job.labels,
            "metadata": job.metadata,
            "group_id": job.member.as_ref().map(|member| member.group.as_str()),
            "variant": job.member.as_ref().map(|member| member.variant.as_str()),
            "error": job.error,
            "publication": job.publication.as_ref().map(|publication| json!({"uri": publication["uri"]})),
            "created_at": rfc3339(job.created_at),
            "started_at": job.started_at.map(rfc3339),
            "finished_at": job.finished_at.map(rfc3339),
            "links": {
                "self": path,
                "events": format!("{path}/events"),
                "artifacts": format!("{path}/artifacts"),
                "deliveries": format!("{path}/deliveries"),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use crate::testing::{Fixture, a_failure, new_job, on_each_database};
    use crate::{
        Admission, JobId, JobWebhook, NewJob, NewWebhook, Outcome, Retention, Sending, Settlement, Then, WebhookEvent,
    };

    fn of(tenant: &str) -> NewJob {
        NewJob { admission: Admission { tenant: tenant.to_owned(), ..Admission::default() }, ..new_job() }
    }

    fn own(events: &[WebhookEvent]) -> Option<JobWebhook> {
        Some(JobWebhook { url: "https://example.org/own".to_owned(), events: events.iter().copied().collect() })
    }

    async fn endpoint(fixture: &Fixture, tenant: &str, events: &[WebhookEvent]) -> String {
        let new = NewWebhook {
            tenant: tenant.to_owned(),
            url: "https://example.org/all".to_owned(),
            events: events.iter().copied().collect(),
        };
        fixture.store.create_webhook(new).await.unwrap().expect("room for one").id.to_string()
    }

    /// What is to be sent, and to whom.
    async fn sent(fixture: &Fixture) -> Vec<Sending> {
        fixture.store.claim_deliveries(Duration::from_secs(60), 100, 100).await.unwrap()
    }

    fn told(sending: &Sending) -> (String, Value) {
        let payload: Value = serde_json::from_str(&sending.payload).unwrap();
        (payload["type"].as_str().unwrap().to_owned(), payload["data"]["id"].clone())
    }

    #[tokio::test]
    async fn what_becomes_of_a_job_is_told_to_its_webhook_and_to_its_tenants() {
        on_each_database(async |fixture| {
            let mine = endpoint(fixture, "a", &WebhookEvent::ALL).await;
            let picky = endpoint(fixture, "a", &[WebhookEvent::Failed]).await;
            endpoint(fixture, "b", &WebhookEvent::ALL).await;
            let job = NewJob { webhook: own(&[WebhookEvent::Succeeded]), ..of("a") };
            let id = fixture.enqueue(job).await.id;
            assert!(sent(fixture).await.is_empty(), "that it is queued is answered to whoever asked");
            let lease = fixture.claim().await;
            let publication = json!({"uri": "file:///out", "files": ["a secret"]});
            fixture.store.finish(&lease, Outcome::Succeeded { publication, published: None }).await.unwrap();
            let sent = sent(fixture).await;
            let mut to: Vec<_> = sent
                .iter()
                .map(|it| (told(it).0, it.endpoint.as_ref().map(|e| e.id.to_string()), it.url.as_str()))
                .collect();
            to.sort();
            assert_eq!(
                to,
                [
                    ("job.started".to_owned(), Some(mine.clone()), "https://example.org/all"),
                    ("job.succeeded".to_owned(), None, "https://example.org/own"),
                    ("job.succeeded".to_owned(), Some(mine), "https://example.org/all"),
                ]
            );
            assert!(sent.iter().all(|it| it.tenant == "a" && told(it).1 == id.as_str()));
            let end = sent.iter().find(|it| told(it).0 == "job.succeeded").unwrap();
            let payload: Value = serde_json::from_str(&end.payload).unwrap();
            assert_eq!(payload["data"]["status"], "succeeded");
            assert_eq!(payload["data"]["publication"], json!({"uri": "file:///out"}));
            assert!(!end.payload.contains("merge_method"), "{}", end.payload);
            // the other one wants no success, but a failure
            fixture.enqueue(of("a")).await;
            let lease = fixture.claim().await;
            fixture
                .store
                .finish(&lease, Outcome::Failed(crate::JobFailure { retryable: false, ..a_failure(1) }))
                .await
                .unwrap();
            let failed = self::sent(fixture).await;
            let failed = failed.iter().find(|it| it.endpoint.as_ref().is_some_and(|e| e.id.as_str() == picky)).unwrap();
            let payload: Value = serde_json::from_str(&failed.payload).unwrap();
            assert_eq!(
                (&payload["type"], &payload["data"]["error"]["code"]),
                (&json!("job.failed"), &json!("disk_full"))
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_job_that_is_cancelled_before_it_began_is_told_of() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(NewJob { webhook: own(&WebhookEvent::ALL), ..of("a") }).await.id;
            fixture.store.request_cancel(&id).await.unwrap();
            let told: Vec<_> = sent(fixture).await.iter().map(told).collect();
            assert_eq!(told, [("job.cancelled".to_owned(), json!(id))]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_rolled_back_is_not_told() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(NewJob { webhook: own(&WebhookEvent::ALL), ..of("a") }).await.id;
            let mut write = fixture.store.write("store.cancel").await.unwrap();
            let job = write.job(&id).await.unwrap().unwrap();
            assert!(super::super::cancel::cancel(&mut write, &job).await.unwrap());
            drop(write);
            assert_eq!(fixture.count("select count(*) from deliveries").await, 0);
            assert_eq!(fixture.kinds(&id).await.len(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn deliveries_go_with_their_job() {
        on_each_database(async |fixture| {
            let ended = async || -> JobId {
                let id = fixture.enqueue(NewJob { webhook: own(&WebhookEvent::ALL), ..of("a") }).await.id;
                fixture.store.request_cancel(&id).await.unwrap();
                id
            };
            let (first, _, _) = (ended().await, ended().await, ended().await);
            assert_eq!(fixture.count("select count(*) from deliveries").await, 3);
            fixture.store.delete_job(&first).await.unwrap();
            assert_eq!(fixture.count("select count(*) from deliveries").await, 2);
            fixture.sql("update jobs set finished_at = finished_at - 172800000").await;
            let jobs = Some(Duration::from_secs(86400));
            fixture.store.prune(Retention { jobs, ..Retention::default() }).await.unwrap();
            assert_eq!(fixture.count("select count(*) from deliveries").await, 0);
        })
        .await;
    }

    #[tokio::test]
    async fn an_endpoint_that_takes_nothing_more_is_told_nothing_more() {
        on_each_database(async |fixture| {
            endpoint(fixture, "", &WebhookEvent::ALL).await;
            let cancelled = async || {
                let id = fixture.enqueue(new_job()).await.id;
                fixture.store.request_cancel(&id).await.unwrap();
            };
            cancelled().await;
            cancelled().await;
            let sent = self::sent(fixture).await;
            assert_eq!(sent.len(), 2);
            let gone = Settlement { status: Some(410), error: Some("answered 410".to_owned()), then: Then::Disabled };
            fixture.store.settle_delivery(&sent[0], &gone).await.unwrap();
            cancelled().await;
            assert_eq!(fixture.count("select count(*) from deliveries").await, 2);
            assert_eq!(fixture.count("select count(*) from deliveries where status = 'failed'").await, 2);
            assert_eq!(fixture.count("select count(*) from deliveries where last_status = 410").await, 1);
            assert!(fixture.store.webhooks("").await.unwrap()[0].disabled_at.is_some());
        })
        .await;
    }
}
