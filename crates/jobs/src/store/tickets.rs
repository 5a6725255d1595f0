//! Tickets for event streams: a browser's `EventSource` can send no header, and a key has no place in a URL.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::Row;
use uuid::Uuid;

use super::statement::{query, query_scalar};
use super::{Store, millis};
use crate::Result;

/// A ticket, shown once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub text: String,
    /// Milliseconds since the epoch.
    pub expires_at: i64,
}

/// Who may open a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketHolder {
    pub tenant: String,
    pub key: String,
}

const PREFIX: &str = "amt_";

const ISSUE: &str = "insert into stream_tickets (sha256, tenant, key_id, expires_at) values ($1, $2, $3, $4)";

const FORGET: &str = "delete from stream_tickets where expires_at <= $1";

const THERE: &str = "select count(*) from stream_tickets where sha256 = $1";

const USE: &str = "delete from stream_tickets where sha256 = $1 returning tenant, key_id, expires_at";

impl Store {
    pub async fn issue_ticket(&self, holder: &TicketHolder, ttl: Duration) -> Result<Ticket> {
        let text = format!("{PREFIX}{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut write = self.write("store.issue_ticket").await?;
        let expires_at = write.now.saturating_add(millis(ttl));
        let now = write.now;
        query(FORGET).bind(now).execute(write.connection()).await?;
        query(ISSUE)
            .bind(digest(&text))
            .bind(holder.tenant.as_str())
            .bind(holder.key.as_str())
            .bind(expires_at)
            .execute(write.connection())
            .await?;
        write.commit_quietly().await?;
        Ok(Ticket { text, expires_at })
    }

    /// Whose it is; it is good once, until its time.
    pub async fn use_ticket(&self, text: &str) -> Result<Option<TicketHolder>> {
        // who makes tickets up is not to have the one writer of a SQLite for it
        let there: i64 = query_scalar(THERE).bind(digest(text)).fetch_one(&mut *self.reading().await?).await?;
        if there == 0 {
            return Ok(None);
        }
        let mut write = self.write("store.use_ticket").await?;
        let found = query(USE).bind(digest(text)).fetch_optional(write.connection()).await?;
        let now = write.now;
        write.commit_quietly().await?;
        let Some(found) = found else { return Ok(None) };
        if found.try_get::<i64, _>("expires_at")? <= now {
            return Ok(None);
        }
        Ok(Some(TicketHolder { tenant: found.try_get("tenant")?, key: found.try_get("key_id")? }))
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::TicketHolder;
    use crate::testing::on_each_database;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_ticket_opens_once_and_in_time() {
        on_each_database(async |fixture| {
            let holder = TicketHolder { tenant: "a".to_owned(), key: "k".to_owned() };
            let store = &fixture.store;
            let ticket = store.issue_ticket(&holder, MINUTE).await.unwrap();
            let late = store.issue_ticket(&holder, Duration::ZERO).await.unwrap();
            assert_eq!(store.use_ticket("amt_0").await.unwrap(), None);
            assert_eq!(store.use_ticket(&late.text).await.unwrap(), None);
            assert_eq!(store.use_ticket(&ticket.text).await.unwrap(), Some(holder.clone()));
            assert_eq!(store.use_ticket(&ticket.text).await.unwrap(), None);
            let kept = store.issue_ticket(&holder, MINUTE).await.unwrap();
            let random = &kept.text[4..];
            let clear = fixture.count_where("select count(*) from stream_tickets where sha256 like $1", random).await;
            assert_eq!((clear, fixture.count("select count(*) from stream_tickets").await), (0, 1));
        })
        .await;
    }
}
