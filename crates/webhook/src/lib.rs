//! Tells receivers what became of jobs, by Standard Webhooks: signed, tried again, and never into networks that are not theirs to
//! reach.
//!
//! Invariants: a request goes to an address that was looked at just before, and to no other; secrets are derived when they are
//! needed and stored nowhere; of an answer nothing is kept but its status.

mod dispatch;
mod key;
mod network;
mod reach;
mod resolver;
mod schedule;
mod send;
mod sign;
#[cfg(test)]
mod testing;

pub use dispatch::dispatch;
pub use key::{KeyError, MasterKey, Secret};
pub use network::Network;
pub use reach::{Reach, Refused};

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    pub reach: Reach,
    pub key: MasterKey,
}

/// Named limits of what is sent.
pub mod limits {
    use std::time::Duration;

    /// Characters of an address.
    pub const URL_CHARS_MAX: usize = 2048;
    /// For an answer, from the look-up of the name on.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
    /// Deliveries under way at once from one server.
    pub const AT_ONCE_MAX: usize = 32;
    /// Of one tenant, over all servers.
    pub const AT_ONCE_PER_TENANT_MAX: u32 = 8;
    /// How long the secret before the present one still signs.
    pub const OLD_SECRET_FOR: Duration = Duration::from_secs(24 * 3600);
    /// What a receiver may ask to wait for.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
}
