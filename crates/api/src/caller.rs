//! Who asks: the key that a request comes with, its tenant and what it may do.
//!
//! Invariant: every route has its line in `needed`, and a route without one is refused; a test goes over the contract.

use std::collections::BTreeSet;

use axum::{
    extract::{FromRequestParts, MatchedPath, Query, Request, State},
    http::{Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jobs::{Actor, Scope, Secret, Store, TicketHolder};

use crate::Api;
use crate::problem::{Code, Problem, Result};
use crate::read_events::wants_stream;
use crate::sender::Sender;

/// What a request may do, and whose jobs it sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Empty where no keys are asked for.
    pub(crate) tenant: String,
    /// The id of its key: what counts against its share of the workers.
    pub(crate) key: String,
    pub(crate) sender: Sender,
}

impl Caller {
    /// The queue, where changes are told to be this one's.
    pub(crate) fn store(&self, api: &Api) -> Store {
        api.store.by(Actor {
            tenant: self.tenant.clone(),
            name: self.key.clone(),
            from_address: self.sender.address.clone(),
            request_id: self.sender.request_id.clone(),
        })
    }

    /// A key of idempotency is one of its tenant.
    pub(crate) fn scoped(&self, key: String) -> String {
        if self.tenant.is_empty() { key } else { format!("{}\n{key}", self.tenant) }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        // a route outside of the layer would be a hole: better that it does not work at all
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needed {
    Nothing,
    /// A key, whatever it is for.
    Key,
    Scope(Scope),
    /// One of these will do.
    Either(Scope, Scope),
}

impl Needed {
    /// The scope that is lacking, as it is told.
    fn lacking(self, scopes: &BTreeSet<Scope>) -> Option<String> {
        let asked = match self {
            Self::Nothing | Self::Key => return None,
            Self::Scope(scope) => vec![scope],
            Self::Either(one, other) => vec![one, other],
        };
        let words: Vec<String> = asked.iter().map(|scope| format!("`{}`", scope.as_str())).collect();
        (!asked.iter().any(|scope| scopes.contains(scope))).then(|| words.join(" or "))
    }
}

pub(crate) fn needed(method: &Method, path: &str) -> Option<Needed> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    Some(match path {
        // also with a method that they do not take, which is then told
        "/" | "/healthz" | "/readyz" | "/version" | "/openapi.yaml" | "/docs" => Needed::Nothing,
        "/v1/methods" if reads => Needed::Key,
        "/v1/jobs"
        | "/v1/jobs/{id}"
        | "/v1/jobs/{id}/events"
        | "/v1/jobs/{id}/logs"
        | "/v1/jobs/{id}/artifacts"
        | "/v1/jobs/{id}/artifacts/{path}"
        | "/v1/jobs/{id}/deliveries"
        | "/v1/groups/{id}"
        | "/v1/events"
            if reads =>
        {
            Needed::Scope(Scope::JobsRead)
        }
        // it opens what its key may read
        "/v1/stream-tickets" if *method == Method::POST => Needed::Scope(Scope::JobsRead),
        "/v1/jobs/{id}" if *method == Method::DELETE => Needed::Scope(Scope::JobsWrite),
        "/v1/jobs" | "/v1/jobs/{id}/cancel" | "/v1/jobs/{id}/retry" | "/v1/groups/{id}/cancel" | "/v1/plans"
            if *method == Method::POST =>
        {
            Needed::Scope(Scope::JobsWrite)
        }
        "/v1/deliveries/{id}/redeliver" if *method == Method::POST => Needed::Scope(Scope::JobsWrite),
        "/v1/webhooks" | "/v1/webhooks/{id}" | "/v1/webhooks/{id}/deliveries" | "/v1/webhooks/secret" if reads => {
            Needed::Scope(Scope::Admin)
        }
        "/v1/webhooks" | "/v1/webhooks/{id}/rotate" if *method == Method::POST => Needed::Scope(Scope::Admin),
        "/v1/webhooks/{id}" if *method == Method::DELETE => Needed::Scope(Scope::Admin),
        "/v1/queue" | "/v1/audit" if reads => Needed::Scope(Scope::Admin),
        "/v1/workers" if reads => Needed::Either(Scope::Admin, Scope::Worker),
        "/v1/workers/{id}/drain" if *method == Method::POST => Needed::Either(Scope::Admin, Scope::Worker),
        "/v1/queue/pause" | "/v1/queue/resume" if *method == Method::POST => Needed::Scope(Scope::Admin),
        _ => return None,
    })
}

pub(crate) async fn authenticate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    // a body is not for several threads, and what is looked for is in the head
    let (needed, shown) = (asked(&request), shown(&request));
    match caller_of(&api.store, needed, shown).await {
        Ok((mut caller, permission)) => {
            caller.sender = Sender::of(&request);
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(permission);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Whether the key of the request may do it. Asked after the request is counted, and told in its answer.
#[derive(Debug, Clone)]
pub(crate) struct Permission(pub(crate) Result<()>);

pub(crate) async fn permit(mut request: Request, next: Next) -> Response {
    match request.extensions_mut().remove::<Permission>() {
        Some(Permission(Ok(()))) => next.run(request).await,
        Some(Permission(Err(problem))) => problem.into_response(),
        // as for a route outside of the layer
        None => Problem::internal().into_response(),
    }
}

fn asked(request: &Request) -> Needed {
    match request.extensions().get::<MatchedPath>() {
        // nothing is there, and that is no secret
        None => Needed::Nothing,
        Some(path) => needed(request.method(), path.as_str()).unwrap_or(Needed::Key),
    }
}

/// The caller is known before it is known whether it may: what it may not is counted, too.
pub(crate) async fn caller_of(store: &Store, needed: Needed, shown: Result<Shown>) -> Result<(Caller, Permission)> {
    let anyone = (Caller::default(), Permission(Ok(())));
    if needed == Needed::Nothing {
        return Ok(anyone);
    }
    // where none is asked for, what a proxy in front has asked for is none of ours
    if !store.has_keys().await? {
        return Ok(anyone);
    }
    let secret = match shown? {
        Shown::Key(secret) => secret,
        Shown::Ticket(ticket) => return Ok((holder(store, &ticket).await?, Permission(Ok(())))),
        Shown::Nothing => return Err(no_key()),
    };
    let Some(key) = store.key_of(&secret).await? else {
        return Err(Problem::new(Code::Unauthenticated, "this key is unknown, revoked or past its end"));
    };
    let permission = match needed.lacking(&key.scopes) {
        Some(scope) => Err(Problem::new(Code::MissingScope, format!("this key lacks the scope {scope}"))),
        None => Ok(()),
    };
    Ok((Caller { tenant: key.tenant, key: key.id, ..Caller::default() }, Permission(permission)))
}

/// Whose ticket it is, as long as its key is good.
async fn holder(store: &Store, ticket: &str) -> Result<Caller> {
    let found = store.use_ticket(ticket).await?;
    let Some(TicketHolder { tenant, key }) = found else {
        return Err(Problem::new(Code::Unauthenticated, "this ticket is unknown, used or past its end; get another"));
    };
    if !store.is_good_key(&key).await? {
        return Err(Problem::new(Code::Unauthenticated, "the key of this ticket is revoked or past its end"));
    }
    Ok(Caller { tenant, key, ..Caller::default() })
}

/// What a request shows of who sends it.
pub(crate) enum Shown {
    Key(Secret),
    /// A stream may be opened by one, where no header can be sent.
    Ticket(String),
    Nothing,
}

pub(crate) fn shown(request: &Request) -> Result<Shown> {
    if let Some(secret) = bearer(request)? {
        return Ok(Shown::Key(secret));
    }
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let opens_stream = *request.method() == Method::GET
        && ["/v1/events", "/v1/jobs/{id}/events"].contains(&path)
        && wants_stream(request.headers());
    let ticket = || {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
        pairs.into_iter().find(|(name, _)| name == "ticket").map(|(_, ticket)| ticket)
    };
    Ok(opens_stream.then(ticket).flatten().map_or(Shown::Nothing, Shown::Ticket))
}

fn bearer(request: &Request) -> Result<Option<Secret>> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
    let Some(value) = headers.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let token = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let secret = token.and_then(|(_, token)| Secret::read(token.trim()));
    match (secret, headers.next()) {
        (Some(secret), None) => Ok(Some(secret)),
        _ => Err(Problem::new(Code::Unauthenticated, "`Authorization` is not `Bearer` and an API key of this server")),
    }
}

fn no_key() -> Problem {
    Problem::new(Code::Unauthenticated, "this server asks for an API key: send `Authorization: Bearer amk_...`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jobs::{DeliveryId, GroupId, JobId, WebhookId};
    use serde_json::json;

    use super::*;
    use crate::testing::{Fixture, RECIPE, VARIANTS, YAML, a_delivery, routes};

    async fn key(fixture: &Fixture, tenant: &str, scopes: &[Scope]) -> String {
        fixture.key(tenant, scopes).await
    }

    fn with_id(path: &str, id: &str) -> String {
        path.replace("{id}", id)
    }

    #[test]
    fn every_route_says_what_it_asks_for() {
        let routes = routes();
        assert!(routes.len() >= 18, "{routes:?}");
        for (method, path) in routes {
            assert!(needed(&method, &path).is_some(), "{method} {path}");
        }
        assert_eq!(needed(&Method::DELETE, "/v1/jobs"), None);
    }

    #[tokio::test]
    async fn without_keys_anyone_may_do_everything_and_with_one_nobody_without() {
        let fixture = Fixture::new().await;
        assert_eq!(fixture.get("/v1/workers").await.status, 200);
        key(&fixture, "a", &[]).await;
        for (method, path) in routes() {
            let is_open = needed(&method, &path) == Some(Needed::Nothing);
            let answer = fixture.send(method.clone(), &with_id(&path, "x"), &[], "").await;
            assert_eq!(answer.status == 401, !is_open, "{method} {path}: {}", answer.status);
            if !is_open {
                assert_eq!(answer.header("www-authenticate"), "Bearer");
                assert_eq!(answer.json()["code"], "unauthenticated");
            }
        }
    }

    #[tokio::test]
    async fn a_key_that_is_none_opens_nothing() {
        let fixture = Fixture::new().await;
        let revoked = key(&fixture, "a", &Scope::ALL).await;
        let id = fixture.store.keys().await.unwrap()[0].id.clone();
        fixture.store.revoke_key(&id).await.unwrap();
        let good = key(&fixture, "a", &Scope::ALL).await;
        let basic = good.replace("Bearer", "Basic");
        for wrong in ["", "Bearer", "Bearer x", "Bearer amk_0_0", &revoked, &basic, &format!("{good}0"), &good[7..]] {
            for (method, path) in routes() {
                if needed(&method, &path) == Some(Needed::Nothing) {
                    continue;
                }
                let answer = fixture.send(method.clone(), &with_id(&path, "x"), &[("authorization", wrong)], "").await;
                assert_eq!(answer.status, 401, "{wrong:?} {method} {path}");
                assert!(!answer.text().contains(&good[12..30]));
            }
        }
        assert_eq!(fixture.send(Method::GET, "/v1/jobs", &[("authorization", &good)], "").await.status, 200);
        assert_eq!(
            fixture.send(Method::GET, "/v1/jobs", &[("authorization", &good.to_lowercase())], "").await.status,
            200
        );
    }

    #[tokio::test]
    async fn a_key_may_do_what_its_scopes_say_and_nothing_else() {
        let fixture = Fixture::new().await;
        for scope in Scope::ALL {
            let key = key(&fixture, "a", &[scope]).await;
            for (method, path) in routes() {
                let answer = fixture.send(method.clone(), &with_id(&path, "x"), &[("authorization", &key)], "").await;
                let is_refused = match needed(&method, &path).unwrap() {
                    Needed::Nothing | Needed::Key => false,
                    Needed::Scope(asked) => asked != scope,
                    Needed::Either(one, other) => one != scope && other != scope,
                };
                assert_eq!(answer.status == 403, is_refused, "{scope:?} {method} {path}: {}", answer.status);
                if is_refused {
                    assert_eq!(answer.json()["code"], "missing_scope");
                }
            }
        }
    }

    /// Over every route that names something: what is another's is not there.
    #[tokio::test]
    async fn a_tenant_sees_only_its_own_everywhere() {
        let fixture = Fixture::new().await;
        let (mine, other) = (key(&fixture, "a", &Scope::ALL).await, key(&fixture, "b", &Scope::ALL).await);
        let post = async |key: &str, body: &str| {
            let headers = [("authorization", key), ("content-type", YAML), ("idempotency-key", "same")];
            fixture.send(Method::POST, "/v1/jobs", &headers, body).await
        };
        let job = post(&mine, RECIPE).await.json()["id"].as_str().unwrap().to_owned();
        let headers = [("authorization", mine.as_str()), ("content-type", YAML)];
        let group = fixture.send(Method::POST, "/v1/jobs", &headers, VARIANTS).await.json();
        let group = group["id"].as_str().unwrap().to_owned();
        let mut seen = BTreeSet::new();
        for (method, path) in
            routes().into_iter().filter(|(_, path)| path.contains("{id}") && !path.contains("workers"))
        {
            let (id, unknown) = match path.split('/').nth(2) {
                Some("groups") => (group.clone(), GroupId::generate().to_string()),
                // each its own, since one of the routes deletes it
                Some("webhooks") => (a_delivery(&fixture, &mine).await.0, WebhookId::generate().to_string()),
                Some("deliveries") => (a_delivery(&fixture, &mine).await.1, DeliveryId::generate().to_string()),
                _ => (job.clone(), JobId::generate().to_string()),
            };
            let (id, unknown) = (&id, &unknown);
            let ask = async |key: &str, id: &str| {
                fixture.send(method.clone(), &with_id(&path, id), &[("authorization", key)], "").await
            };
            let (theirs, nobodys) = (ask(&other, id).await, ask(&other, unknown).await);
            assert_eq!((theirs.status, nobodys.status), (404, 404), "{method} {path}");
            let told =
                |answer: &crate::testing::Answer, id: &str| answer.json()["detail"].as_str().unwrap().replace(id, "ID");
            assert_eq!(told(&theirs, id), told(&nobodys, unknown), "{method} {path}");
            let own = ask(&mine, id).await;
            // it is there, though not all of this can be done with it
            let is_there = own.status < 300
                || ["artifact_not_found", "job_not_finished"].contains(&own.json()["code"].as_str().unwrap());
            assert!(is_there, "{method} {path}: {}", own.text());
            seen.insert(path);
        }
        assert!(seen.len() >= 11, "{seen:?}");
        let list = fixture.send(Method::GET, "/v1/jobs", &[("authorization", &other)], "").await.json();
        assert_eq!(list["data"], json!([]));
        let list = fixture.send(Method::GET, "/v1/webhooks", &[("authorization", &other)], "").await.json();
        assert_eq!(list["data"], json!([]));
        let secret = async |key: &str| {
            fixture.send(Method::GET, "/v1/webhooks/secret", &[("authorization", key)], "").await.json()
        };
        assert_ne!(secret(&mine).await["secret"], secret(&other).await["secret"]);
        let audit = fixture.send(Method::GET, "/v1/audit", &[("authorization", &other)], "").await.json();
        assert_eq!(audit["data"], json!([]));
        // the same key of idempotency is another's, too
        let theirs = post(&other, RECIPE).await;
        assert_eq!(theirs.status, 201);
        assert_ne!(theirs.json()["id"], job.as_str());
        assert_eq!(post(&mine, RECIPE).await.json()["id"], job.as_str());
    }
}
