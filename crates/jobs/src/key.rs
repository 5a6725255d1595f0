//! API keys: who asks, for whom, and what they may do.
//!
//! Invariant: a key is shown once, when it is made; what is stored tells whether a key is right, and nothing of it.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Look at the jobs of its tenant, their events and artifacts.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// Submit, plan and cancel jobs of its tenant.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// Look at workers and the queue, and drain, pause and resume them; the webhooks of its tenant.
    #[serde(rename = "admin")]
    Admin,
    /// Look at workers and drain them, as a node does before it goes.
    #[serde(rename = "worker")]
    Worker,
    /// Read the metrics.
    #[serde(rename = "metrics")]
    Metrics,
}

impl Scope {
    pub const ALL: [Self; 5] = [Self::JobsRead, Self::JobsWrite, Self::Admin, Self::Worker, Self::Metrics];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::Admin => "admin",
            Self::Worker => "worker",
            Self::Metrics => "metrics",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// What `Store::create_key` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// For people to know it by.
    pub name: String,
    /// Whose jobs it sees and makes.
    pub tenant: String,
    pub scopes: BTreeSet<Scope>,
    /// In milliseconds since the epoch; never where absent.
    pub expires_at: Option<i64>,
    /// Jobs that were made while no keys were asked for become its tenant's.
    pub adopts: bool,
}

/// A key as stored. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    pub id: String,
    pub name: String,
    pub tenant: String,
    pub scopes: BTreeSet<Scope>,
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
    /// To the minute.
    pub last_used_at: Option<i64>,
}

impl ApiKey {
    pub fn is_good_at(&self, now: i64) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// The whole key, `amk_<id>_<secret>`. It never appears in a log by accident.
pub struct Secret(String);

const PREFIX: &str = "amk_";

impl Secret {
    pub(crate) fn generate() -> (String, Self) {
        // 122 random bits each; the id is no part of the secret
        let id = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        (id.clone(), Self(format!("{PREFIX}{id}_{secret}")))
    }

    /// What a client sent; `None` where it has not the form of a key.
    pub fn read(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (id.len() == 12 && secret.len() == 64 && is_hex(id) && is_hex(secret)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + 12]
    }

    pub(crate) fn digest(&self) -> String {
        Sha256::digest(self.0.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// To be shown once, to whoever made it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_...", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_shows_nothing_by_accident() {
        let (id, secret) = Secret::generate();
        let read = Secret::read(secret.reveal()).expect("a key");
        assert_eq!((read.id(), read.digest()), (id.as_str(), secret.digest()));
        let shown = format!("{secret:?}");
        assert!(shown.contains(&id) && !shown.contains(&secret.reveal()[20..]), "{shown}");
        assert_ne!(Secret::generate().1.reveal(), secret.reveal());
    }

    #[test]
    fn what_is_no_key_is_none() {
        let (_, secret) = Secret::generate();
        let key = secret.reveal();
        for wrong in ["", "amk_", "amk_a_b", &key[1..], &key[..key.len() - 1], &key.to_uppercase(), &format!("{key}0")]
        {
            assert!(Secret::read(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_scope_has_one_spelling() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!(Scope::parse("jobs"), None);
    }
}
