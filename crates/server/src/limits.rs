//! The settings that bound what clients may ask of a server.

use api::ApiLimits;
use clap::Args;
use jobs::QueueLimits;
use serde::Deserialize;

use crate::report::Failure;
use crate::size::Bytes;

/// A recipe has no more than 256 KiB, and whatever stands beside it little.
const BODY_BYTES_MAX: u64 = 16 << 20;
/// More is as good as no limit.
const PER_MINUTE_MAX: u32 = 1_000_000;
/// Each submit counts those that wait.
const QUEUED_MAX: u32 = 10_000_000;

#[derive(Debug, Clone, Default, Args, Deserialize)]
pub struct LimitArgs {
    /// Size of a request's body at most [default: 1MiB].
    #[arg(long, env = "AMALGAM_BODY_BYTES_MAX")]
    pub body_bytes_max: Option<Bytes>,
    /// Requests of one API key in a minute [default: 1200].
    #[arg(long, env = "AMALGAM_REQUESTS_PER_MINUTE_MAX")]
    pub requests_per_minute_max: Option<u32>,
    /// Submits, plans and retries of one API key in a minute [default: 60].
    #[arg(long, env = "AMALGAM_SUBMITS_PER_MINUTE_MAX")]
    pub submits_per_minute_max: Option<u32>,
    /// Jobs of one API key that wait for a worker [default: 1000].
    #[arg(long, env = "AMALGAM_QUEUED_PER_KEY_MAX")]
    pub queued_per_key_max: Option<u32>,
    /// Jobs that wait for a worker [default: 100000].
    #[arg(long, env = "AMALGAM_QUEUED_MAX")]
    pub queued_max: Option<u32>,
    /// No job is accepted while the disk of the data directory has less left [default: 1GiB].
    #[arg(long, env = "AMALGAM_DISK_FLOOR")]
    pub disk_floor: Option<Bytes>,
}

impl LimitArgs {
    pub fn or(self, other: LimitArgs) -> LimitArgs {
        LimitArgs {
            body_bytes_max: self.body_bytes_max.or(other.body_bytes_max),
            requests_per_minute_max: self.requests_per_minute_max.or(other.requests_per_minute_max),
            submits_per_minute_max: self.submits_per_minute_max.or(other.submits_per_minute_max),
            queued_per_key_max: self.queued_per_key_max.or(other.queued_per_key_max),
            queued_max: self.queued_max.or(other.queued_max),
            disk_floor: self.disk_floor.or(other.disk_floor),
        }
    }

    pub fn resolve(self) -> Result<ApiLimits, Failure> {
        let default = ApiLimits::default();
        let QueueLimits { queued_max, queued_per_owner_max } = default.queue;
        let body_bytes_max = self.body_bytes_max.map_or(default.body_bytes_max as u64, |size| size.0);
        if body_bytes_max > BODY_BYTES_MAX {
            return Err(Failure::refused("body_bytes_max: it is at most 16MiB"));
        }
        let limits = ApiLimits {
            body_bytes_max: body_bytes_max as usize,
            requests_per_minute_max: self.requests_per_minute_max.unwrap_or(default.requests_per_minute_max),
            submits_per_minute_max: self.submits_per_minute_max.unwrap_or(default.submits_per_minute_max),
            queue: QueueLimits {
                queued_max: self.queued_max.unwrap_or(queued_max),
                queued_per_owner_max: self.queued_per_key_max.unwrap_or(queued_per_owner_max),
            },
            disk_floor_bytes: self.disk_floor.map_or(default.disk_floor_bytes, |floor| floor.0),
        };
        within("requests_per_minute_max", limits.requests_per_minute_max, PER_MINUTE_MAX)?;
        within("submits_per_minute_max", limits.submits_per_minute_max, PER_MINUTE_MAX)?;
        within("queued_max", limits.queue.queued_max, QUEUED_MAX)?;
        within("queued_per_key_max", limits.queue.queued_per_owner_max, QUEUED_MAX)?;
        Ok(limits)
    }
}

fn within(name: &str, value: u32, max: u32) -> Result<(), Failure> {
    if (1..=max).contains(&value) { Ok(()) } else { Err(Failure::refused(format!("{name}: it is 1 to {max}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_none_is_refused_by_name() {
        let wrong = [
            (LimitArgs { body_bytes_max: Some(Bytes((16 << 20) + 1)), ..LimitArgs::default() }, "body_bytes_max"),
            (LimitArgs { requests_per_minute_max: Some(0), ..LimitArgs::default() }, "requests_per_minute_max"),
            (LimitArgs { submits_per_minute_max: Some(1_000_001), ..LimitArgs::default() }, "submits_per_minute_max"),
            (LimitArgs { queued_max: Some(0), ..LimitArgs::default() }, "queued_max"),
            (LimitArgs { queued_per_key_max: Some(u32::MAX), ..LimitArgs::default() }, "queued_per_key_max"),
        ];
        for (wrong, name) in wrong {
            let told = wrong.resolve().unwrap_err().to_string();
            assert!(told.starts_with(&format!("{name}: ")), "{told}");
        }
        assert_eq!(LimitArgs::default().resolve().unwrap(), ApiLimits::default());
        let set = LimitArgs { queued_per_key_max: Some(7), ..LimitArgs::default() };
        let set = LimitArgs::default().or(set).resolve().unwrap();
        assert_eq!(set.queue.queued_per_owner_max, 7);
    }
}
