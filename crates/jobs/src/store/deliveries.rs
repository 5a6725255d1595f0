//! Gives out the deliveries that are due, notes what became of them, and lists them.
//!
//! A delivery is lent to one sender at a time. One whose sender died is lent again when that loan is over, so that it may come
//! twice, by the same id, and never not at all.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::statement::{query, query_scalar};
use super::{Store, millis, row, webhooks};
use crate::{
    Action, DeliveriesOf, Delivery, DeliveryFilter, DeliveryId, Endpoint, Redelivered, Result, Sending, Settlement,
    Then, WebhookEvent,
};

/// Looked for before anything is locked: most times there is nothing to send.
const ANY_DUE: &str = "\
    select count(*) from (select 1 from deliveries where status = 'pending' and next_at <= $1 \
    and (lease_expires_at is null or lease_expires_at <= $1) limit 1) any_due";

/// Those that are lent come first in the rank, so that no tenant has more of them than its share, over all servers: one whose
/// receivers are slow keeps nobody waiting but itself.
const DUE: &str = "\
    select id from deliveries where status = 'pending' and next_at <= $1 \
    and (lease_expires_at is null or lease_expires_at <= $1) and id in ( \
        select id from ( \
            select id, row_number() over (partition by tenant order by \
            case when lease_expires_at > $1 then 0 else 1 end, next_at, id) as place \
            from deliveries where status = 'pending' and next_at <= $1 \
        ) ranked where place <= $2 \
    ) order by next_at, id limit $3";

const LEND: &str = "\
    update deliveries set lease_token = lease_token + 1, lease_expires_at = $2, attempts = attempts + 1 where id = $1";

const SENDING: &str = "\
    select deliveries.id, deliveries.tenant, coalesce(deliveries.url, webhooks.url) as url, webhook_id, \
    webhooks.generation, webhooks.rotated_at, payload, attempts, lease_token \
    from deliveries left join webhooks on webhooks.id = deliveries.webhook_id and webhooks.disabled_at is null \
    where deliveries.id = $1";

const NOBODYS: &str = "\
    update deliveries set status = 'failed', last_error = 'the webhook is gone', lease_expires_at = null where id = $1";

const SETTLE: &str = "\
    update deliveries set status = $3, next_at = $4, last_status = $5, last_error = $6, delivered_at = $7, \
    lease_expires_at = null \
    where id = $1 and lease_token = $2 and status = 'pending'";

const COLUMNS: &str = "\
    select id, tenant, webhook_id, job_id, type, status, created_at, next_at, attempts, last_status, last_error, \
    delivered_at from deliveries";

/// One that is being sent is let be: it is what is asked for.
const SEND_AGAIN: &str = "\
    update deliveries set status = 'pending', next_at = $2, attempts = 0, delivered_at = null \
    where id = $1 and (lease_expires_at is null or lease_expires_at <= $2)";

const TAKES: &str = "select count(*) from webhooks where id = $1 and disabled_at is null";

impl Store {
    /// At most `limit` deliveries that are due, at most `per_tenant` of one tenant's at once, each for the caller alone for so
    /// long.
    pub async fn claim_deliveries(&self, lease: Duration, per_tenant: u32, limit: usize) -> Result<Vec<Sending>> {
        let now = self.now().await?;
        let due: i64 = query_scalar(ANY_DUE).bind(now).fetch_one(&mut *self.reading().await?).await?;
        if due == 0 || limit == 0 {
            return Ok(Vec::new());
        }
        let mut write = self.write("store.claim_deliveries").await?;
        let (now, ends) = (write.now, write.now.saturating_add(millis(lease)));
        let sql = AssertSqlSafe(format!("{DUE} {}", write.dialect().for_update_skip_locked()));
        let due = query(sql)
            .bind(now)
            .bind(i64::from(per_tenant))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(write.connection())
            .await?;
        if due.is_empty() {
            write.abandon().await?;
            return Ok(Vec::new());
        }
        let mut sendings = Vec::with_capacity(due.len());
        for found in &due {
            let id: String = found.try_get("id")?;
            query(LEND).bind(id.as_str()).bind(ends).execute(write.connection()).await?;
            let found = sending(&query(SENDING).bind(id.as_str()).fetch_one(write.connection()).await?)?;
            if found.is_none() {
                // it was deleted, or said that it takes nothing more, just as this was written
                query(NOBODYS).bind(id.as_str()).execute(write.connection()).await?;
            }
            sendings.extend(found);
        }
        write.commit_quietly().await?;
        Ok(sendings)
    }

    /// Notes what an attempt came to. One that was lent to another sender meanwhile is that one's to note.
    pub async fn settle_delivery(&self, sending: &Sending, settlement: &Settlement) -> Result<()> {
        let mut write = self.write("store.settle_delivery").await?;
        let now = write.now;
        let gone = sending.endpoint.as_ref().filter(|_| settlement.then == Then::Disabled);
        // before the deliveries, as whoever deletes it does, so that neither waits for the other
        if let Some(endpoint) = gone {
            webhooks::disable(&mut write, &endpoint.id).await?;
        }
        let (status, next_at, delivered_at) = match settlement.then {
            Then::Delivered => ("delivered", now, Some(now)),
            Then::Again(after) => ("pending", now.saturating_add(millis(after)), None),
            Then::Failed | Then::Disabled => ("failed", now, None),
        };
        query(SETTLE)
            .bind(sending.id.as_str())
            .bind(sending.token)
            .bind(status)
            .bind(next_at)
            .bind(settlement.status.map(i64::from))
            .bind(settlement.error.as_deref())
            .bind(delivered_at)
            .execute(write.connection())
            .await?;
        if let Some(endpoint) = gone {
            webhooks::give_up(&mut write, &endpoint.id, "the webhook takes nothing more").await?;
        }
        write.commit_quietly().await
    }

    /// Newest first.
    pub async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>> {
        let (sql, of) = match &filter.of {
            DeliveriesOf::Job(id) => {
                ("where job_id = $1 and ($2 = '' or id < $2) order by id desc limit $3", id.as_str())
            }
            DeliveriesOf::Webhook(id) => {
                ("where webhook_id = $1 and ($2 = '' or id < $2) order by id desc limit $3", id.as_str())
            }
        };
        let rows = query(select(sql))
            .bind(of)
            .bind(filter.after.as_ref().map_or("", DeliveryId::as_str))
            .bind(i64::from(filter.limit))
            .fetch_all(&mut *self.reading().await?)
            .await?;
        rows.iter().map(delivery).collect()
    }

    /// Has it sent once more, as if for the first time, whatever became of it.
    pub async fn redeliver(&self, tenant: &str, id: &DeliveryId) -> Result<Redelivered> {
        let mut write = self.write("store.redeliver").await?;
        let now = write.now;
        let sql = select("where id = $1 and tenant = $2");
        let found = query(sql).bind(id.as_str()).bind(tenant).fetch_optional(write.connection()).await?;
        let Some(found) = found.as_ref().map(delivery).transpose()? else {
            write.abandon().await?;
            return Ok(Redelivered::Unknown);
        };
        if let Some(webhook) = &found.webhook {
            let takes: i64 = query_scalar(TAKES).bind(webhook.as_str()).fetch_one(write.connection()).await?;
            if takes == 0 {
                write.abandon().await?;
                return Ok(Redelivered::NoWebhook);
            }
        }
        query(SEND_AGAIN).bind(id.as_str()).bind(now).execute(write.connection()).await?;
        let asked = query(select("where id = $1")).bind(id.as_str()).fetch_optional(write.connection()).await?;
        let Some(asked) = asked.as_ref().map(delivery).transpose()? else {
            write.abandon().await?;
            return Ok(Redelivered::Unknown);
        };
        write.audit(Action::DeliveryRedelivered, id.as_str()).await?;
        // whoever sends waits for a change
        write.commit().await?;
        Ok(Redelivered::Asked(asked))
    }
}

fn select(restriction: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{COLUMNS} {restriction}"))
}

/// `None` where its webhook is gone.
fn sending(found: &AnyRow) -> Result<Option<Sending>> {
    let Some(url) = found.try_get::<Option<String>, _>("url")? else { return Ok(None) };
    let endpoint = match found.try_get::<Option<String>, _>("webhook_id")? {
        None => None,
        Some(id) => Some(Endpoint {
            id: id.parse().map_err(|error| row::corrupt("webhook_id", error))?,
            generation: found.try_get("generation")?,
            rotated_at: found.try_get("rotated_at")?,
        }),
    };
    Ok(Some(Sending {
        id: row::parsed(found, "id")?,
        tenant: found.try_get("tenant")?,
        url,
        endpoint,
        payload: found.try_get("payload")?,
        attempt: found.try_get("attempts")?,
        token: found.try_get("lease_token")?,
    }))
}

fn delivery(found: &AnyRow) -> Result<Delivery> {
    let event: String = found.try_get("type")?;
    Ok(Delivery {
        id: row::parsed(found, "id")?,
        tenant: found.try_get("tenant")?,
        webhook: found
            .try_get::<Option<String>, _>("webhook_id")?
            .map(|id| id.parse())
            .transpose()
            .map_err(|error| row::corrupt("webhook_id", error))?,
        job: row::parsed(found, "job_id")?,
        event: WebhookEvent::parse(&event).ok_or_else(|| row::corrupt("type", format!("{event:?} is no event")))?,
        status: row::word_in(found, "status")?,
        created_at: found.try_get("created_at")?,
        next_at: found.try_get("next_at")?,
        attempts: found.try_get("attempts")?,
        last_status: found.try_get("last_status")?,
        last_error: found.try_get("last_error")?,
        delivered_at: found.try_get("delivered_at")?,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use crate::testing::{Fixture, new_job, on_each_database};
    use crate::{
        Admission, DeliveriesOf, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, JobId, JobWebhook, NewJob,
        NewWebhook, Redelivered, Sending, Settlement, Store, Then, WebhookEvent,
    };

    const LEASE: Duration = Duration::from_secs(60);

    /// A job that has ended, with one delivery for its own webhook.
    async fn ended(fixture: &Fixture, tenant: &str) -> JobId {
        let webhook = JobWebhook { url: "https://example.org/own".to_owned(), events: WebhookEvent::ALL.into() };
        let admission = Admission { tenant: tenant.to_owned(), ..Admission::default() };
        let id = fixture.enqueue(NewJob { webhook: Some(webhook), admission, ..new_job() }).await.id;
        fixture.store.request_cancel(&id).await.unwrap();
        id
    }

    async fn claim(store: &Store) -> Vec<Sending> {
        store.claim_deliveries(LEASE, 100, 100).await.unwrap()
    }

    fn settled(then: Then) -> Settlement {
        Settlement { status: Some(500), error: Some("answered 500".to_owned()), then }
    }

    async fn of_job(fixture: &Fixture, id: &JobId) -> Delivery {
        let filter = DeliveryFilter { of: DeliveriesOf::Job(id.clone()), after: None, limit: 10 };
        fixture.store.deliveries(&filter).await.unwrap().remove(0)
    }

    #[tokio::test]
    async fn a_delivery_is_lent_to_one_sender_and_to_another_when_that_one_is_lost() {
        on_each_database(async |fixture| {
            ended(fixture, "a").await;
            let lent = claim(&fixture.store).await;
            assert_eq!((lent.len(), lent[0].attempt), (1, 1));
            assert!(claim(&fixture.store).await.is_empty());
            fixture.advance(LEASE).await;
            let again = claim(&fixture.store).await;
            assert_eq!((&again[0].id, again[0].attempt), (&lent[0].id, 2));
            // the first comes back late, and what it says counts no more
            fixture.store.settle_delivery(&lent[0], &settled(Then::Failed)).await.unwrap();
            fixture.store.settle_delivery(&again[0], &settled(Then::Delivered)).await.unwrap();
            assert_eq!(fixture.count("select count(*) from deliveries where status = 'delivered'").await, 1);
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_two_senders_have_the_same_delivery() {
        on_each_database(async |fixture| {
            for _ in 0..20 {
                ended(fixture, "a").await;
            }
            let calls: Vec<_> = (0..8)
                .map(|_| {
                    let store = fixture.store.clone();
                    tokio::spawn(async move { store.claim_deliveries(LEASE, 100, 3).await.unwrap() })
                })
                .collect();
            let mut lent = Vec::new();
            for call in calls {
                lent.extend(call.await.unwrap().into_iter().map(|it| it.id));
            }
            lent.extend(claim(&fixture.store).await.into_iter().map(|it| it.id));
            assert_eq!((lent.len(), lent.iter().collect::<BTreeSet<_>>().len()), (20, 20));
        })
        .await;
    }

    #[tokio::test]
    async fn a_tenant_with_slow_receivers_leaves_room_for_others() {
        on_each_database(async |fixture| {
            for _ in 0..5 {
                ended(fixture, "slow").await;
            }
            ended(fixture, "other").await;
            let tenants = async || {
                let lent = fixture.store.claim_deliveries(LEASE, 2, 10).await.unwrap();
                lent.into_iter().map(|it| it.tenant).collect::<Vec<_>>()
            };
            assert_eq!(tenants().await, ["slow", "slow", "other"]);
            assert!(tenants().await.is_empty(), "its share is lent");
            fixture.advance(LEASE).await;
            assert_eq!(tenants().await.len(), 3);
        })
        .await;
    }

    #[tokio::test]
    async fn what_failed_is_due_again_at_its_time() {
        on_each_database(async |fixture| {
            let id = ended(fixture, "a").await;
            let lent = claim(&fixture.store).await;
            let again = settled(Then::Again(Duration::from_secs(300)));
            fixture.store.settle_delivery(&lent[0], &again).await.unwrap();
            let told = of_job(fixture, &id).await;
            assert_eq!((told.status, told.attempts, told.last_status), (DeliveryStatus::Pending, 1, Some(500)));
            assert_eq!(told.last_error.as_deref(), Some("answered 500"));
            assert!(claim(&fixture.store).await.is_empty());
            fixture.advance(Duration::from_secs(301)).await;
            let lent = claim(&fixture.store).await;
            assert_eq!(lent[0].attempt, 2);
            fixture
                .store
                .settle_delivery(&lent[0], &Settlement { status: Some(204), error: None, then: Then::Delivered })
                .await
                .unwrap();
            let told = of_job(fixture, &id).await;
            assert_eq!((told.status, told.last_status, told.last_error), (DeliveryStatus::Delivered, Some(204), None));
            assert!(told.delivered_at.is_some() && claim(&fixture.store).await.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_delivery_is_sent_once_more_when_its_tenant_asks() {
        on_each_database(async |fixture| {
            let id = ended(fixture, "a").await;
            let lent = claim(&fixture.store).await;
            fixture.store.settle_delivery(&lent[0], &settled(Then::Failed)).await.unwrap();
            assert!(claim(&fixture.store).await.is_empty());
            let redeliver = async |tenant: &str, id: &DeliveryId| fixture.store.redeliver(tenant, id).await.unwrap();
            assert_eq!(redeliver("b", &lent[0].id).await, Redelivered::Unknown);
            assert_eq!(redeliver("a", &DeliveryId::generate()).await, Redelivered::Unknown);
            let Redelivered::Asked(asked) = redeliver("a", &lent[0].id).await else { panic!("not asked") };
            assert_eq!((asked.status, asked.attempts, asked.job), (DeliveryStatus::Pending, 0, id));
            let again = claim(&fixture.store).await;
            assert_eq!((&again[0].id, &again[0].payload), (&lent[0].id, &lent[0].payload));
            // while it is on its way nothing more is to do
            assert!(matches!(redeliver("a", &lent[0].id).await, Redelivered::Asked(_)));
            assert!(claim(&fixture.store).await.is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_deleted_webhook_was_to_be_told_is_given_up() {
        on_each_database(async |fixture| {
            let new = NewWebhook {
                tenant: String::new(),
                url: "https://example.org/all".to_owned(),
                events: WebhookEvent::ALL.into(),
            };
            let webhook = fixture.store.create_webhook(new).await.unwrap().unwrap();
            let id = fixture.enqueue(new_job()).await.id;
            fixture.store.request_cancel(&id).await.unwrap();
            let of_webhook = DeliveryFilter { of: DeliveriesOf::Webhook(webhook.id.clone()), after: None, limit: 10 };
            let told = fixture.store.deliveries(&of_webhook).await.unwrap();
            assert_eq!(told, [of_job(fixture, &id).await]);
            assert!(fixture.store.delete_webhook("", &webhook.id).await.unwrap());
            assert!(claim(&fixture.store).await.is_empty());
            let told = of_job(fixture, &id).await;
            assert_eq!((told.status, told.webhook.as_ref()), (DeliveryStatus::Failed, Some(&webhook.id)));
            assert_eq!(fixture.store.redeliver("", &told.id).await.unwrap(), Redelivered::NoWebhook);
        })
        .await;
    }

    #[tokio::test]
    async fn deliveries_are_read_newest_first_a_page_at_a_time() {
        on_each_database(async |fixture| {
            let webhook = JobWebhook { url: "https://example.org/own".to_owned(), events: WebhookEvent::ALL.into() };
            let id = fixture.enqueue(NewJob { webhook: Some(webhook), ..new_job() }).await.id;
            let lease = fixture.claim().await;
            fixture.store.finish(&lease, crate::Outcome::Cancelled).await.unwrap();
            let page = async |after: Option<DeliveryId>| {
                let filter = DeliveryFilter { of: DeliveriesOf::Job(id.clone()), after, limit: 1 };
                fixture.store.deliveries(&filter).await.unwrap().pop()
            };
            let last = page(None).await.unwrap();
            let first = page(Some(last.id.clone())).await.unwrap();
            assert_eq!((first.event, last.event), (WebhookEvent::Started, WebhookEvent::Cancelled));
            assert!(page(Some(first.id)).await.is_none());
        })
        .await;
    }
}
