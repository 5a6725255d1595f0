//! No job is accepted while the disk of the data directory is nearly full: it would only fail later, and take others with it.

use std::{path::Path, time::Duration};

use crate::Api;
use crate::problem::{Code, Problem, Result};

/// A disk that hangs is as good as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// For a submit: 507.
pub(crate) async fn has_room(api: &Api) -> Result<()> {
    below_floor(api).await.map_or(Ok(()), |detail| Err(Problem::new(Code::InsufficientStorage, detail)))
}

/// For whoever asks whether the server is ready: 503.
pub(crate) async fn is_ready(api: &Api) -> Result<()> {
    below_floor(api).await.map_or(Ok(()), |detail| Err(Problem::new(Code::Unavailable, detail)))
}

async fn below_floor(api: &Api) -> Option<String> {
    let config = api.config.clone();
    let available = tokio::task::spawn_blocking(move || available(&config.data_dir));
    let Ok(available) = tokio::time::timeout(ANSWER_WITHIN, available).await else {
        return Some("the disk of the data directory does not answer".to_owned());
    };
    // where it cannot be told, whoever writes finds out
    let available = available.ok()??;
    let floor = api.config.limits.disk_floor_bytes;
    (available < floor).then(|| {
        format!("the disk of the data directory has {available} bytes left, and no job is accepted below {floor}")
    })
}

fn available(dir: &Path) -> Option<u64> {
    // made by whoever is the first to write to it
    let exists = dir.ancestors().find(|dir| dir.exists())?;
    let space = rustix::fs::statvfs(exists).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::Value;

    use crate::ApiLimits;
    use crate::testing::{Answer, Fixture, RECIPE, VARIANTS, YAML};

    /// As on a disk that is nearly full: no disk has so much.
    async fn full() -> Fixture {
        Fixture::with_limits(ApiLimits { disk_floor_bytes: u64::MAX, ..ApiLimits::default() }).await
    }

    fn told(name: &str, answer: &Answer) -> Value {
        insta::with_settings!({filters => vec![
            (r"[0-9a-f-]{36}", "[request id]"), (r"has \d+ bytes", "has [some] bytes"),
        ]}, { insta::assert_json_snapshot!(name, answer.json()) });
        answer.json()["code"].clone()
    }

    #[tokio::test]
    async fn nothing_is_accepted_on_a_disk_that_is_nearly_full() {
        let fixture = full().await;
        for (path, recipe) in [("/v1/jobs", RECIPE), ("/v1/jobs", VARIANTS), ("/v1/plans", RECIPE)] {
            let answer = fixture.post(path, recipe).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (507, Some("insufficient_storage")), "{path}");
        }
        assert_eq!(told("refused", &fixture.post("/v1/jobs", RECIPE).await), "insufficient_storage");
        assert_eq!(fixture.count().await, 0);
    }

    #[tokio::test]
    async fn what_was_accepted_before_is_answered_and_not_done_again() {
        let fixture = Fixture::new().await;
        let headers = [("content-type", YAML), ("idempotency-key", "k")];
        let job = fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.json();
        let path = job["links"]["self"].as_str().unwrap();
        fixture.post(&format!("{path}/cancel"), "").await;
        let fixture = fixture.again_with(ApiLimits { disk_floor_bytes: u64::MAX, ..ApiLimits::default() });
        assert_eq!(fixture.send(Method::POST, "/v1/jobs", &headers, RECIPE).await.json()["id"], job["id"]);
        assert_eq!(fixture.get(path).await.status, 200);
        assert_eq!(fixture.post(&format!("{path}/retry"), "").await.status, 507);
    }

    #[tokio::test]
    async fn a_server_whose_disk_is_nearly_full_is_not_ready() {
        let fixture = full().await;
        let answer = fixture.get("/readyz").await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
        assert_eq!(told("not_ready", &answer), "unavailable");
        assert_eq!(fixture.get("/healthz").await.status, 200);
    }
}
