//! What `DELETE /v1/jobs/{id}?artifacts=true` does before the job is forgotten: its artifact goes.
//!
//! Invariant: the job is there until its artifact is gone, so whoever asks again after a crash has the rest removed.

use std::path::PathBuf;

use checkpoint::{WithdrawError, Withdrawal, Withdrawn};
use jobs::{Job, JobId};

use crate::Api;
use crate::artifacts::place_of;
use crate::problem::{Code, Problem, Result};

/// Removes what the job has published. What is gone already, or was never there, is no error.
pub(crate) async fn remove_artifact(api: &Api, job: &Job) -> Result<()> {
    let Some((path, manifest_sha256, files)) = place_of(job) else { return Ok(()) };
    assert_unshared(api, job).await?;
    let (roots, mark) = (roots(api, job, &path), job.id.to_string());
    let take = move || {
        Withdrawal { path: &path, manifest_sha256: &manifest_sha256, files: &files, mark: &mark }.take_aside(&roots)
    };
    let Some(taken) = blocking(job, take).await? else { return Ok(()) };
    // a job that was about to reuse it may have done so, and finds it where it was
    if let Err(shared) = assert_unshared(api, job).await {
        blocking(job, || taken.put_back()).await?;
        return Err(shared);
    }
    blocking(job, || Withdrawn::remove(taken)).await
}

async fn assert_unshared(api: &Api, job: &Job) -> Result<()> {
    let Some(other) = api.store.sharing(job).await? else { return Ok(()) };
    let detail = format!(
        "job {other} has the same artifact as job {}; delete one of them without `artifacts=true` first",
        job.id
    );
    Err(Problem::new(Code::ArtifactShared, detail))
}

/// Where the job may have published: below the output roots of its tenant, or where jobs without an output go.
fn roots(api: &Api, job: &Job, path: &std::path::Path) -> Vec<PathBuf> {
    let config = &api.config;
    let mut roots = config.outputs.of_tenant(&job.tenant).roots().to_vec();
    let artifacts = config.artifacts();
    let is_of_job = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| JobId::parse(name).is_ok());
    if is_of_job && path.parent() == Some(artifacts.as_path()) {
        roots.push(artifacts);
    }
    roots
}

async fn blocking<T: Send + 'static>(
    job: &Job,
    work: impl FnOnce() -> Result<T, WithdrawError> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(Problem::of_task)?;
    done.map_err(|error| match error {
        WithdrawError::Io(_) => Problem::internal().because(error),
        WithdrawError::Elsewhere | WithdrawError::Linked | WithdrawError::Other | WithdrawError::Added => {
            let detail = format!(
                "the artifact of job {} is not removed, since {error}; remove it by hand, and delete the job without `artifacts=true`",
                job.id
            );
            Problem::new(Code::ArtifactNotRemovable, detail)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use axum::http::Method;
    use jobs::{Outcome, Scope};
    use serde_json::json;

    use crate::testing::{Answer, Fixture};

    const MANIFEST: &str = "{\"outputs\": []}";

    fn write(dir: &Path) {
        std::fs::create_dir_all(dir.join("stages")).unwrap();
        std::fs::write(dir.join("manifest.json"), MANIFEST).unwrap();
        std::fs::write(dir.join("stages/model.safetensors"), "0").unwrap();
    }

    /// A job of a tenant that says it has published at this place.
    async fn publish(fixture: &Fixture, key: &str, dir: &Path) -> String {
        let id = fixture.submit_as(key).await;
        let lease = fixture.claim().await;
        fixture.store.set_plan_digest(&lease, "plan").await.unwrap();
        let publication = json!({"uri": format!("file://{}", dir.display()), "plan_digest": "plan", "bytes": 1,
            "files": [{"path": "stages/model.safetensors", "bytes": 1, "sha256": "0"}],
            "manifest_sha256": checkpoint::digest_bytes(MANIFEST.as_bytes())});
        fixture.store.finish(&lease, Outcome::Succeeded { publication, published: None }).await.unwrap();
        id
    }

    async fn delete(fixture: &Fixture, key: &str, id: &str, query: &str) -> Answer {
        fixture.send(Method::DELETE, &format!("/v1/jobs/{id}{query}"), &[("authorization", key)], "").await
    }

    fn refusal(answer: &Answer) -> (u16, String) {
        (answer.status, answer.json()["code"].as_str().unwrap().to_owned())
    }

    async fn fixture() -> (Fixture, String, PathBuf) {
        let fixture = Fixture::new().await;
        let key = fixture.key("a", &Scope::ALL).await;
        let root = fixture.path().join("out/a");
        (fixture, key, root)
    }

    #[tokio::test]
    async fn an_artifact_goes_with_its_job_only_where_that_is_asked_for() {
        let (fixture, key, root) = fixture().await;
        write(&root.join("one"));
        let first = publish(&fixture, &key, &root.join("one")).await;
        assert_eq!(
            refusal(&delete(&fixture, &key, &first, "?artefacts=true").await),
            (400, "invalid_query".to_owned())
        );
        assert_eq!(delete(&fixture, &key, &first, "?artifacts=false").await.status, 204);
        assert!(root.join("one/stages/model.safetensors").exists());
        let second = publish(&fixture, &key, &root.join("one")).await;
        assert_eq!(delete(&fixture, &key, &second, "?artifacts=true").await.status, 204);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(delete(&fixture, &key, &second, "?artifacts=true").await.status, 404);
        // gone already
        let third = publish(&fixture, &key, &root.join("one")).await;
        assert_eq!(delete(&fixture, &key, &third, "?artifacts=true").await.status, 204);
        let log =
            fixture.send(Method::GET, "/v1/audit?action=job.deleted", &[("authorization", &key)], "").await.json();
        assert_eq!(log["data"].as_array().unwrap().len(), 3, "{log}");
    }

    #[tokio::test]
    async fn where_jobs_without_an_output_go_theirs_alone_is_removed() {
        let (fixture, key, _) = fixture().await;
        let artifacts = fixture.path().join("artifacts");
        for (name, status) in [("job", 409), (jobs::JobId::generate().as_str(), 204)] {
            write(&artifacts.join(name));
            let id = publish(&fixture, &key, &artifacts.join(name)).await;
            assert_eq!(delete(&fixture, &key, &id, "?artifacts=true").await.status, status, "{name}");
            assert_eq!(artifacts.join(name).exists(), status == 409, "{name}");
        }
    }

    #[tokio::test]
    async fn an_artifact_that_another_job_has_too_stays() {
        let (fixture, key, root) = fixture().await;
        write(&root.join("one"));
        let first = publish(&fixture, &key, &root.join("one")).await;
        let reused = publish(&fixture, &key, &root.join("one")).await;
        let refused = delete(&fixture, &key, &first, "?artifacts=true").await;
        assert_eq!(refusal(&refused), (409, "artifact_shared".to_owned()));
        assert!(refused.json()["detail"].as_str().unwrap().contains(&reused), "{}", refused.text());
        assert!(root.join("one/manifest.json").exists());
        assert_eq!(
            fixture.send(Method::GET, &format!("/v1/jobs/{first}"), &[("authorization", &key)], "").await.status,
            200
        );
        assert_eq!(delete(&fixture, &key, &first, "").await.status, 204);
        assert_eq!(delete(&fixture, &key, &reused, "?artifacts=true").await.status, 204);
        assert!(!root.join("one").exists());
    }

    #[tokio::test]
    async fn nothing_is_removed_that_the_job_has_not_published_in_its_tenants_outputs() {
        let (fixture, key, root) = fixture().await;
        for dir in ["out/a/other", "out/b/one", "elsewhere", "models/c", "out/c"] {
            write(&fixture.path().join(dir));
        }
        std::fs::write(root.join("other/manifest.json"), "{}").unwrap();
        std::os::unix::fs::symlink(fixture.path().join("elsewhere"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(fixture.path(), root.join("above")).unwrap();
        for dir in [
            "out/a/other",
            "out/b/one",
            "elsewhere",
            "models/c",
            "out/c",
            "out/a/link",
            "out/a/above/elsewhere",
            "out/a/../b/one",
        ] {
            let dir = fixture.path().join(dir);
            let id = publish(&fixture, &key, &dir).await;
            let refused = delete(&fixture, &key, &id, "?artifacts=true").await;
            assert_eq!(refusal(&refused), (409, "artifact_not_removable".to_owned()), "{}", dir.display());
            assert!(dir.join("stages/model.safetensors").exists(), "{}", dir.display());
            assert_eq!(delete(&fixture, &key, &id, "").await.status, 204);
        }
    }

    #[tokio::test]
    async fn a_job_that_is_not_over_or_has_no_artifact_is_as_ever() {
        let (fixture, key, _) = fixture().await;
        let id = fixture.submit_as(&key).await;
        let early = delete(&fixture, &key, &id, "?artifacts=true").await;
        assert_eq!(refusal(&early), (409, "job_not_finished".to_owned()));
        fixture.send(Method::POST, &format!("/v1/jobs/{id}/cancel"), &[("authorization", &key)], "").await;
        let other = fixture.key("b", &Scope::ALL).await;
        assert_eq!(delete(&fixture, &other, &id, "?artifacts=true").await.status, 404);
        assert_eq!(delete(&fixture, &key, &id, "?artifacts=true").await.status, 204);
    }
}
