//! Requests with an `Idempotency-Key` that this server is working on. A second one with the same key could only do the same work
//! once more, to be told at its end that there is a job already.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::problem::{Code, Problem, Result};

/// When the first request is likely to be answered.
const RETRY_AFTER_SECONDS: u64 = 1;

#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<String>>>);

/// That a key is worked on, until it is dropped with the request.
pub(crate) struct Mark {
    in_flight: InFlight,
    key: String,
}

impl InFlight {
    /// `key` is one of its tenant.
    pub(crate) fn begin(&self, key: &str) -> Result<Mark> {
        if self.keys().insert(key.to_owned()) {
            return Ok(Mark { in_flight: self.clone(), key: key.to_owned() });
        }
        let detail = "a request with this Idempotency-Key is being worked on; ask again to be told what it came to";
        Err(Problem::new(Code::IdempotencyInFlight, detail).retry_after(RETRY_AFTER_SECONDS))
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<String>> {
        // a set is whole after each step, also of a thread that panicked
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.in_flight.keys().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, extract::Request};
    use jobs::Scope;
    use tokio::task::JoinHandle;
    use tower::ServiceExt;

    use crate::Api;
    use crate::limits::PLANS_AT_ONCE_MAX;
    use crate::testing::{Answer, Fixture, PATIENCE, RECIPE, YAML};

    /// A server on which a recipe waits to be planned for as long as the test likes.
    struct Server {
        api: Api,
        router: Router,
    }

    impl Server {
        fn of(fixture: &Fixture) -> Self {
            let api = fixture.api();
            Self { router: crate::router(api.clone()), api }
        }

        fn post(&self, key: &str, prefer: &str) -> JoinHandle<Answer> {
            self.post_recipe(RECIPE, key, prefer)
        }

        fn post_recipe(&self, recipe: &'static str, key: &str, prefer: &str) -> JoinHandle<Answer> {
            let request = Request::post("/v1/jobs").header("host", "localhost").header("content-type", YAML);
            let request = request.header("idempotency-key", "k").header("authorization", key).header("prefer", prefer);
            let answer = self.router.clone().oneshot(request.body(Body::from(recipe)).unwrap());
            tokio::spawn(async { Answer::of(answer.await.unwrap()).await })
        }

        async fn has_in_flight(&self, count: usize) {
            let reached = async {
                while self.api.in_flight.keys().len() != count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, reached).await.expect("as many are in flight");
        }
    }

    #[tokio::test]
    async fn a_request_whose_key_is_worked_on_is_told_to_ask_again_and_then_replayed() {
        let fixture = Fixture::new().await;
        let (server, key) = (Server::of(&fixture), fixture.key("a", &Scope::ALL).await);
        let no_planning = server.api.planning.acquire_many(PLANS_AT_ONCE_MAX as u32).await.unwrap();
        let first = server.post(&key, "");
        server.has_in_flight(1).await;
        let second = server.post(&key, "").await.unwrap();
        assert_eq!((second.status, second.header("retry-after")), (409, "1"));
        insta::with_settings!({filters => vec![(r"[0-9a-f-]{36}", "[request id]")]}, {
            insta::assert_json_snapshot!(second.json())
        });
        // the same key is another's, too
        let other = server.post(&fixture.key("b", &Scope::ALL).await, "");
        server.has_in_flight(2).await;
        drop(no_planning);
        let first = first.await.unwrap();
        assert_eq!((first.status, other.await.unwrap().status), (201, 201));
        server.has_in_flight(0).await;
        let third = server.post(&key, "").await.unwrap();
        assert_eq!((third.status, third.header("idempotent-replayed")), (201, "true"));
        assert_eq!(third.json()["id"], first.json()["id"]);
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_or_refused_stands_in_nobodys_way() {
        let fixture = Fixture::new().await;
        let server = Server::of(&fixture);
        let no_planning = server.api.planning.acquire_many(PLANS_AT_ONCE_MAX as u32).await.unwrap();
        let first = server.post("", "");
        server.has_in_flight(1).await;
        // as when its client hangs up
        first.abort();
        assert!(first.await.is_err_and(|error| error.is_cancelled()));
        server.has_in_flight(0).await;
        drop(no_planning);
        for _ in 0..2 {
            assert_eq!(server.post_recipe("{}", "", "").await.unwrap().status, 422);
        }
        assert_eq!(server.post("", "").await.unwrap().status, 201);
    }

    #[tokio::test]
    async fn a_request_that_only_waits_for_its_job_is_replayed_already() {
        let fixture = Fixture::new().await;
        let server = Server::of(&fixture);
        let first = server.post("", "wait=60");
        while fixture.count().await == 0 {
            tokio::task::yield_now().await;
        }
        server.has_in_flight(0).await;
        let second = server.post("", "").await.unwrap();
        assert_eq!((second.status, second.header("idempotent-replayed")), (201, "true"));
        assert!(!first.is_finished());
        first.abort();
    }
}
