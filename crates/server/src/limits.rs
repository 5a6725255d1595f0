//! The settings that bound what clients may ask of a server.

use api::ApiLimits;
use clap::Args;
use serde::Deserialize;

use crate::report::Failure;

/// More is as good as no limit.
const PER_MINUTE_MAX: u32 = 1_000_000;

#[derive(Debug, Clone, Default, Args, Deserialize)]
pub struct LimitArgs {
    /// Requests of one API key in a minute [default: 1200].
    #[arg(long, env = "AMALGAM_REQUESTS_PER_MINUTE_MAX")]
    pub requests_per_minute_max: Option<u32>,
    /// Submits, plans and retries of one API key in a minute [default: 60].
    #[arg(long, env = "AMALGAM_SUBMITS_PER_MINUTE_MAX")]
    pub submits_per_minute_max: Option<u32>,
}

impl LimitArgs {
    pub fn or(self, other: LimitArgs) -> LimitArgs {
        LimitArgs {
            requests_per_minute_max: self.requests_per_minute_max.or(other.requests_per_minute_max),
            submits_per_minute_max: self.submits_per_minute_max.or(other.submits_per_minute_max),
        }
    }

    pub fn resolve(self) -> Result<ApiLimits, Failure> {
        let default = ApiLimits::default();
        Ok(ApiLimits {
            requests_per_minute_max: within(
                "requests_per_minute_max",
                self.requests_per_minute_max.unwrap_or(default.requests_per_minute_max),
                PER_MINUTE_MAX,
            )?,
            submits_per_minute_max: within(
                "submits_per_minute_max",
                self.submits_per_minute_max.unwrap_or(default.submits_per_minute_max),
                PER_MINUTE_MAX,
            )?,
        })
    }
}

fn within(name: &str, value: u32, max: u32) -> Result<u32, Failure> {
    if (1..=max).contains(&value) { Ok(value) } else { Err(Failure::refused(format!("{name}: it is 1 to {max}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_none_is_refused_by_name() {
        let args = |requests, submits| LimitArgs {
            requests_per_minute_max: Some(requests),
            submits_per_minute_max: Some(submits),
            ..LimitArgs::default()
        };
        let limits = args(7, 5).resolve().unwrap();
        assert_eq!((limits.requests_per_minute_max, limits.submits_per_minute_max), (7, 5));
        for (wrong, name) in [(args(0, 5), "requests_per_minute_max"), (args(7, 1_000_001), "submits_per_minute_max")] {
            assert!(wrong.resolve().unwrap_err().to_string().starts_with(name));
        }
        assert_eq!(LimitArgs::default().resolve().unwrap(), ApiLimits::default());
    }
}
