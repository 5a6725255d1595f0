//! Sends one delivery once.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jobs::{DeliveryId, Sending, Settlement, Then};
use reqwest::{Client, StatusCode, Url, header, redirect};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use crate::WebhookConfig;
use crate::key::MasterKey;
use crate::limits::{ANSWER_WITHIN, RETRY_AFTER_MAX};
use crate::reach::{Reach, Refused};
use crate::resolver::{Lookup, Resolver, system};
use crate::schedule;
use crate::sign::signatures;

/// Has what it takes to send any delivery.
pub(crate) struct Sender {
    client: Client,
    reach: Reach,
    key: MasterKey,
    answer_within: Duration,
}

impl Sender {
    pub(crate) fn new(config: WebhookConfig) -> Result<Self, reqwest::Error> {
        Self::with(config, system(), ANSWER_WITHIN)
    }

    pub(crate) fn with(config: WebhookConfig, lookup: Lookup, answer_within: Duration) -> Result<Self, reqwest::Error> {
        // an error says that a provider is installed already, which is as good
        let _ = rustls::crypto::ring::default_provider().install_default();
        let WebhookConfig { reach, key } = config;
        let client = Client::builder()
            .user_agent(concat!("amalgam/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(std::sync::Arc::new(Resolver { reach: reach.clone(), lookup }))
            .https_only(!reach.insecure_http)
            // either would lead where nothing was checked
            .redirect(redirect::Policy::none())
            .no_proxy()
            // a connection that is kept was checked for another delivery, some time ago
            .pool_max_idle_per_host(0)
            .timeout(answer_within)
            .build()?;
        Ok(Self { client, reach, key, answer_within })
    }

    pub(crate) async fn send(&self, sending: &Sending, now: SystemTime) -> Settlement {
        let answer = match self.reach.parse(&sending.url) {
            Ok(url) => self.post(url, sending, now).await,
            Err(refused) => Answer::None(refused.to_string()),
        };
        settlement(sending, answer)
    }

    async fn post(&self, url: Url, sending: &Sending, now: SystemTime) -> Answer {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let request = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", sending.id.as_str())
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signatures(&self.key, sending, seconds))
            .body(sending.payload.clone());
        // the body of the answer is nobody's to know, so that it is not read
        match request.send().await {
            Ok(response) => Answer::Status {
                status: response.status(),
                retry_after: response
                    .headers()
                    .get(header::RETRY_AFTER)
                    .and_then(|value| retry_after(value.to_str().ok()?, now)),
            },
            Err(error) => Answer::None(self.told(&error)),
        }
    }

    /// Never with the address, which may have a token in it, nor with what was found where.
    fn told(&self, error: &reqwest::Error) -> String {
        let outer: &(dyn Error + 'static) = error;
        let mut causes = std::iter::successors(Some(outer), |error| (*error).source());
        if let Some(refused) = causes.find_map(|cause| cause.downcast_ref::<Refused>()) {
            return refused.to_string();
        }
        if error.is_timeout() {
            return format!("no answer within {} s", self.answer_within.as_secs());
        }
        if error.is_connect() { "cannot connect".to_owned() } else { "the connection broke".to_owned() }
    }
}

enum Answer {
    Status { status: StatusCode, retry_after: Option<Duration> },
    None(String),
}

fn settlement(sending: &Sending, answer: Answer) -> Settlement {
    match answer {
        Answer::Status { status, .. } if status.is_success() => {
            Settlement { status: Some(status.as_u16()), error: None, then: Then::Delivered }
        }
        Answer::Status { status, retry_after } => Settlement {
            status: Some(status.as_u16()),
            error: Some(format!("answered {}", status.as_u16())),
            then: match status {
                StatusCode::GONE if sending.endpoint.is_some() => Then::Disabled,
                StatusCode::GONE => Then::Failed,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    again(sending.attempt, &sending.id, retry_after.unwrap_or_default())
                }
                _ => again(sending.attempt, &sending.id, Duration::ZERO),
            },
        },
        Answer::None(error) => {
            Settlement { status: None, error: Some(error), then: again(sending.attempt, &sending.id, Duration::ZERO) }
        }
    }
}

fn again(attempt: i64, id: &DeliveryId, not_before: Duration) -> Then {
    schedule::after(attempt, id).map_or(Then::Failed, |wait| Then::Again(wait.max(not_before)))
}

/// Seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let wait = match value.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let then = SystemTime::from(OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?);
            then.duration_since(now).ok()?
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jobs::{Endpoint, WebhookId};

    use super::*;
    use crate::network::Network;
    use crate::testing::{Receiver, a_sending, is_signed_by};

    const SHORT: Duration = Duration::from_millis(300);

    fn config(networks: &[&str]) -> WebhookConfig {
        let networks = networks.iter().map(|network| network.parse::<Network>().unwrap()).collect();
        WebhookConfig { reach: Reach { insecure_http: true, networks }, key: MasterKey::generate() }
    }

    /// A name that means something else each time it is asked for; the last for good.
    fn rebinding(addresses: &[&str]) -> (Lookup, Arc<AtomicUsize>) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let lookup: Lookup = Arc::new(move |_| {
            let at = count.fetch_add(1, Ordering::SeqCst).min(addresses.len() - 1);
            let found = vec![addresses[at]];
            Box::pin(async move { Ok(found) })
        });
        (lookup, asked)
    }

    #[tokio::test]
    async fn a_delivery_comes_with_its_id_its_time_and_a_signature() {
        let mut receiver = Receiver::start("127.0.0.1", &[(204, &[])]).await;
        let config = config(&["127.0.0.1"]);
        let secret = config.key.of_tenant("a");
        let sending = a_sending(&receiver.url("127.0.0.1"));
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let settlement = Sender::new(config).unwrap().send(&sending, now).await;
        assert_eq!(settlement, Settlement { status: Some(204), error: None, then: Then::Delivered });
        let got = receiver.next().await;
        assert_eq!(got.header("webhook-id"), sending.id.as_str());
        assert_eq!((got.header("webhook-timestamp"), got.header("content-type")), ("1700000000", "application/json"));
        assert!(is_signed_by(&secret, got.header("webhook-signature"), &sending.id, 1_700_000_000, &got.body));
        assert_eq!(got.body, sending.payload);
    }

    #[tokio::test]
    async fn a_name_that_changes_its_meaning_leads_nowhere_else() {
        let mut inside = Receiver::start("127.0.0.1", &[(204, &[])]).await;
        // 203.0.113.7 stands for an address of the internet; nothing is there
        let (lookup, asked) = rebinding(&["203.0.113.7", "127.0.0.1"]);
        let sender = Sender::with(config(&["203.0.113.0/24"]), lookup, SHORT).unwrap();
        let sending = a_sending(&inside.url("rebinding.example"));
        let first = sender.send(&sending, SystemTime::now()).await;
        assert_eq!((first.status, asked.load(Ordering::SeqCst)), (None, 1), "what was checked is what was tried");
        let second = sender.send(&sending, SystemTime::now()).await;
        assert_eq!(second.error, Some(Refused::Address.to_string()));
        assert!(inside.got_nothing());
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
        let mut allowed = Receiver::start("127.0.0.1", &[(204, &[])]).await;
        let mut inside = Receiver::start_at("127.0.0.2", allowed.port(), &[(204, &[])]).await;
        let (lookup, asked) = rebinding(&["127.0.0.1", "127.0.0.2"]);
        let sender = Sender::with(config(&["127.0.0.1"]), lookup, ANSWER_WITHIN).unwrap();
        let sending = a_sending(&allowed.url("rebinding.example"));
        assert_eq!(sender.send(&sending, SystemTime::now()).await.then, Then::Delivered);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        allowed.next().await;
        // no connection is kept that would go on where the name led before
        assert_eq!(sender.send(&sending, SystemTime::now()).await.error, Some(Refused::Address.to_string()));
        assert!(inside.got_nothing() && allowed.got_nothing());
    }

    #[tokio::test]
    async fn of_several_addresses_only_those_that_are_allowed_are_tried() {
        let mut inside = Receiver::start("127.0.0.2", &[(204, &[])]).await;
        let lookup: Lookup =
            Arc::new(|_| Box::pin(async { Ok(vec!["127.0.0.2".parse().unwrap(), "203.0.113.7".parse().unwrap()]) }));
        let sender = Sender::with(config(&["203.0.113.0/24"]), lookup, SHORT).unwrap();
        let settlement = sender.send(&a_sending(&inside.url("both.example")), SystemTime::now()).await;
        assert_eq!(settlement.status, None);
        assert!(inside.got_nothing());
    }

    #[tokio::test]
    async fn a_private_address_is_not_connected_to_by_name_or_number() {
        let mut inside = Receiver::start("127.0.0.1", &[(204, &[])]).await;
        let (lookup, _) = rebinding(&["127.0.0.1"]);
        let sender = Sender::with(config(&[]), lookup, ANSWER_WITHIN).unwrap();
        for host in ["localhost", "localhost.", "127.0.0.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "[::1]"] {
            let settlement = sender.send(&a_sending(&inside.url(host)), SystemTime::now()).await;
            assert_eq!(settlement.error, Some(Refused::Address.to_string()), "{host}");
            assert!(matches!(settlement.then, Then::Again(_)));
        }
        assert!(inside.got_nothing());
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_no_way() {
        let mut inside = Receiver::start("127.0.0.2", &[(204, &[])]).await;
        let to = inside.url("127.0.0.2");
        for status in [301, 302, 303, 307, 308] {
            let mut receiver = Receiver::start("127.0.0.1", &[(status, &[("location", &to)])]).await;
            // even where the address would be allowed
            let sender = Sender::new(config(&["127.0.0.0/8"])).unwrap();
            let settlement = sender.send(&a_sending(&receiver.url("127.0.0.1")), SystemTime::now()).await;
            assert_eq!((settlement.status, settlement.error), (Some(status), Some(format!("answered {status}"))));
            receiver.next().await;
        }
        assert!(inside.got_nothing());
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let (lookup, _) = rebinding(&["127.0.0.1"]);
        let sender = Sender::with(config(&["127.0.0.1"]), lookup, SHORT).unwrap();
        let settlement = sender.send(&a_sending(&url), SystemTime::now()).await;
        assert_eq!(settlement.error.as_deref(), Some("no answer within 0 s"));
        drop(silent);
        let settlement = sender.send(&a_sending(&url), SystemTime::now()).await;
        assert_eq!(settlement.error.as_deref(), Some("cannot connect"));
    }

    #[test]
    fn what_an_answer_means() {
        let alone = a_sending("https://example.org/");
        let endpoint = Endpoint { id: WebhookId::generate(), generation: 1, rotated_at: None };
        let of_endpoint = Sending { endpoint: Some(endpoint), ..alone.clone() };
        let last = Sending { attempt: 10, ..alone.clone() };
        let then = |sending: &Sending, status: u16, seconds: Option<u64>| {
            let status = StatusCode::from_u16(status).unwrap();
            settlement(sending, Answer::Status { status, retry_after: seconds.map(Duration::from_secs) }).then
        };
        let planned = Then::Again(schedule::after(1, &alone.id).unwrap());
        assert_eq!(then(&alone, 200, None), Then::Delivered);
        assert_eq!(then(&alone, 299, None), Then::Delivered);
        for status in [302, 400, 404, 500, 503] {
            assert_eq!(then(&alone, status, None), planned, "{status}");
        }
        assert_eq!((then(&alone, 410, None), then(&of_endpoint, 410, None)), (Then::Failed, Then::Disabled));
        for status in [429, 503] {
            assert_eq!(then(&alone, status, Some(77)), Then::Again(Duration::from_secs(77)));
            assert_eq!(then(&alone, status, Some(1)), planned, "sooner than planned is not asked for");
        }
        assert_eq!(then(&alone, 500, Some(77)), planned);
        assert_eq!(then(&last, 500, None), Then::Failed);
    }

    #[test]
    fn how_long_to_wait_is_read_in_both_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:48:37 GMT", now), None);
        assert_eq!(retry_after("99999999", now), Some(RETRY_AFTER_MAX));
        assert_eq!(retry_after("soon", now), None);
    }
}
