//! Makes, finds and ends API keys.

use std::collections::BTreeSet;

use sqlx::{Row, any::AnyRow};

use super::statement::{query, query_scalar};
use super::{Store, row};
use crate::{Action, ApiKey, NewKey, Result, Scope, Secret};

const CREATE: &str = "\
    insert into api_keys (id, name, tenant, scopes, secret_sha256, created_at, expires_at) \
    values ($1, $2, $3, $4, $5, $6, $7)";

const COLUMNS: &str =
    "select id, name, tenant, scopes, created_at, expires_at, revoked_at, last_used_at, secret_sha256 from api_keys";

const ADOPT: [&str; 3] = [
    "update jobs set tenant = $1 where tenant = ''",
    "update webhooks set tenant = $1 where tenant = ''",
    "update deliveries set tenant = $1 where tenant = ''",
];

const REVOKE: &str = "update api_keys set revoked_at = $2 where id = $1 and revoked_at is null";

const TENANT_OF: &str = "select tenant from api_keys where id = $1";

const USED: &str = "\
    update api_keys set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at < $3)";

/// How exactly the last use is known: a write for each request would cost more than the request.
const USED_EVERY_MS: i64 = 60_000;

impl Store {
    /// The key is told once; what is stored cannot be turned back into it.
    pub async fn create_key(&self, key: NewKey) -> Result<(ApiKey, Secret)> {
        let mut write = self.write("store.create_key").await?;
        let (id, secret) = Secret::generate();
        let created_at = write.now;
        query(CREATE)
            .bind(id.as_str())
            .bind(key.name.as_str())
            .bind(key.tenant.as_str())
            .bind(words(&key.scopes))
            .bind(secret.digest())
            .bind(created_at)
            .bind(key.expires_at)
            .execute(write.connection())
            .await?;
        if key.adopts {
            for adopt in ADOPT {
                query(adopt).bind(key.tenant.as_str()).execute(write.connection()).await?;
            }
        }
        write.audit_for(&key.tenant, Action::KeyCreated, &id).await?;
        write.commit().await?;
        let NewKey { name, tenant, scopes, expires_at, .. } = key;
        let key = ApiKey { id, name, tenant, scopes, created_at, expires_at, revoked_at: None, last_used_at: None };
        Ok((key, secret))
    }

    /// Every key there ever was, oldest first.
    pub async fn keys(&self) -> Result<Vec<ApiKey>> {
        let sql = const_text("order by created_at, id");
        let rows = query(sql).fetch_all(&mut *self.reading().await?).await?;
        rows.iter().map(of_row).collect()
    }

    /// Whether keys are asked for: once there was one, for good.
    pub async fn has_keys(&self) -> Result<bool> {
        let any: i64 = query_scalar("select count(*) from (select 1 from api_keys limit 1) any_key")
            .fetch_one(&mut *self.reading().await?)
            .await?;
        Ok(any > 0)
    }

    /// Whether there is such a key. Again is no error.
    pub async fn revoke_key(&self, id: &str) -> Result<bool> {
        let mut write = self.write("store.revoke_key").await?;
        let now = write.now;
        let tenant: Option<String> = query_scalar(TENANT_OF).bind(id).fetch_optional(write.connection()).await?;
        let revoked = query(REVOKE).bind(id).bind(now).execute(write.connection()).await?;
        if let (Some(tenant), 1) = (&tenant, revoked.rows_affected()) {
            write.audit_for(tenant, Action::KeyRevoked, id).await?;
        }
        write.commit().await?;
        Ok(tenant.is_some())
    }

    /// The key that this is, if it is one that may be used now.
    pub async fn key_of(&self, secret: &Secret) -> Result<Option<ApiKey>> {
        let sql = const_text("where id = $1");
        let found = query(sql).bind(secret.id()).fetch_optional(&mut *self.reading().await?).await?;
        let Some(found) = found else { return Ok(None) };
        if !is_same(&found.try_get::<String, _>("secret_sha256")?, &secret.digest()) {
            return Ok(None);
        }
        let (key, now) = (of_row(&found)?, self.now().await?);
        if !key.is_good_at(now) {
            return Ok(None);
        }
        if key.last_used_at.is_none_or(|used| used < now - USED_EVERY_MS) {
            self.note_use(&key.id).await?;
        }
        Ok(Some(key))
    }

    /// Whether a request that began with this key may go on; one without a key may as long as none is asked for.
    pub async fn is_good_key(&self, id: &str) -> Result<bool> {
        if id.is_empty() {
            return Ok(!self.has_keys().await?);
        }
        let found = query(const_text("where id = $1")).bind(id).fetch_optional(&mut *self.reading().await?).await?;
        let now = self.now().await?;
        Ok(found.as_ref().map(of_row).transpose()?.is_some_and(|key| key.is_good_at(now)))
    }

    async fn note_use(&self, id: &str) -> Result<()> {
        let mut write = self.write("store.use_key").await?;
        let now = write.now;
        query(USED).bind(id).bind(now).bind(now - USED_EVERY_MS).execute(write.connection()).await?;
        write.commit_quietly().await
    }
}

fn const_text(restriction: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("{COLUMNS} {restriction}"))
}

/// In a time that does not depend on where they differ.
fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn words(scopes: &BTreeSet<Scope>) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

fn of_row(found: &AnyRow) -> Result<ApiKey> {
    let scopes: String = found.try_get("scopes")?;
    let unknown = |word: &str| row::corrupt("scopes", format!("{word:?} is no scope"));
    Ok(ApiKey {
        id: found.try_get("id")?,
        name: found.try_get("name")?,
        tenant: found.try_get("tenant")?,
        scopes: scopes
            .split_whitespace()
            .map(|word| Scope::parse(word).ok_or_else(|| unknown(word)))
            .collect::<Result<_>>()?,
        created_at: found.try_get("created_at")?,
        expires_at: found.try_get("expires_at")?,
        revoked_at: found.try_get("revoked_at")?,
        last_used_at: found.try_get("last_used_at")?,
    })
}

#[cfg(test)]
mod tests {
    use crate::{NewKey, Scope, Secret, testing::on_each_database};

    fn new_key() -> NewKey {
        NewKey {
            name: "pipeline".to_owned(),
            tenant: "research".to_owned(),
            scopes: [Scope::JobsRead, Scope::Admin].into(),
            expires_at: None,
            adopts: false,
        }
    }

    #[tokio::test]
    async fn a_tenant_may_adopt_what_was_made_without_keys() {
        on_each_database(async |fixture| {
            let id = fixture.enqueue(crate::testing::new_job()).await.id;
            fixture.store.create_key(new_key()).await.unwrap();
            assert_eq!(fixture.job(&id).await.tenant, "");
            fixture.store.create_key(NewKey { adopts: true, ..new_key() }).await.unwrap();
            assert_eq!(fixture.job(&id).await.tenant, "research");
        })
        .await;
    }

    #[tokio::test]
    async fn a_key_is_known_until_it_is_revoked() {
        on_each_database(async |fixture| {
            let store = &fixture.store;
            assert!(!store.has_keys().await.unwrap() && store.is_good_key("").await.unwrap());
            let (key, secret) = store.create_key(new_key()).await.unwrap();
            assert!(store.has_keys().await.unwrap());
            let found = store.key_of(&secret).await.unwrap().expect("known");
            assert_eq!((&found.id, &found.tenant, &found.scopes), (&key.id, &key.tenant, &key.scopes));
            assert!(store.keys().await.unwrap()[0].last_used_at.is_some());
            let (_, stranger) = Secret::generate();
            assert!(store.key_of(&stranger).await.unwrap().is_none());
            let forged = secret.reveal().replace(&secret.reveal()[30..31], "0").replace(&secret.reveal()[31..32], "1");
            if let Some(forged) = Secret::read(&forged).filter(|forged| forged.reveal() != secret.reveal()) {
                assert!(store.key_of(&forged).await.unwrap().is_none());
            }
            assert!(store.revoke_key(&key.id).await.unwrap() && !store.revoke_key("nosuch").await.unwrap());
            assert!(store.key_of(&secret).await.unwrap().is_none() && !store.is_good_key(&key.id).await.unwrap());
            assert!(!store.is_good_key("").await.unwrap(), "whoever came without a key needs one now");
            assert!(store.has_keys().await.unwrap(), "a server that asked for keys asks for keys");
        })
        .await;
    }

    #[tokio::test]
    async fn a_key_ends_at_its_time() {
        on_each_database(async |fixture| {
            let (_, past) = fixture.store.create_key(NewKey { expires_at: Some(1), ..new_key() }).await.unwrap();
            let (_, future) =
                fixture.store.create_key(NewKey { expires_at: Some(i64::MAX), ..new_key() }).await.unwrap();
            assert!(fixture.store.key_of(&past).await.unwrap().is_none());
            assert!(fixture.store.key_of(&future).await.unwrap().is_some());
        })
        .await;
    }

    #[tokio::test]
    async fn the_database_holds_nothing_of_a_key_but_its_digest() {
        on_each_database(async |fixture| {
            let (_, secret) = fixture.store.create_key(new_key()).await.unwrap();
            let random = &secret.reveal()[secret.reveal().len() - 64..];
            let rows = fixture
                .count_where(
                    "select count(*) from api_keys where secret_sha256 like $1 or id like $1 or name like $1",
                    random,
                )
                .await;
            assert_eq!(rows, 0);
        })
        .await;
    }
}
