//! Answers that need not be sent again: an `ETag` of what is told, and 304 where the client has that.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// JSON with its tag, or 304.
pub(crate) fn tagged(headers: &HeaderMap, object: &impl Serialize) -> Response {
    let body = serde_json::to_vec(object).expect("objects of texts and numbers are JSON");
    let tag = format!("\"{}\"", &checkpoint::digest_bytes(&body)[..32]);
    let mut response = if is_known(headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    let answered = response.headers_mut();
    // asked again each time, and told only when it has changed
    answered.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answered.insert(header::ETAG, tag);
    }
    response
}

/// Compared weakly, as for reading it is.
pub(crate) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn what_a_client_has_is_not_sent_again() {
        let fixture = Fixture::new().await;
        let path = format!("/v1/jobs/{}", fixture.submit().await);
        let first = fixture.get(&path).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with('"') && first.header("cache-control") == "no-cache");
        let ask = async |tags: &str| fixture.send(Method::GET, &path, &[("if-none-match", tags)], "").await;
        for tags in [tag.as_str(), &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
            let again = ask(tags).await;
            assert_eq!((again.status, again.header("etag"), again.text().as_str()), (304, tag.as_str(), ""), "{tags}");
        }
        assert_eq!(ask("\"x\"").await.status, 200);
        fixture.claim().await;
        let changed = ask(&tag).await;
        assert_eq!((changed.status, changed.json()["status"].as_str()), (200, Some("running")));
        assert_ne!(changed.header("etag"), tag);
    }
}
