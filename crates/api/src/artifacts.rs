//! `GET /v1/jobs/{id}/artifacts`, and the files themselves, in ranges where that is asked for.
//!
//! Invariant: only files that the job's publication names are sent, whatever else lies in their directory.

use std::collections::BTreeSet;
use std::io::SeekFrom;
use std::ops::RangeInclusive;
use std::path::{Path as FilePath, PathBuf};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jobs::Job;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

use crate::Api;
use crate::caller::Caller;
use crate::etag::is_known;
use crate::get_job::find;
use crate::problem::{AnyProblem, Code, Problem, ProblemDocument, Result};

const MANIFEST: &str = "manifest.json";

/// What is read of a file at a time.
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Serialize, ToSchema)]
pub(crate) struct ArtifactList {
    /// Always `list`.
    object: &'static str,
    data: Vec<ArtifactObject>,
    /// Where the artifact is, as a whole.
    uri: String,
    bytes: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Artifact)]
pub(crate) struct ArtifactObject {
    #[schema(example = "model-00001-of-00002.safetensors")]
    path: String,
    /// Null for the manifest, which holds the lengths of the others.
    #[schema(required)]
    bytes: Option<u64>,
    sha256: String,
    /// Where to get it.
    url: String,
}

/// What a worker tells of a publication, as far as it is needed here.
#[derive(Deserialize)]
struct Publication {
    uri: String,
    bytes: u64,
    files: Vec<PublishedFile>,
    manifest_sha256: String,
}

#[derive(Deserialize)]
struct PublishedFile {
    path: String,
    bytes: u64,
    sha256: String,
}

/// List the files of an artifact
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/artifacts",
    tag = "jobs",
    params(("id" = String, Path, description = "The id of the job")),
    responses(
        (status = 200, description = "The files of the merged model, with their digests", body = ArtifactList),
        (status = 404, description = "There is no such job, or it has published nothing", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn list_artifacts(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ArtifactList>> {
    let job = find(&api.store, &caller, &id).await?;
    let published = publication(&job)?;
    let url = |path: &str| format!("/v1/jobs/{}/artifacts/{}", job.id, path.replace('/', "%2F"));
    let file = |file: PublishedFile| ArtifactObject {
        url: url(&file.path),
        path: file.path,
        bytes: Some(file.bytes),
        sha256: file.sha256,
    };
    let manifest = ArtifactObject {
        path: MANIFEST.to_owned(),
        bytes: None,
        sha256: published.manifest_sha256,
        url: url(MANIFEST),
    };
    let data = published.files.into_iter().map(file).chain([manifest]).collect();
    Ok(Json(ArtifactList { object: "list", data, uri: published.uri, bytes: published.bytes }))
}

/// The bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "written down for the documentation")]
pub(crate) struct FileBytes(Vec<u8>);

/// Download a file of an artifact
///
/// A slash in its path is written `%2F`. The `ETag` is the file's SHA-256.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/artifacts/{path}",
    tag = "jobs",
    params(
        ("id" = String, Path, description = "The id of the job"),
        ("path" = String, Path, description = "The path of the file, as the list has it"),
        ("Range" = Option<String>, Header, description = "One range of bytes, as `bytes=0-1023`"),
        ("If-Range" = Option<String>, Header, description = "Send all of the file unless it has this `ETag`"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the file that the client has"),
    ),
    responses(
        (status = 200, description = "The file", body = FileBytes, content_type = "application/octet-stream", headers(
            ("ETag" = String, description = "SHA-256 of the whole file"),
            ("Accept-Ranges" = String, description = "`bytes`"),
        )),
        (status = 206, description = "The range", body = FileBytes, content_type = "application/octet-stream", headers(
            ("Content-Range" = String, description = "Which bytes these are, of how many"),
        )),
        (status = 304, description = "The client has the file"),
        (status = 404, description = "There is no such job or file, or the file was removed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 416, description = "The file has no such range", body = ProblemDocument, content_type = "application/problem+json"),
        AnyProblem,
    )
)]
pub(crate) async fn get_artifact(
    State(api): State<Api>,
    caller: Caller,
    Path((id, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let job = find(&api.store, &caller, &id).await?;
    let (place, bytes, sha256) = place(&job, &path)?;
    let tag = format!("\"{sha256}\"");
    if is_known(&headers, &tag) {
        return Ok(with_tag(StatusCode::NOT_MODIFIED.into_response(), &tag));
    }
    let gone = || Problem::new(Code::ArtifactNotFound, format!("{path:?} of job {id} is not there any more"));
    // no link is followed, and nothing that is no file is waited for
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options().read(true).custom_flags(flags.bits() as i32).open(&place).await;
    let mut file = opened.map_err(|_| gone())?;
    let found = file.metadata().await.map_err(|_| gone())?;
    let length = found.len();
    // another length is another file, and its digest would be a lie
    if !found.is_file() || bytes.is_some_and(|bytes| bytes != length) {
        return Err(gone());
    }
    let range = match range(&headers, &tag, length) {
        Asked::All => None,
        Asked::Range(range) => Some(range),
        Asked::Nowhere => {
            let detail = format!("{path:?} has {length} bytes; the range asked for is not among them");
            let mut response = Problem::new(Code::RangeNotSatisfiable, detail).into_response();
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{length}"));
            return Ok(response);
        }
    };
    let (start, count) = range.as_ref().map_or((0, length), |range| (*range.start(), range.end() - range.start() + 1));
    file.seek(SeekFrom::Start(start)).await.map_err(|_| gone())?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(count), BUFFER_BYTES));
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = with_tag((status, body).into_response(), &tag);
    insert(&mut response, header::CONTENT_LENGTH, &count.to_string());
    insert(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    // never shown by a browser as a page of this server
    insert(&mut response, header::CONTENT_DISPOSITION, "attachment");
    insert(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(range) = range {
        insert(&mut response, header::CONTENT_RANGE, &format!("bytes {}-{}/{length}", range.start(), range.end()));
    }
    Ok(response)
}

fn publication(job: &Job) -> Result<Publication> {
    let published = job.publication.clone().and_then(|publication| serde_json::from_value(publication).ok());
    published.ok_or_else(|| {
        Problem::new(Code::ArtifactNotFound, format!("job {} is {} and has no artifact", job.id, job.status.as_str()))
    })
}

/// The directory of a job's artifact and the digest of its manifest; `None` where it has none on this machine.
pub(crate) fn place_of(job: &Job) -> Option<(PathBuf, String, BTreeSet<String>)> {
    let published = publication(job).ok()?;
    let files = published.files.into_iter().map(|file| file.path).collect();
    Some((PathBuf::from(published.uri.strip_prefix("file://")?), published.manifest_sha256, files))
}

/// Where a file is, how long it is and its digest.
fn place(job: &Job, path: &str) -> Result<(PathBuf, Option<u64>, String)> {
    let published = publication(job)?;
    let unknown =
        || Problem::new(Code::ArtifactNotFound, format!("the artifact of job {} has no file {path:?}", job.id));
    let directory = published.uri.strip_prefix("file://").ok_or_else(unknown)?;
    let (bytes, sha256) = if path == MANIFEST {
        (None, published.manifest_sha256)
    } else {
        let file = published.files.into_iter().find(|file| file.path == path).ok_or_else(unknown)?;
        (Some(file.bytes), file.sha256)
    };
    Ok((FilePath::new(directory).join(path), bytes, sha256))
}

#[derive(Debug, PartialEq)]
enum Asked {
    All,
    Range(RangeInclusive<u64>),
    Nowhere,
}

/// What is not one range of bytes is as if nothing were asked (RFC 9110, 14.2).
fn range(headers: &HeaderMap, tag: &str, length: u64) -> Asked {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|known| known != tag) {
        return Asked::All;
    }
    let Some(spec) = text(header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else { return Asked::All };
    let Some((first, last)) = spec.trim().split_once('-') else { return Asked::All };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    match (number(first), number(last)) {
        (None, Some(0)) if first.is_empty() => Asked::Nowhere,
        (None, Some(last)) if first.is_empty() => {
            if length == 0 {
                Asked::Nowhere
            } else {
                Asked::Range(length.saturating_sub(last)..=length - 1)
            }
        }
        (Some(first), last) if last.is_some_and(|last| last >= first) || spec.ends_with('-') => {
            if first >= length {
                return Asked::Nowhere;
            }
            Asked::Range(first..=last.unwrap_or(u64::MAX).min(length - 1))
        }
        _ => Asked::All,
    }
}

fn with_tag(mut response: Response, tag: &str) -> Response {
    insert(&mut response, header::ETAG, tag);
    response
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use jobs::Outcome;
    use serde_json::json;

    use crate::testing::{Answer, Fixture};

    const TEXT: &str = "0123456789";

    /// A job that has published a file, one in a directory, and beside them something that is none of its own.
    async fn published(fixture: &Fixture) -> String {
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        let dir = fixture.path().join("published");
        std::fs::create_dir_all(dir.join("stages/a")).unwrap();
        for name in ["model.safetensors", "stages/a/config.json", "manifest.json", "secret"] {
            std::fs::write(dir.join(name), TEXT).unwrap();
        }
        let sha256 = checkpoint::digest_bytes(TEXT.as_bytes());
        let file = |path: &str| json!({"path": path, "bytes": 10, "sha256": sha256});
        let publication = json!({"uri": format!("file://{}", dir.display()), "plan_digest": "x", "bytes": 20,
            "files": [file("model.safetensors"), file("stages/a/config.json")], "manifest_sha256": sha256});
        fixture.store.finish(&lease, Outcome::Succeeded { publication, published: None }).await.unwrap();
        format!("/v1/jobs/{id}/artifacts")
    }

    async fn get(fixture: &Fixture, path: &str, headers: &[(&str, &str)]) -> Answer {
        fixture.send(Method::GET, path, headers, "").await
    }

    #[tokio::test]
    async fn every_file_that_is_listed_can_be_had_and_no_other() {
        let fixture = Fixture::new().await;
        let path = published(&fixture).await;
        let list = fixture.get(&path).await.json();
        let files = list["data"].as_array().unwrap();
        assert_eq!(
            files.iter().map(|file| &file["path"]).collect::<Vec<_>>(),
            ["model.safetensors", "stages/a/config.json", "manifest.json"]
        );
        for file in files {
            let answer = fixture.get(file["url"].as_str().unwrap()).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, TEXT), "{file}");
            assert_eq!(answer.header("etag"), format!("\"{}\"", file["sha256"].as_str().unwrap()));
            assert_eq!((answer.header("content-length"), answer.header("content-disposition")), ("10", "attachment"));
        }
        for other in [
            "secret",
            "..%2Fjobs.db",
            "%2Fetc%2Fpasswd",
            "stages",
            "stages%2Fa%2F..%2Fa%2Fconfig.json",
            "%252e%252e",
            "Model.safetensors",
        ] {
            let answer = fixture.get(&format!("{path}/{other}")).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("artifact_not_found")), "{other}");
        }
    }

    #[tokio::test]
    async fn ranges_are_what_was_asked_for() {
        let fixture = Fixture::new().await;
        let path = format!("{}/model.safetensors", published(&fixture).await);
        for (asked, text, told) in [
            ("bytes=0-3", "0123", "bytes 0-3/10"),
            ("bytes=4-", "456789", "bytes 4-9/10"),
            ("bytes=-3", "789", "bytes 7-9/10"),
            ("bytes=-99", TEXT, "bytes 0-9/10"),
            ("bytes=9-99", "9", "bytes 9-9/10"),
        ] {
            let answer = get(&fixture, &path, &[("range", asked)]).await;
            assert_eq!(
                (answer.status, answer.text().as_str(), answer.header("content-range")),
                (206, text, told),
                "{asked}"
            );
            assert_eq!(answer.header("content-length"), text.len().to_string());
        }
        for asked in ["bytes=10-", "bytes=-0", "bytes=99-100"] {
            let answer = get(&fixture, &path, &[("range", asked)]).await;
            assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */10"), "{asked}");
        }
        for asked in ["bytes=3-1", "bytes=0-1,4-5", "lines=1-2", "bytes=", "bytes=a-b", "bytes=+1-2"] {
            let answer = get(&fixture, &path, &[("range", asked)]).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, TEXT), "{asked}");
        }
        let tag = get(&fixture, &path, &[]).await.header("etag").to_owned();
        assert_eq!(get(&fixture, &path, &[("range", "bytes=0-0"), ("if-range", &tag)]).await.status, 206);
        assert_eq!(get(&fixture, &path, &[("range", "bytes=0-0"), ("if-range", "\"x\"")]).await.status, 200);
        assert_eq!(get(&fixture, &path, &[("if-none-match", &tag)]).await.status, 304);
    }

    #[tokio::test]
    async fn what_is_not_there_is_told() {
        let fixture = Fixture::new().await;
        let queued = fixture.submit().await;
        assert_eq!(fixture.get(&format!("/v1/jobs/{queued}/artifacts")).await.json()["code"], "artifact_not_found");
        fixture.store.request_cancel(&queued).await.unwrap();
        let path = format!("{}/model.safetensors", published(&fixture).await);
        std::fs::write(fixture.path().join("published/model.safetensors"), "shorter").unwrap();
        assert_eq!(fixture.get(&path).await.status, 404);
        let file = fixture.path().join("published/model.safetensors");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(fixture.get(&path).await.status, 404);
        std::os::unix::fs::symlink(fixture.path().join("published/secret"), &file).unwrap();
        assert_eq!(fixture.get(&path).await.status, 404, "a link is no file of the artifact");
        std::fs::remove_file(&file).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(fixture.get(&path).await.status, 404, "nobody waits for who writes to it");
    }
}
