//! What a server does beside answering: sends what is due, several at once, and notes what became of it.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jobs::{JobsError, Sending, Settlement, Store, Then};
use meter::Meter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::WebhookConfig;
use crate::limits::{ANSWER_WITHIN, AT_ONCE_MAX, AT_ONCE_PER_TENANT_MAX};
use crate::send::Sender;

/// How long a delivery is its sender's alone: longer than an answer and its note take.
const LEASE: Duration = Duration::from_secs(90);
/// Other processes write unheard, and times come by themselves.
const POLL: Duration = Duration::from_secs(1);
/// A connection to the database may be to nobody.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Within the lease: whoever has it next sends it again.
const SETTLE_WITHIN: Duration = Duration::from_secs(40);
/// Deliveries under way when the server stops; what takes longer comes again.
const END_WITHIN: Duration = Duration::from_secs(5);

const _: () = assert!(CALL_MAX.as_secs() + ANSWER_WITHIN.as_secs() + SETTLE_WITHIN.as_secs() < LEASE.as_secs());

/// Until `shutdown` is cancelled. Where nothing can be sent, as on a machine without certificates of any authority, that is told,
/// and what is to be sent waits for a server that can.
pub async fn dispatch(store: Store, config: WebhookConfig, meter: Arc<Meter>, shutdown: CancellationToken) {
    match Sender::new(config) {
        Ok(sender) => send_due(&store, Arc::new(sender), &meter, &shutdown).await,
        Err(error) => {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            tracing::error!(error = cause, "webhooks cannot be sent");
            shutdown.cancelled().await;
        }
    }
}

async fn send_due(store: &Store, sender: Arc<Sender>, meter: &Arc<Meter>, shutdown: &CancellationToken) {
    let mut under_way = JoinSet::new();
    while !shutdown.is_cancelled() {
        match claim(store, AT_ONCE_MAX.saturating_sub(under_way.len())).await {
            Ok(due) => {
                for sending in due {
                    under_way.spawn(deliver(store.clone(), sender.clone(), meter.clone(), sending));
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for webhooks to send"),
        }
        tokio::select! {
            Some(ended) = under_way.join_next() => note_end(ended),
            () = store.changed(POLL) => {}
            () = shutdown.cancelled() => {}
        }
    }
    let _ = timeout(END_WITHIN, async { while under_way.join_next().await.is_some() {} }).await;
}

async fn claim(store: &Store, room: usize) -> Result<Vec<Sending>, JobsError> {
    if room == 0 {
        return Ok(Vec::new());
    }
    answered(store.claim_deliveries(LEASE, AT_ONCE_PER_TENANT_MAX, room)).await
}

async fn answered<T>(call: impl Future<Output = Result<T, JobsError>>) -> Result<T, JobsError> {
    timeout(CALL_MAX, call).await.unwrap_or_else(|_| Err(JobsError::no_answer(CALL_MAX)))
}

/// A delivery whose sending panicked comes again when its lease is over.
fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "sending a webhook did not end well");
    }
}

async fn deliver(store: Store, sender: Arc<Sender>, meter: Arc<Meter>, sending: Sending) {
    let settlement = sender.send(&sending, SystemTime::now()).await;
    log(&sending, &settlement);
    meter.webhook_tried(outcome(settlement.then));
    settle(&store, &sending, &settlement).await;
}

/// As the metric has it.
fn outcome(then: Then) -> &'static str {
    match then {
        Then::Delivered => "delivered",
        Then::Again(_) => "retried",
        Then::Failed => "failed",
        Then::Disabled => "disabled",
    }
}

/// Without the address, which may have a token in it.
fn log(sending: &Sending, settlement: &Settlement) {
    let (delivery, attempt) = (sending.id.as_str(), sending.attempt);
    let error = settlement.error.as_deref().unwrap_or_default();
    match settlement.then {
        Then::Delivered => tracing::debug!(delivery, attempt, "webhook delivered"),
        Then::Again(after) => {
            tracing::info!(delivery, attempt, error, again_in_seconds = after.as_secs(), "webhook not delivered");
        }
        Then::Failed => tracing::warn!(delivery, attempt, error, "webhook given up"),
        Then::Disabled => {
            let webhook = sending.endpoint.as_ref().map_or("", |endpoint| endpoint.id.as_str());
            tracing::warn!(delivery, webhook, "the webhook takes nothing more and is told nothing more");
        }
    }
}

/// A receiver that has it is not to get it again because the database was away for a moment.
async fn settle(store: &Store, sending: &Sending, settlement: &Settlement) {
    let until = Instant::now() + SETTLE_WITHIN - CALL_MAX;
    loop {
        match answered(store.settle_delivery(sending, settlement)).await {
            Ok(()) => return,
            Err(error) if error.is_transient() && Instant::now() < until => sleep(Duration::from_millis(500)).await,
            Err(error) => {
                tracing::warn!(%error, delivery = sending.id.as_str(), "cannot note what became of a webhook");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use jobs::{
        DeliveriesOf, DeliveryFilter, DeliveryStatus, Enqueued, JobId, JobWebhook, NewJob, NewWebhook, Redelivered,
        WebhookEvent,
    };

    use super::*;
    use crate::testing::{Receiver, is_signed_by};
    use crate::{MasterKey, Reach, Secret};

    struct Fixture {
        store: Store,
        clock: Arc<AtomicI64>,
        key: MasterKey,
        meter: Arc<Meter>,
        shutdown: CancellationToken,
        dispatching: tokio::task::JoinHandle<()>,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        async fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let clock = Arc::new(AtomicI64::new(1_700_000_000_000));
            let reads = clock.clone();
            let url = format!("sqlite://{}/jobs.db", directory.path().display());
            let store = Store::open_with_clock(&url, Arc::new(move || reads.load(Ordering::SeqCst))).await.unwrap();
            let key = MasterKey::generate();
            let reach = Reach { insecure_http: true, networks: vec!["127.0.0.0/8".parse().unwrap()] };
            let config = WebhookConfig { reach, key: key.clone() };
            let (meter, shutdown) = (Arc::new(Meter::new("0", "0")), CancellationToken::new());
            let dispatching = tokio::spawn(dispatch(store.clone(), config, meter.clone(), shutdown.clone()));
            Self { store, clock, key, meter, shutdown, dispatching, _directory: directory }
        }

        /// A job that is cancelled at once.
        async fn cancelled(&self, webhook: Option<String>) -> JobId {
            let webhook = webhook.map(|url| JobWebhook { url, events: WebhookEvent::ALL.into() });
            let job = NewJob { webhook, ..NewJob::of("merge_method: linear", "linear") };
            let Enqueued::Created(job) = self.store.enqueue(job).await.unwrap() else { panic!("replayed") };
            self.store.request_cancel(&job.id).await.unwrap();
            job.id
        }

        async fn endpoint(&self, url: String) -> jobs::Webhook {
            let new = NewWebhook { tenant: String::new(), url, events: WebhookEvent::ALL.into() };
            self.store.create_webhook(new).await.unwrap().unwrap()
        }

        /// Its delivery, once it stands so.
        async fn until(&self, job: &JobId, is: impl Fn(&jobs::Delivery) -> bool) -> jobs::Delivery {
            let filter = DeliveryFilter { of: DeliveriesOf::Job(job.clone()), after: None, limit: 1 };
            let look = async {
                loop {
                    let found = self.store.deliveries(&filter).await.unwrap().pop();
                    match found.filter(&is) {
                        Some(found) => return found,
                        None => self.store.changed(Duration::from_millis(20)).await,
                    }
                }
            };
            timeout(Duration::from_secs(20), look).await.expect("it comes to stand so")
        }

        fn advance(&self, span: Duration) {
            self.clock.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
        }

        fn assert_signed(&self, secret: &Secret, got: &crate::testing::Got) {
            let id = got.header("webhook-id").parse().unwrap();
            let time = got.header("webhook-timestamp").parse().unwrap();
            assert!(is_signed_by(secret, got.header("webhook-signature"), &id, time, &got.body), "{}", got.body);
        }

        async fn stop(self) {
            self.shutdown.cancel();
            self.dispatching.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_receiver_that_fails_twice_gets_the_same_message_until_it_takes_it() {
        let fixture = Fixture::start().await;
        let mut receiver = Receiver::start("127.0.0.1", &[(500, &[]), (503, &[]), (200, &[])]).await;
        let job = fixture.cancelled(Some(receiver.url("127.0.0.1"))).await;
        let secret = fixture.key.of_tenant("");
        let first = receiver.next().await;
        let failed = fixture.until(&job, |it| it.last_status == Some(500)).await;
        assert_eq!((failed.status, failed.attempts), (DeliveryStatus::Pending, 1));
        fixture.advance(Duration::from_secs(6));
        let second = receiver.next().await;
        fixture.until(&job, |it| it.last_status == Some(503)).await;
        fixture.advance(Duration::from_secs(331));
        let third = receiver.next().await;
        let taken = fixture.until(&job, |it| it.status == DeliveryStatus::Delivered).await;
        assert_eq!((taken.attempts, taken.last_status, taken.last_error), (3, Some(200), None));
        for got in [&first, &second, &third] {
            fixture.assert_signed(&secret, got);
            assert_eq!((got.header("webhook-id"), &got.body), (taken.id.as_str(), &first.body));
        }
        let body: serde_json::Value = serde_json::from_str(&first.body).unwrap();
        assert_eq!((&body["type"], &body["data"]["id"]), (&"job.cancelled".into(), &job.as_str().into()));
        let counted = fixture.meter.text();
        for line in ["{outcome=\"retried\"} 2", "{outcome=\"delivered\"} 1"] {
            assert!(counted.contains(&format!("merge_webhook_deliveries_total{line}")), "{counted}");
        }
        // and once more for those who ask for it
        assert!(matches!(fixture.store.redeliver("", &taken.id).await.unwrap(), Redelivered::Asked(_)));
        assert_eq!(receiver.next().await.header("webhook-id"), taken.id.as_str());
        fixture.stop().await;
    }

    #[tokio::test]
    async fn a_rotated_secret_and_the_one_before_sign_together() {
        let fixture = Fixture::start().await;
        // the time of signatures is that of this machine, and so must be that of the rotation
        let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        fixture.clock.store(i64::try_from(now.as_millis()).unwrap(), Ordering::SeqCst);
        let mut receiver = Receiver::start("127.0.0.1", &[(200, &[])]).await;
        let endpoint = fixture.endpoint(receiver.url("127.0.0.1")).await;
        let [first, second] = [1, 2].map(|generation| fixture.key.of_endpoint(&endpoint.id, generation));
        fixture.cancelled(None).await;
        let got = receiver.next().await;
        fixture.assert_signed(&first, &got);
        assert_eq!(got.header("webhook-signature").split(' ').count(), 1);
        fixture.store.rotate_webhook("", &endpoint.id).await.unwrap().unwrap();
        fixture.cancelled(None).await;
        let got = receiver.next().await;
        fixture.assert_signed(&first, &got);
        fixture.assert_signed(&second, &got);
        fixture.stop().await;
    }

    #[tokio::test]
    async fn an_endpoint_that_is_gone_is_told_nothing_more() {
        let fixture = Fixture::start().await;
        let mut receiver = Receiver::start("127.0.0.1", &[(410, &[])]).await;
        let endpoint = fixture.endpoint(receiver.url("127.0.0.1")).await;
        let job = fixture.cancelled(None).await;
        receiver.next().await;
        let failed = fixture.until(&job, |it| it.status == DeliveryStatus::Failed).await;
        assert_eq!(failed.last_status, Some(410));
        assert!(fixture.store.webhook("", &endpoint.id).await.unwrap().unwrap().disabled_at.is_some());
        let job = fixture.cancelled(None).await;
        let filter = DeliveryFilter { of: DeliveriesOf::Job(job), after: None, limit: 1 };
        assert!(fixture.store.deliveries(&filter).await.unwrap().is_empty());
        fixture.stop().await;
        assert!(receiver.got_nothing());
    }

    #[tokio::test]
    async fn what_is_never_taken_is_given_up_after_the_last_attempt() {
        let fixture = Fixture::start().await;
        let mut receiver = Receiver::start("127.0.0.1", &[(500, &[])]).await;
        let job = fixture.cancelled(Some(receiver.url("127.0.0.1"))).await;
        for attempt in 1..=10 {
            receiver.next().await;
            let noted = |it: &jobs::Delivery| it.attempts == attempt && it.last_status.is_some() && it.next_at != 0;
            fixture
                .until(&job, |it| {
                    noted(it)
                        && (it.status == DeliveryStatus::Failed || it.next_at > fixture.clock.load(Ordering::SeqCst))
                })
                .await;
            fixture.advance(Duration::from_secs(27 * 3600));
        }
        let given_up = fixture.until(&job, |it| it.status == DeliveryStatus::Failed).await;
        assert_eq!((given_up.attempts, given_up.last_error.as_deref()), (10, Some("answered 500")));
        fixture.stop().await;
        assert!(receiver.got_nothing());
    }
}
