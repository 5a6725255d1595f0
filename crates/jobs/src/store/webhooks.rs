//! Makes, finds, changes and forgets the endpoints of a tenant.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::statement::{query, query_scalar};
use super::{Store, row, write::Write};
use crate::{Action, NewWebhook, Result, WEBHOOKS_MAX, Webhook, WebhookEvent, WebhookId};

const CREATE: &str = "insert into webhooks (id, tenant, url, events, created_at) values ($1, $2, $3, $4, $5)";

const COUNT: &str = "select count(*) from webhooks where tenant = $1";

const COLUMNS: &str = "select id, tenant, url, events, created_at, generation, rotated_at, disabled_at from webhooks";

const DELETE: &str = "delete from webhooks where id = $1 and tenant = $2";

const ROTATE: &str = "\
    update webhooks set generation = generation + 1, rotated_at = $3 where id = $1 and tenant = $2";

const DISABLE: &str = "update webhooks set disabled_at = $2 where id = $1 and disabled_at is null";

/// The log of what was sent stays with the jobs.
const GIVE_UP: &str = "\
    update deliveries set status = 'failed', last_error = $2, lease_expires_at = null \
    where webhook_id = $1 and status = 'pending'";

impl Store {
    /// `None` where the tenant has as many as it may.
    pub async fn create_webhook(&self, new: NewWebhook) -> Result<Option<Webhook>> {
        let mut write = self.write("store.create_webhook").await?;
        let there: i64 = query_scalar(COUNT).bind(new.tenant.as_str()).fetch_one(write.connection()).await?;
        if usize::try_from(there).is_ok_and(|there| there >= WEBHOOKS_MAX) {
            write.abandon().await?;
            return Ok(None);
        }
        let (id, created_at) = (WebhookId::generate(), write.now);
        query(CREATE)
            .bind(id.as_str())
            .bind(new.tenant.as_str())
            .bind(new.url.as_str())
            .bind(words(&new.events))
            .bind(created_at)
            .execute(write.connection())
            .await?;
        write.audit(Action::WebhookCreated, id.as_str()).await?;
        write.commit_quietly().await?;
        let NewWebhook { tenant, url, events } = new;
        Ok(Some(Webhook { id, tenant, url, events, created_at, generation: 1, rotated_at: None, disabled_at: None }))
    }

    /// All of a tenant, oldest first.
    pub async fn webhooks(&self, tenant: &str) -> Result<Vec<Webhook>> {
        let sql = select("where tenant = $1 order by id");
        let rows = query(sql).bind(tenant).fetch_all(&mut *self.reading().await?).await?;
        rows.iter().map(of_row).collect()
    }

    pub async fn webhook(&self, tenant: &str, id: &WebhookId) -> Result<Option<Webhook>> {
        let sql = select("where id = $1 and tenant = $2");
        let found = query(sql).bind(id.as_str()).bind(tenant).fetch_optional(&mut *self.reading().await?).await?;
        found.as_ref().map(of_row).transpose()
    }

    /// Whether there was one. What it was still to be told is given up.
    pub async fn delete_webhook(&self, tenant: &str, id: &WebhookId) -> Result<bool> {
        let mut write = self.write("store.delete_webhook").await?;
        let deleted = query(DELETE).bind(id.as_str()).bind(tenant).execute(write.connection()).await?;
        if deleted.rows_affected() == 0 {
            write.abandon().await?;
            return Ok(false);
        }
        give_up(&mut write, id, "the webhook was deleted").await?;
        write.audit(Action::WebhookDeleted, id.as_str()).await?;
        write.commit_quietly().await?;
        Ok(true)
    }

    /// The endpoint with its next secret.
    pub async fn rotate_webhook(&self, tenant: &str, id: &WebhookId) -> Result<Option<Webhook>> {
        let mut write = self.write("store.rotate_webhook").await?;
        let now = write.now;
        let rotated = query(ROTATE).bind(id.as_str()).bind(tenant).bind(now).execute(write.connection()).await?;
        if rotated.rows_affected() == 0 {
            write.abandon().await?;
            return Ok(None);
        }
        let found = query(select("where id = $1")).bind(id.as_str()).fetch_one(write.connection()).await?;
        let webhook = of_row(&found)?;
        write.audit(Action::WebhookRotated, id.as_str()).await?;
        write.commit_quietly().await?;
        Ok(Some(webhook))
    }
}

/// An endpoint that has said that it takes nothing more.
pub(super) async fn disable(write: &mut Write<'_>, id: &WebhookId) -> Result<()> {
    let now = write.now;
    query(DISABLE).bind(id.as_str()).bind(now).execute(write.connection()).await?;
    Ok(())
}

/// What it was still to be told.
pub(super) async fn give_up(write: &mut Write<'_>, id: &WebhookId, why: &str) -> Result<()> {
    query(GIVE_UP).bind(id.as_str()).bind(why).execute(write.connection()).await?;
    Ok(())
}

/// The events that an endpoint wants.
pub(super) fn events(found: &AnyRow) -> Result<BTreeSet<WebhookEvent>> {
    let text: String = found.try_get("events")?;
    let unknown = |word: &str| row::corrupt("events", format!("{word:?} is no event"));
    text.split_whitespace().map(|word| WebhookEvent::parse(word).ok_or_else(|| unknown(word))).collect()
}

fn words(events: &BTreeSet<WebhookEvent>) -> String {
    events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(" ")
}

fn select(restriction: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{COLUMNS} {restriction}"))
}

fn of_row(found: &AnyRow) -> Result<Webhook> {
    Ok(Webhook {
        id: row::parsed(found, "id")?,
        tenant: found.try_get("tenant")?,
        url: found.try_get("url")?,
        events: events(found)?,
        created_at: found.try_get("created_at")?,
        generation: found.try_get("generation")?,
        rotated_at: found.try_get("rotated_at")?,
        disabled_at: found.try_get("disabled_at")?,
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::on_each_database;
    use crate::{NewWebhook, WEBHOOKS_MAX, WebhookEvent, WebhookId};

    fn new(tenant: &str) -> NewWebhook {
        NewWebhook {
            tenant: tenant.to_owned(),
            url: "https://example.org/hook?token=1".to_owned(),
            events: [WebhookEvent::Failed, WebhookEvent::Succeeded].into(),
        }
    }

    #[tokio::test]
    async fn an_endpoint_is_its_tenants_alone() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            let made = store.create_webhook(new("a")).await.unwrap().unwrap();
            assert_eq!(store.webhooks("a").await.unwrap(), std::slice::from_ref(&made));
            assert_eq!(store.webhook("a", &made.id).await.unwrap(), Some(made.clone()));
            assert!(store.webhooks("b").await.unwrap().is_empty());
            assert!(store.webhook("b", &made.id).await.unwrap().is_none());
            assert!(store.rotate_webhook("b", &made.id).await.unwrap().is_none());
            assert!(!store.delete_webhook("b", &made.id).await.unwrap());
            assert!(!store.delete_webhook("a", &WebhookId::generate()).await.unwrap());
            let rotated = store.rotate_webhook("a", &made.id).await.unwrap().unwrap();
            assert_eq!((rotated.generation, rotated.rotated_at.is_some()), (2, true));
            assert!(store.delete_webhook("a", &made.id).await.unwrap());
            assert!(store.webhooks("a").await.unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn a_tenant_has_no_more_than_it_may() {
        on_each_database(async |fixture| {
            for _ in 0..WEBHOOKS_MAX {
                assert!(fixture.store.create_webhook(new("a")).await.unwrap().is_some());
            }
            assert!(fixture.store.create_webhook(new("a")).await.unwrap().is_none());
            assert!(fixture.store.create_webhook(new("b")).await.unwrap().is_some());
        })
        .await;
    }
}
