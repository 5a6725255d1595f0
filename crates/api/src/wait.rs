//! `Prefer: wait=N` (RFC 7240): an answer is held until the job is over, or so many seconds have passed. It always tells how the
//! job stands then.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use jobs::{GroupId, Job, JobId};
use tokio::time::Instant;

use crate::Api;
use crate::limits::WAIT_SECONDS_MAX;
use crate::problem::Result;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Writes of other processes are not heard of at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a client is ready to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(u64);

impl Wait {
    /// `None` where nothing of it is said, or nothing that can be understood: a preference is never an error.
    pub(crate) fn preferred(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        let mut preferences = values.flat_map(|value| value.split(',')).map(str::trim);
        let wait = preferences.find_map(|preference| {
            let (name, value) = preference.split(';').next()?.split_once('=')?;
            name.trim().eq_ignore_ascii_case("wait").then(|| seconds(value.trim().trim_matches('"')))?
        });
        wait.map(|seconds| Self(seconds.min(WAIT_SECONDS_MAX)))
    }

    /// Says that it was waited.
    pub(crate) fn applied(self, mut response: Response) -> Response {
        if let Ok(value) = HeaderValue::from_str(&format!("wait={}", self.0)) {
            response.headers_mut().insert(PREFERENCE_APPLIED, value);
        }
        response
    }

    /// The job when it is over, or when the time has passed; `None` where it is gone.
    pub(crate) async fn for_job(self, api: &Api, id: &JobId) -> Result<Option<Job>> {
        let until = self.until();
        loop {
            let job = api.store.job(id).await?;
            if job.as_ref().is_none_or(|job| job.status.is_terminal()) || !wait(api, until).await {
                return Ok(job);
            }
        }
    }

    /// As `for_job`, for all jobs of a group.
    pub(crate) async fn for_group(self, api: &Api, id: &GroupId) -> Result<Vec<Job>> {
        let until = self.until();
        loop {
            let jobs = api.store.group(id).await?;
            if jobs.iter().all(|job| job.status.is_terminal()) || !wait(api, until).await {
                return Ok(jobs);
            }
        }
    }

    fn until(self) -> Instant {
        Instant::now() + Duration::from_secs(self.0)
    }
}

/// More than a number can hold is as much as there may be.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Whether there is time for another look.
async fn wait(api: &Api, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() || api.shutdown.is_cancelled() {
        return false;
    }
    tokio::select! {
        () = api.store.changed(left.min(LOOK_EVERY)) => {}
        () = api.shutdown.cancelled() => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::testing::{Fixture, RECIPE, VARIANTS, YAML};

    #[test]
    fn a_preference_is_read_or_let_be() {
        let preferred = |value: &str| {
            let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_str(value).unwrap())]);
            Wait::preferred(&headers)
        };
        assert_eq!(preferred("wait=5"), Some(Wait(5)));
        assert_eq!(preferred("respond-async, WAIT = \"7\"; foo=1"), Some(Wait(7)));
        for long in ["wait=999999", "wait=18446744073709551616", "wait=99999999999999999999999999"] {
            assert_eq!(preferred(long), Some(Wait(WAIT_SECONDS_MAX)), "{long}");
        }
        for other in ["", "wait", "wait=", "wait=-1", "wait=+1", "wait=1.5", "wait=1s", "return=minimal"] {
            assert_eq!(preferred(other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_held_until_the_job_is_over() {
        let fixture = Fixture::new().await;
        let headers = [("content-type", YAML), ("prefer", "wait=20")];
        let finish = async {
            let lease = loop {
                match fixture.store.claim(&jobs::WorkerId::generate("late"), Duration::from_secs(60)).await.unwrap() {
                    Some(lease) => break lease,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            fixture.succeed(&lease).await;
        };
        let (answer, ()) = tokio::join!(fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE), finish);
        assert_eq!((answer.status, answer.json()["status"].as_str()), (201, Some("succeeded")));
        assert_eq!(answer.header("preference-applied"), "wait=20");
        let path = answer.header("location").to_owned();
        let again = fixture.send(Method::GET, &path, &[("prefer", "wait=20")], "").await;
        assert_eq!((again.status, again.json()["status"].as_str()), (200, Some("succeeded")));
    }

    #[tokio::test]
    async fn the_time_is_kept_and_the_job_is_told_as_it_stands() {
        let fixture = Fixture::new().await;
        let headers = [("content-type", YAML), ("prefer", "wait=1")];
        for recipe in [RECIPE, VARIANTS] {
            let started = Instant::now();
            let answer = fixture.send(Method::POST, "/v1/jobs", &headers, recipe).await;
            assert_eq!((answer.status, answer.json()["status"].as_str()), (201, Some("queued")));
            assert_eq!(answer.header("preference-applied"), "wait=1");
            assert!(started.elapsed() >= Duration::from_secs(1));
        }
        assert_eq!(fixture.get("/v1/jobs").await.header("preference-applied"), "");
    }
}
