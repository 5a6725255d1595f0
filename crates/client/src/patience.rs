//! How long a server that cannot answer now is asked again.
//!
//! Invariant: nothing is waited for past its bound; a wait that would end behind it is not begun, and the error is told at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Client, ClientError};

/// For a server that says when to come again, where the caller says nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a connection that broke, or a proxy whose server does not answer.
const BRIEFLY: Duration = Duration::from_secs(3);
/// For an address at which nobody listens: as long as a restart takes. It may as well be wrong.
const CONNECTING_MAX: Duration = Duration::from_secs(10);
/// Between tries where the server does not say, at first and at most.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

type Told = Arc<dyn Fn(&ClientError, Duration) + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Patience {
    pub(crate) busy: Duration,
    connecting: Duration,
    told: Option<Told>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { busy: PATIENCE, connecting: Duration::ZERO, told: None }
    }
}

impl Patience {
    pub(crate) fn tell(&self, error: &ClientError, wait: Duration) {
        if let Some(told) = &self.told {
            told(error, wait);
        }
    }
}

impl Client {
    /// Waits for so long in all when the server says to come again (429, 503), and for some of it when nobody listens at its
    /// address. Without this a call waits ten seconds at most, and not at all for a server that is not there.
    pub fn with_patience(mut self, total: Duration) -> Client {
        self.patience.busy = total;
        self.patience.connecting = total.min(CONNECTING_MAX);
        self
    }

    /// Is told of every wait: why, and for how long.
    pub fn on_wait(mut self, told: impl Fn(&ClientError, Duration) + Send + Sync + 'static) -> Client {
        self.patience.told = Some(Arc::new(told));
        self
    }

    pub(crate) fn tries(&self) -> Tries {
        Tries { patience: self.patience.clone(), began: None, wait: AGAIN }
    }
}

/// Why a request that failed may succeed in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    Never,
    Briefly,
    /// The server is there, and asks for another time.
    Busy,
    /// Nobody listens, so that nothing was sent.
    Connecting,
}

/// The tries of one call.
pub(crate) struct Tries {
    patience: Patience,
    began: Option<Instant>,
    wait: Duration,
}

impl Tries {
    /// Waits before the next try, or gives the error back where there shall be none.
    pub(crate) async fn wait(&mut self, error: ClientError) -> Result<(), ClientError> {
        let bound = match error.passing() {
            Passing::Never => return Err(error),
            Passing::Briefly => BRIEFLY.max(self.patience.connecting),
            Passing::Busy => self.patience.busy,
            Passing::Connecting => self.patience.connecting,
        };
        let wait = error.retry_after().unwrap_or(self.wait).max(AGAIN);
        let passed = self.began.get_or_insert_with(Instant::now).elapsed();
        if wait > bound.saturating_sub(passed) {
            return Err(error);
        }
        self.patience.tell(&error, wait);
        tokio::time::sleep(wait).await;
        self.wait = (self.wait * 2).min(AGAIN_MAX);
        Ok(())
    }

    /// Something went on: what fails from now on is another failure.
    pub(crate) fn reset(&mut self) {
        (self.began, self.wait) = (None, AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::testing::{Scripted, answer};

    const NOW: [(&str, &str); 1] = [("retry-after", "0")];

    #[tokio::test]
    async fn what_the_server_puts_off_is_asked_for_again_with_the_same_idempotency_key() {
        let busy = r#"{"code":"rate_limited","detail":"slow down"}"#;
        let in_flight = r#"{"code":"idempotency_in_flight"}"#;
        let answers = [(429, busy), (503, ""), (409, in_flight), (201, r#"{"id":"job_1"}"#)];
        let served = Scripted::start(answers.map(|(status, body)| answer(status, &NOW, body))).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let notes = told.clone();
        let client = served.client().on_wait(move |error, _| notes.lock().unwrap().push(error.status()));
        let job = client.submit("x: 1".to_owned(), &[]).await.unwrap();
        assert_eq!(job["id"], "job_1");
        let keys: Vec<String> =
            served.seen().iter().map(|request| request.header("idempotency-key").to_owned()).collect();
        assert!(keys.len() == 4 && !keys[0].is_empty() && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(*told.lock().unwrap(), [Some(429), Some(503), Some(409)]);
    }

    #[tokio::test]
    async fn a_time_behind_the_patience_is_not_waited_for_and_the_refusal_is_told() {
        let served = Scripted::start([answer(429, &[("retry-after", "3600")], r#"{"detail":"come tomorrow"}"#)]).await;
        let refused = served.client().with_patience(Duration::from_secs(120)).jobs(&[]).await.unwrap_err();
        assert_eq!((refused.to_string().as_str(), served.seen().len()), ("come tomorrow", 1));
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_asked_once() {
        for status in [400, 404, 409, 422, 500, 507] {
            let served = Scripted::start([answer(status, &NOW, "{}")]).await;
            assert_eq!(served.client().job("job_1").await.unwrap_err().status(), Some(status));
            assert_eq!(served.seen().len(), 1, "{status}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_put_off_is_opened_later() {
        let many = r#"{"code":"too_many_streams"}"#;
        let end = "event: end\ndata: {\"status\":\"succeeded\"}\n\n";
        let served = Scripted::start([answer(429, &NOW, many), answer(503, &NOW, ""), answer(200, &[], end)]).await;
        let mut watch = served.client().watch("job_1");
        assert_eq!(watch.next().await.unwrap().unwrap().data, json!({"status": "succeeded"}));
        assert_eq!(watch.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_server_that_starts_again_is_waited_for_by_whoever_has_patience() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(&format!("http://{address}")).unwrap();
        assert!(matches!(client.jobs(&[]).await, Err(ClientError::Unreachable { .. })));
        // it comes when the client has found nobody
        let (missed, mut misses) = tokio::sync::mpsc::unbounded_channel();
        let patient = client.with_patience(Duration::from_secs(60)).on_wait(move |_, _| missed.send(()).unwrap());
        let served = async move {
            misses.recv().await.unwrap();
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let router = axum::Router::new().fallback(async || r#"{"data":[]}"#);
            tokio::spawn(async move { axum::serve(listener, router).await });
        };
        let (jobs, ()) = tokio::join!(patient.jobs(&[]), served);
        assert_eq!(jobs.unwrap(), json!({"data": []}));
    }
}
