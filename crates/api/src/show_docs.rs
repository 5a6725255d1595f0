//! `GET /docs`: the contract as a page, with nothing in it that comes from elsewhere.

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::IntoResponse,
};

use crate::contract::document;
use crate::contract_page::contract_page;
use crate::problem::AnyProblem;

/// The same for every request, and made when it is first asked for.
static PAGE: LazyLock<String> = LazyLock::new(|| contract_page(&document()));

/// The page has styles of its own, and neither runs nor loads anything.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The contract as a page to read
#[utoipa::path(
    get,
    path = "/docs",
    tag = "server",
    responses((status = 200, description = "A page that needs nothing else", body = String, content_type = "text/html; charset=utf-8"), AnyProblem)
)]
pub(crate) async fn show_docs() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE.as_str())
}

#[cfg(test)]
mod tests {
    use jobs::Scope;

    use crate::testing::Fixture;

    #[tokio::test]
    async fn the_page_is_shown_to_anyone_and_may_load_nothing() {
        let fixture = Fixture::new().await;
        fixture.key("a", &Scope::ALL).await;
        let path = fixture.get("/").await.json()["links"]["docs"].as_str().unwrap().to_owned();
        let page = fixture.get(&path).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").starts_with("default-src 'none'; style-src 'unsafe-inline'"));
        assert!(page.text().starts_with("<!doctype html>"));
    }
}
