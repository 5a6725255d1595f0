//! The query of a URL as pairs, since keys may repeat. A key nobody asked for is an error: silence would hide a typo.

use std::{fmt::Display, str::FromStr};

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;

use crate::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::problem::{Code, Problem, Result};

pub(crate) struct Pairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        let malformed = |_| Problem::new(Code::InvalidQuery, "the query is not `key=value` pairs joined by `&`");
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(malformed)?;
        // Postgres has no text with a NUL in it, and nothing that is asked for has one
        if pairs.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
            return Err(Problem::new(Code::InvalidQuery, "the query has a NUL character"));
        }
        Ok(Self(pairs))
    }
}

/// That a request has no body: one that is sent and not read would hide a mistake.
pub(crate) struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        match Bytes::from_request(request, state).await {
            Ok(body) if body.is_empty() => Ok(Self),
            _ => Err(Problem::new(Code::MalformedBody, "this request takes no body; send it without one")),
        }
    }
}

impl Pairs {
    pub(crate) fn only(&self, known: &[&str]) -> Result<()> {
        let Some((key, _)) = self.0.iter().find(|(key, _)| !known.contains(&key.as_str())) else { return Ok(()) };
        let advice = match recipe::nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there are none here".to_owned(),
            None => format!("there are {}", known.join(", ")),
        };
        Err(Problem::new(Code::InvalidQuery, format!("unknown query parameter `{key}`; {advice}")))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(k, _)| *k == key).map(|(_, value)| value)
    }

    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>> {
        let mut values = self.all(key);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::new(Code::InvalidQuery, format!("query parameter `{key}` is given twice")));
        }
        let wrong = |error| Problem::new(Code::InvalidQuery, format!("query parameter `{key}`: {error}"));
        value.parse().map(Some).map_err(wrong)
    }

    /// A bare key means yes.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.parsed::<String>(key)?.as_deref() {
            None => Ok(None),
            Some("" | "true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Problem::new(Code::InvalidQuery, format!("query parameter `{key}` is `true` or `false`"))),
        }
    }

    /// How many items a page shall have.
    pub(crate) fn limit(&self) -> Result<u32> {
        let limit = self.parsed("limit")?.unwrap_or(PAGE_DEFAULT);
        if (1..=PAGE_MAX).contains(&limit) {
            return Ok(limit);
        }
        Err(Problem::new(
            Code::InvalidQuery,
            format!("query parameter `limit` is {limit}; it goes from 1 to {PAGE_MAX}"),
        ))
    }
}
