//! The audit log: written with the change that it tells of, read newest first, forgotten when the operator says so.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row, any::AnyRow};

use super::statement::query;
use super::{Store, millis, write::Write};
use crate::{Action, Actor, AuditCursor, AuditEntry, AuditFilter, AuditPage, Result, id};

const INSERT: &str = "\
    insert into audit (id, at, tenant, actor, action, subject, from_address, request_id) \
    values ($1, $2, $3, $4, $5, $6, $7, $8)";

const COLUMNS: &str = "select id, at, tenant, actor, action, subject, from_address, request_id from audit";

const ORDER: &str = "order by at desc, id desc limit";

/// So many at once: others must not wait long.
const FORGET: &str = "delete from audit where id in (select id from audit where at < $1 order by at limit 1000)";

impl Store {
    /// The same queue, where what is changed is told to be this one's doing. Without an actor nothing is told: workers and
    /// the queue's own housekeeping write events, and nobody asked them.
    pub fn by(&self, actor: Actor) -> Self {
        Self { shared: self.shared.clone(), actor: Some(actor.into()) }
    }

    pub async fn audit(&self, filter: &AuditFilter) -> Result<AuditPage> {
        let (conditions, values) = conditions(filter);
        let sql = format!("{COLUMNS} where {} {ORDER} ${}", conditions.join(" and "), values.len() + 1);
        let mut query = query(AssertSqlSafe(sql));
        for value in values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        // one more than asked tells whether there is a next page
        let rows = query.bind(i64::from(filter.limit) + 1).fetch_all(&mut *self.reading().await?).await?;
        let mut entries: Vec<AuditEntry> = rows.iter().map(of_row).collect::<Result<_>>()?;
        let has_more = entries.len() > filter.limit as usize;
        entries.truncate(filter.limit as usize);
        let next = entries.last().filter(|_| has_more);
        let next = next.map(|last| AuditCursor { at: last.at, id: last.id.clone() });
        Ok(AuditPage { entries, next })
    }

    /// Forgets what is older.
    pub(super) async fn forget_audit(&self, age: Duration) -> Result<u64> {
        let mut all = 0;
        loop {
            let mut write = self.write("store.prune").await?;
            let before = write.now.saturating_sub(millis(age));
            let forgotten = query(FORGET).bind(before).execute(write.connection()).await?.rows_affected();
            if forgotten == 0 {
                write.abandon().await?;
                return Ok(all);
            }
            write.commit_quietly().await?;
            all += forgotten;
        }
    }
}

impl Write<'_> {
    /// Tells the change of this transaction, where somebody asked for it.
    pub(super) async fn audit(&mut self, action: Action, subject: &str) -> Result<()> {
        let tenant = self.actor().map(|actor| actor.tenant.clone());
        self.audit_for(&tenant.unwrap_or_default(), action, subject).await
    }

    /// As `audit`, where it is another tenant's to see than the actor's, as when the command line makes a key.
    pub(super) async fn audit_for(&mut self, tenant: &str, action: Action, subject: &str) -> Result<()> {
        let Some(actor) = self.actor() else { return Ok(()) };
        let at = self.now;
        query(INSERT)
            .bind(id::new_audit_id())
            .bind(at)
            .bind(tenant)
            .bind(actor.name.as_str())
            .bind(action.as_str())
            .bind(subject)
            .bind(actor.from_address.as_str())
            .bind(actor.request_id.as_str())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

enum Value {
    Text(String),
    Number(i64),
}

/// What is asked for, as conditions with numbered places and the values for these. Nothing of a value is in the text.
fn conditions(filter: &AuditFilter) -> (Vec<String>, Vec<Value>) {
    let mut values = vec![Value::Text(filter.tenant.clone())];
    let mut conditions = vec!["tenant = $1".to_owned()];
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("${}", values.len())));
    };
    if let Some(action) = filter.action {
        add("action = ?", Value::Text(action.as_str().to_owned()));
    }
    if let Some(subject) = &filter.subject {
        add("subject = ?", Value::Text(subject.clone()));
    }
    if let Some(cursor) = &filter.after {
        add("at <= ?", Value::Number(cursor.at));
        add("(at < ?", Value::Number(cursor.at));
        let last = conditions.len() - 1;
        values.push(Value::Text(cursor.id.clone()));
        conditions[last] += &format!(" or id < ${})", values.len());
    }
    (conditions, values)
}

fn of_row(found: &AnyRow) -> Result<AuditEntry> {
    Ok(AuditEntry {
        id: found.try_get("id")?,
        at: found.try_get("at")?,
        tenant: found.try_get("tenant")?,
        actor: found.try_get("actor")?,
        action: found.try_get("action")?,
        subject: found.try_get("subject")?,
        from_address: found.try_get("from_address")?,
        request_id: found.try_get("request_id")?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use crate::{
        Action, Actor, AuditEntry, AuditFilter, Deleted, Idempotency, JobId, NewJob, NewKey, Outcome, Retention, Scope,
        Store, WorkerId,
        testing::{Fixture, new_group, new_job, on_each_database},
    };

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn actor() -> Actor {
        Actor {
            tenant: "research".to_owned(),
            name: "0123456789ab".to_owned(),
            from_address: "192.0.2.7".to_owned(),
            request_id: "request-1".to_owned(),
        }
    }

    async fn log(store: &Store) -> Vec<AuditEntry> {
        let filter = AuditFilter { tenant: "research".to_owned(), limit: 1000, ..AuditFilter::default() };
        store.audit(&filter).await.unwrap().entries
    }

    /// What was added since the log had so many entries, oldest first.
    async fn added(store: &Store, known: &mut usize) -> Vec<(String, String)> {
        let mut entries = log(store).await;
        entries.truncate(entries.len() - *known);
        *known += entries.len();
        entries.reverse();
        for entry in &entries {
            let who = (entry.actor.as_str(), entry.from_address.as_str(), entry.request_id.as_str());
            assert_eq!(who, ("0123456789ab", "192.0.2.7", "request-1"));
            assert!(entry.at > 0 && entry.id.starts_with("aud_"));
        }
        entries.into_iter().map(|entry| (entry.action, entry.subject)).collect()
    }

    fn told(action: Action, subject: &str) -> Vec<(String, String)> {
        vec![(action.as_str().to_owned(), subject.to_owned())]
    }

    fn keyed() -> NewJob {
        let idempotency = Idempotency { key: "k".to_owned(), request_digest: "d".to_owned() };
        NewJob { idempotency: Some(idempotency), ..new_job() }
    }

    fn new_key() -> NewKey {
        NewKey {
            name: "test".to_owned(),
            tenant: "research".to_owned(),
            scopes: [Scope::Admin].into(),
            expires_at: None,
            adopts: false,
        }
    }

    #[tokio::test]
    async fn every_change_of_jobs_leaves_one_entry_and_what_changes_nothing_leaves_none() {
        on_each_database(async |fixture| {
            let (store, mut known) = (fixture.store.by(actor()), 0);
            let job = keyed();
            for _ in 0..2 {
                store.enqueue(job.clone()).await.unwrap();
            }
            assert_eq!(added(&store, &mut known).await, told(Action::JobCreated, job.id.as_str()));
            assert_eq!(store.delete_job(&job.id).await.unwrap(), Deleted::NotOver);
            assert!(added(&store, &mut known).await.is_empty());
            for _ in 0..2 {
                store.request_cancel(&job.id).await.unwrap();
            }
            store.request_cancel(&JobId::generate()).await.unwrap();
            assert_eq!(added(&store, &mut known).await, told(Action::JobCancelled, job.id.as_str()));
            let retried = NewJob { retry_of: Some(job.id.clone()), ..new_job() };
            store.enqueue(retried.clone()).await.unwrap();
            assert_eq!(added(&store, &mut known).await, told(Action::JobRetried, retried.id.as_str()));
            for _ in 0..2 {
                store.delete_job(&job.id).await.unwrap();
            }
            assert_eq!(added(&store, &mut known).await, told(Action::JobDeleted, job.id.as_str()));
            let jobs = new_group(&["one", "two"]);
            let group = jobs[0].member.clone().unwrap().group;
            store.enqueue_group(jobs).await.unwrap();
            assert_eq!(added(&store, &mut known).await, told(Action::GroupCreated, group.as_str()));
            for _ in 0..2 {
                store.cancel_group(&group).await.unwrap();
            }
            assert_eq!(added(&store, &mut known).await, told(Action::GroupCancelled, group.as_str()));
        })
        .await;
    }

    #[tokio::test]
    async fn every_change_of_workers_queue_and_keys_leaves_one_entry() {
        on_each_database(async |fixture| {
            let (store, mut known) = (fixture.store.by(actor()), 0);
            let worker = WorkerId::generate("node");
            store.report_worker(&worker, &json!({})).await.unwrap();
            for _ in 0..2 {
                assert!(store.drain_worker(worker.as_str()).await.unwrap());
            }
            assert!(!store.drain_worker("nobody").await.unwrap());
            assert_eq!(added(&store, &mut known).await, told(Action::WorkerDrained, worker.as_str()));
            for _ in 0..2 {
                store.pause().await.unwrap();
            }
            assert_eq!(added(&store, &mut known).await, told(Action::QueuePaused, "default"));
            for _ in 0..2 {
                store.resume().await.unwrap();
            }
            assert_eq!(added(&store, &mut known).await, told(Action::QueueResumed, "default"));
            let (key, secret) = store.create_key(new_key()).await.unwrap();
            assert_eq!(added(&store, &mut known).await, told(Action::KeyCreated, &key.id));
            assert!(store.key_of(&secret).await.unwrap().is_some());
            for _ in 0..2 {
                assert!(store.revoke_key(&key.id).await.unwrap());
            }
            assert!(!store.revoke_key("nosuch").await.unwrap());
            assert_eq!(added(&store, &mut known).await, told(Action::KeyRevoked, &key.id));
        })
        .await;
    }

    #[tokio::test]
    async fn what_nobody_asked_for_is_in_no_log_and_a_key_made_here_is_in_its_tenants() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            let lease = fixture.claim().await;
            fixture.store.finish(&lease, Outcome::Cancelled).await.unwrap();
            assert_eq!(fixture.count("select count(*) from audit").await, 0);
            fixture.store.by(Actor::cli()).create_key(new_key()).await.unwrap();
            let entries = log(&fixture.store).await;
            assert_eq!((entries.len(), entries[0].actor.as_str()), (1, "cli"));
        })
        .await;
    }

    async fn pages(fixture: &Fixture, filter: AuditFilter) -> Vec<String> {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = fixture.store.audit(&AuditFilter { after, limit: 3, ..filter.clone() }).await.unwrap();
            seen.extend(page.entries.into_iter().map(|entry| entry.subject));
            let Some(next) = page.next else { return seen };
            after = Some(next.encode().parse().unwrap());
        }
    }

    #[tokio::test]
    async fn pages_go_newest_first_and_hold_what_is_asked_for() {
        on_each_database(async |fixture| {
            let store = fixture.store.by(actor());
            let mut made = Vec::new();
            for n in 0..7 {
                let job = new_job();
                made.push(job.id.to_string());
                store.enqueue(job).await.unwrap();
                // some share a millisecond on SQLite, so that ids must decide
                fixture.advance(Duration::from_millis(n % 2)).await;
            }
            fixture.sql("update audit set at = at / 20").await;
            store.pause().await.unwrap();
            fixture.store.by(Actor { tenant: "sales".to_owned(), ..actor() }).resume().await.unwrap();
            made.reverse();
            let filter = AuditFilter { tenant: "research".to_owned(), ..AuditFilter::default() };
            let mut all = vec!["default".to_owned()];
            all.extend(made.iter().cloned());
            assert_eq!(pages(fixture, filter.clone()).await, all);
            let created = AuditFilter { action: Some(Action::JobCreated), ..filter.clone() };
            assert_eq!(pages(fixture, created).await, made);
            let one = AuditFilter { subject: Some(made[2].clone()), ..filter };
            assert_eq!(pages(fixture, one).await, made[2..3]);
        })
        .await;
    }

    #[tokio::test]
    async fn entries_stay_until_the_operator_says_otherwise() {
        on_each_database(async |fixture| {
            let store = fixture.store.by(actor());
            store.pause().await.unwrap();
            fixture.sql("update audit set at = at - 172800000").await;
            store.resume().await.unwrap();
            assert_eq!(store.prune(Retention { jobs: Some(DAY), ..Retention::default() }).await.unwrap().audit, 0);
            let pruned = store.prune(Retention { audit: Some(DAY), ..Retention::default() }).await.unwrap();
            assert_eq!((pruned.audit, log(&store).await.len()), (1, 1));
        })
        .await;
    }
}
