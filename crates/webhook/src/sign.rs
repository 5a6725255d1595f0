//! The signature of Standard Webhooks: HMAC-SHA256 of id, time and body.

use jobs::Sending;

use crate::key::{MasterKey, Secret};
use crate::limits::OLD_SECRET_FOR;

/// The value of `webhook-signature`; `now` is in seconds since the epoch.
pub(crate) fn signatures(key: &MasterKey, sending: &Sending, now: i64) -> String {
    let signed = |secret: Secret| {
        let time = now.to_string();
        let parts = [sending.id.as_str().as_bytes(), b".", time.as_bytes(), b".", sending.payload.as_bytes()];
        format!("v1,{}", secret.sign(&parts))
    };
    secrets(key, sending, now).into_iter().map(signed).collect::<Vec<_>>().join(" ")
}

/// The present one first. After a rotation the one before, too, so that receivers may take their time.
fn secrets(key: &MasterKey, sending: &Sending, now: i64) -> Vec<Secret> {
    let Some(endpoint) = &sending.endpoint else { return vec![key.of_tenant(&sending.tenant)] };
    let mut secrets = vec![key.of_endpoint(&endpoint.id, endpoint.generation)];
    let old_for = i64::try_from(OLD_SECRET_FOR.as_secs()).unwrap_or(i64::MAX);
    if endpoint.rotated_at.is_some_and(|rotated_at| now < (rotated_at / 1000).saturating_add(old_for)) {
        secrets.push(key.of_endpoint(&endpoint.id, endpoint.generation - 1));
    }
    secrets
}

#[cfg(test)]
mod tests {
    use jobs::{Endpoint, WebhookId};

    use super::*;
    use crate::testing::{a_sending, is_signed_by};

    const NOW: i64 = 1_700_000_000;

    #[test]
    fn a_signature_is_that_of_another_implementation() {
        // computed by Python's hmac over the same words
        let secret = Secret::of_bytes(*b"0123456789abcdef0123456789abcdef");
        let signature = secret.sign(&[b"msg_1", b".", b"1700000000", b".", b"{\"a\":1}"]);
        assert_eq!(signature, "rkwp5YuvdrMkcu0ZhuMsXoTg44mHAr1Q0+FFgFpXsjY=");
        assert_eq!(secret.reveal(), "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    }

    /// As a receiver does that follows the documents.
    #[test]
    fn the_documents_way_to_verify_a_signature_works() {
        let documents = include_str!("../../../docs/webhooks.md");
        let verify = documents.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let key = MasterKey::generate();
        let sending = a_sending("https://example.org/");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let signature = signatures(&key, &sending, i64::try_from(now).unwrap());
        let secret = key.of_tenant(&sending.tenant).reveal();
        let (id, body) = (sending.id, sending.payload);
        let program = format!(
            "{verify}\nheaders = {{'webhook-id': '{id}', 'webhook-timestamp': '{now}', 'webhook-signature': '{signature}'}}\n\
             body = '''{body}'''.encode()\n\
             assert verify('{secret}', headers, body)\n\
             assert not verify('{secret}', headers, body + b' ')\n\
             assert not verify('whsec_{}', headers, body)\n\
             assert not verify('{secret}', headers | {{'webhook-timestamp': '1700000000'}}, body)\n",
            "A".repeat(44),
        );
        match std::process::Command::new("python3").args(["-c", &program]).status() {
            Ok(status) => assert!(status.success()),
            Err(error) => println!("not tested: python3: {error}"),
        }
    }

    #[test]
    fn a_rotated_secret_signs_for_another_day() {
        let key = MasterKey::generate();
        let id = WebhookId::generate();
        let of = |rotated_at| jobs::Sending {
            endpoint: Some(Endpoint { id: id.clone(), generation: 3, rotated_at }),
            ..a_sending("https://example.org/")
        };
        let [new, old] = [3, 2].map(|generation| key.of_endpoint(&id, generation));
        let day = i64::try_from(OLD_SECRET_FOR.as_secs()).unwrap();
        for (rotated_at, by_old) in
            [(None, false), (Some((NOW - day + 1) * 1000), true), (Some((NOW - day) * 1000), false)]
        {
            let sending = of(rotated_at);
            let value = signatures(&key, &sending, NOW);
            let is_signed = |secret: &Secret| is_signed_by(secret, &value, &sending.id, NOW, &sending.payload);
            assert_eq!((is_signed(&new), is_signed(&old)), (true, by_old), "{rotated_at:?}");
            assert!(!is_signed(&key.of_endpoint(&id, 1)));
        }
    }

    #[test]
    fn the_webhook_of_a_job_is_signed_by_its_tenant() {
        let key = MasterKey::generate();
        let sending = a_sending("https://example.org/");
        let value = signatures(&key, &sending, NOW);
        let is_signed = |tenant: &str| is_signed_by(&key.of_tenant(tenant), &value, &sending.id, NOW, &sending.payload);
        assert!(is_signed(&sending.tenant) && !is_signed("another"));
    }
}
