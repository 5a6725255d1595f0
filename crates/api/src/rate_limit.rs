//! How often an API key may ask. Every answer to a key says what it has left, in the fields of the IETF draft
//! "RateLimit header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers-10).
//!
//! A key saves up a minute's requests and gets one back every sixtieth of a minute's number (GCRA): of each quota one time is
//! kept, that at which it is whole again. Each server counts for itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::caller::Caller;
use crate::problem::{Code, Problem};
use crate::{Api, ApiLimits};

pub(crate) const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Keys that are counted at once. Of more, those are forgotten that have most left: a key can come to more than its quota then,
/// and no more than that.
const KEYS_MAX: usize = 10_000;

const WINDOW_SECONDS: u64 = 60;

/// The time since some moment; it never goes back.
pub(crate) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

pub(crate) fn since_start() -> Clock {
    let start = Instant::now();
    Arc::new(move || start.elapsed())
}

pub(crate) async fn rate_limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let key = match request.extensions().get::<Caller>() {
        Some(caller) if !caller.key.is_empty() => caller.key.clone(),
        // an open route, or a server that asks for no key: there is nobody to count for
        _ => return next.run(request).await,
    };
    let standing = api.limiter.take(&key, is_submit(&request), (api.clock)());
    let mut response = match standing.refused() {
        None => next.run(request).await,
        Some(problem) => problem.into_response(),
    };
    standing.tell(&mut response);
    response
}

/// What costs a plan.
fn is_submit(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    request.method() == Method::POST && matches!(path, Some("/v1/jobs" | "/v1/plans" | "/v1/jobs/{id}/retry"))
}

/// What every key of this server has used.
pub(crate) struct Limiter {
    /// Of all requests, and of submits.
    quotas: [Quota; 2],
    keys: Mutex<HashMap<String, WholeAt>>,
}

/// When each quota of a key is whole again.
type WholeAt = [Duration; 2];

impl Limiter {
    pub(crate) fn new(limits: &ApiLimits) -> Self {
        let quota = |name, max: u32| Quota { name, max: max.max(1) };
        let quotas =
            [quota("requests", limits.requests_per_minute_max), quota("submits", limits.submits_per_minute_max)];
        Self { quotas, keys: Mutex::default() }
    }

    /// Counts a request against each quota that it needs, or against none if one of them refuses it.
    pub(crate) fn take(&self, key: &str, is_submit: bool, now: Duration) -> Standing {
        let quotas = &self.quotas[..if is_submit { 2 } else { 1 }];
        // what is kept is whole after each step, also of one that panicked
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let before = keys.get(key).copied().unwrap_or_default();
        let mut after = before;
        after.iter_mut().zip(quotas).for_each(|(whole_at, quota)| *whole_at = quota.after_one(*whole_at, now));
        let refuses = |(quota, whole_at): (&Quota, &Duration)| *whole_at - now > quota.most();
        let refusing: Vec<bool> = quotas.iter().zip(&after).map(refuses).collect();
        let is_refused = refusing.contains(&true);
        if !is_refused {
            make_room(&mut keys, key, now);
            keys.insert(key.to_owned(), after);
        }
        let left = if is_refused { before } else { after };
        let quotas = quotas.iter().zip(left).zip(refusing);
        Standing { quotas: quotas.map(|((quota, at), is_refused)| quota.standing(at, is_refused, now)).collect() }
    }
}

fn make_room(keys: &mut HashMap<String, WholeAt>, key: &str, now: Duration) {
    if keys.len() < KEYS_MAX || keys.contains_key(key) {
        return;
    }
    // a key that has all of its quotas is as good as one that was never seen
    keys.retain(|_, whole_at| whole_at.iter().any(|at| *at > now));
    if keys.len() < KEYS_MAX {
        return;
    }
    let least = keys.iter().min_by_key(|(_, whole_at)| whole_at.iter().max().copied());
    if let Some(least) = least.map(|(key, _)| key.clone()) {
        keys.remove(&least);
    }
}

/// So many a minute.
#[derive(Debug, Clone, Copy)]
struct Quota {
    name: &'static str,
    max: u32,
}

impl Quota {
    /// After so long one more is there.
    fn every(self) -> Duration {
        Duration::from_secs(WINDOW_SECONDS) / self.max
    }

    /// Until one that is used up is whole again. A multiple of the step: a number that does not divide a minute is had in full.
    fn most(self) -> Duration {
        self.every() * self.max
    }

    /// When it is whole again if one is taken now.
    fn after_one(self, whole_at: Duration, now: Duration) -> Duration {
        whole_at.max(now) + self.every()
    }

    fn standing(self, whole_at: Duration, is_refused: bool, now: Duration) -> QuotaStanding {
        let missing = whole_at.saturating_sub(now);
        let taken = missing.as_nanos().div_ceil(self.every().as_nanos());
        let left = self.max.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        // whole steps are missing when the next one is there
        let next = missing.saturating_sub(self.every() * (self.max - left).saturating_sub(1));
        QuotaStanding { quota: self, is_refused, left, seconds_to_next: whole_seconds(next).max(1) }
    }
}

/// Rounded up: whoever waits so long has waited long enough.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[derive(Debug, Clone, Copy)]
struct QuotaStanding {
    quota: Quota,
    is_refused: bool,
    left: u32,
    /// Until there is one more than `left`.
    seconds_to_next: u64,
}

/// How a key stands after a request.
#[derive(Debug)]
pub(crate) struct Standing {
    quotas: Vec<QuotaStanding>,
}

impl Standing {
    fn refused(&self) -> Option<Problem> {
        let refusing = self.quotas.iter().filter(|quota| quota.is_refused);
        let longest = refusing.max_by_key(|quota| quota.seconds_to_next)?;
        let QuotaStanding { quota: Quota { name, max }, seconds_to_next, .. } = *longest;
        let detail = format!("this key may make {max} {name} a minute; try again in {seconds_to_next} s");
        Some(Problem::new(Code::RateLimited, detail).retry_after(seconds_to_next))
    }

    fn tell(&self, response: &mut Response) {
        let policy = self.list(|it| format!("\"{}\";q={};w={WINDOW_SECONDS}", it.quota.name, it.quota.max));
        let left = self.list(|it| format!("\"{}\";r={};t={}", it.quota.name, it.left, it.seconds_to_next));
        for (name, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, left)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
    }

    fn list(&self, item: impl Fn(&QuotaStanding) -> String) -> String {
        self.quotas.iter().map(item).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use jobs::Scope;
    use serde_json::json;

    use super::*;
    use crate::testing::{self, Answer, Fixture, RECIPE, YAML};

    fn per_minute(requests: u32, submits: u32) -> ApiLimits {
        ApiLimits { requests_per_minute_max: requests, submits_per_minute_max: submits, ..testing::limits() }
    }

    fn limiter(requests: u32, submits: u32) -> Limiter {
        Limiter::new(&per_minute(requests, submits))
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// How many of `asked` requests at this time are allowed.
    fn allowed(limiter: &Limiter, asked: u32, now: Duration) -> u32 {
        (0..asked).filter(|_| limiter.take("k", false, now).refused().is_none()).count() as u32
    }

    #[test]
    fn a_minute_has_as_many_requests_as_it_says_whatever_their_number() {
        for max in [1, 7, 60, 999, 1200, 100_000] {
            let limiter = limiter(max, 1);
            assert_eq!(allowed(&limiter, max + 1, Duration::ZERO), max);
            // what comes back comes evenly, and no more than a minute's is saved up
            assert_eq!(allowed(&limiter, max + 1, ms(60_000)), max, "{max}");
            assert_eq!(allowed(&limiter, max, ms(90_000)), max / 2, "{max}");
            assert_eq!(allowed(&limiter, max + 1, ms(10 * 60_000)), max, "{max}");
        }
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_answered_and_sooner_is_not() {
        let limiter = limiter(20, 3);
        for _ in 0..3 {
            assert!(limiter.take("k", true, ms(500)).refused().is_none());
        }
        let refused = limiter.take("k", true, ms(1000));
        assert_eq!(refused.quotas[1].seconds_to_next, 20);
        // a refused request is counted against nothing
        assert_eq!(refused.quotas[0].left, 17);
        assert!(limiter.take("k", true, ms(20_499)).refused().is_some());
        assert!(limiter.take("k", true, ms(21_000)).refused().is_none());
        // other keys have their own
        assert!(limiter.take("other", true, ms(21_000)).refused().is_none());
    }

    #[test]
    fn a_limiter_keeps_a_bounded_number_of_keys_and_those_that_are_used_up_longest() {
        let limiter = limiter(2, 1);
        limiter.take("spent", false, ms(1));
        limiter.take("spent", false, ms(1));
        for i in 0..KEYS_MAX + 10 {
            limiter.take(&format!("key {i}"), false, ms(1));
        }
        assert_eq!(limiter.keys.lock().unwrap().len(), KEYS_MAX);
        assert!(limiter.take("spent", false, ms(1)).refused().is_some());
        // a minute later they all have their quotas back, and are as good as never seen
        limiter.take("late", false, ms(60_002));
        assert_eq!(limiter.keys.lock().unwrap().len(), 1);
    }

    async fn get(fixture: &Fixture, key: &str, path: &str) -> Answer {
        fixture.send(Method::GET, path, &[("authorization", key)], "").await
    }

    #[tokio::test]
    async fn every_answer_to_a_key_says_what_is_left() {
        let fixture = Fixture::with_limits(per_minute(1200, 60)).await;
        let key = fixture.key("a", &[Scope::JobsRead]).await;
        let cases = [
            (Method::GET, "/v1/jobs", 200, "\"requests\";r=1199;t=1"),
            (Method::GET, "/v1/jobs/job_1", 404, "\"requests\";r=1198;t=1"),
            (Method::GET, "/v1/workers", 403, "\"requests\";r=1197;t=1"),
            (Method::PUT, "/v1/jobs", 405, "\"requests\";r=1196;t=1"),
            (Method::GET, "/v1/jobs?limit=many", 400, "\"requests\";r=1195;t=1"),
            (Method::POST, "/v1/jobs", 403, "\"requests\";r=1194;t=1, \"submits\";r=59;t=1"),
            (Method::POST, "/v1/plans", 403, "\"requests\";r=1193;t=1, \"submits\";r=58;t=1"),
            (Method::POST, "/v1/jobs/job_1/retry", 403, "\"requests\";r=1192;t=1, \"submits\";r=57;t=1"),
        ];
        for (method, path, status, left) in cases {
            let answer = fixture.send(method.clone(), path, &[("authorization", &key)], "").await;
            assert_eq!((answer.status, answer.header("ratelimit")), (status, left), "{method} {path}");
            let policy = match left.contains("submits") {
                true => "\"requests\";q=1200;w=60, \"submits\";q=60;w=60",
                false => "\"requests\";q=1200;w=60",
            };
            assert_eq!(answer.header("ratelimit-policy"), policy, "{method} {path}");
        }
        fixture.advance(ms(100));
        assert_eq!(get(&fixture, &key, "/v1/jobs").await.header("ratelimit"), "\"requests\";r=1193;t=1");
    }

    #[tokio::test]
    async fn a_key_that_asks_too_often_is_told_when_to_come_back() {
        let fixture = Fixture::with_limits(per_minute(3, 60)).await;
        let (key, other) = (fixture.key("a", &Scope::ALL).await, fixture.key("a", &Scope::ALL).await);
        for _ in 0..3 {
            assert_eq!(get(&fixture, &key, "/v1/jobs").await.status, 200);
        }
        fixture.advance(ms(4_500));
        let answer = get(&fixture, &key, "/v1/jobs").await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, "16"));
        assert_eq!(answer.header("ratelimit"), "\"requests\";r=0;t=16");
        assert_eq!(answer.header("ratelimit-policy"), "\"requests\";q=3;w=60");
        insta::with_settings!({filters => vec![(r"[0-9a-f-]{36}", "[request id]")]}, {
            insta::assert_json_snapshot!(answer.json())
        });
        assert_eq!(get(&fixture, &other, "/v1/jobs").await.status, 200);
        fixture.advance(Duration::from_secs(16));
        assert_eq!(get(&fixture, &key, "/v1/jobs").await.status, 200);
    }

    #[tokio::test]
    async fn submits_have_a_limit_of_their_own() {
        let fixture = Fixture::with_limits(per_minute(1200, 2)).await;
        let key = fixture.key("a", &Scope::ALL).await;
        let headers = [("authorization", key.as_str()), ("content-type", YAML)];
        for path in ["/v1/jobs", "/v1/plans"] {
            assert!(fixture.send(Method::POST, path, &headers, RECIPE).await.status < 300);
        }
        for path in ["/v1/jobs", "/v1/plans", "/v1/jobs/job_1/retry"] {
            let answer = fixture.send(Method::POST, path, &headers, RECIPE).await;
            assert_eq!((answer.status, answer.header("retry-after")), (429, "30"), "{path}");
            assert_eq!(answer.header("ratelimit"), "\"requests\";r=1198;t=1, \"submits\";r=0;t=30");
            assert_eq!(answer.json()["code"], json!("rate_limited"));
        }
        assert_eq!(get(&fixture, &key, "/v1/jobs").await.status, 200);
    }

    #[tokio::test]
    async fn who_has_no_key_is_not_counted() {
        let fixture = Fixture::with_limits(per_minute(1, 1)).await;
        for _ in 0..3 {
            let answer = fixture.post("/v1/plans", RECIPE).await;
            assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, ""));
        }
        let key = fixture.key("a", &Scope::ALL).await;
        for _ in 0..3 {
            for path in ["/healthz", "/readyz", "/version", "/openapi.yaml", "/"] {
                let answer = get(&fixture, &key, path).await;
                assert_eq!((answer.status, answer.header("ratelimit")), (200, ""), "{path}");
            }
            assert_eq!(fixture.get("/v1/jobs").await.status, 401);
        }
        assert_eq!(get(&fixture, &key, "/v1/jobs").await.status, 200);
        assert_eq!(get(&fixture, &key, "/v1/jobs").await.status, 429);
    }
}
