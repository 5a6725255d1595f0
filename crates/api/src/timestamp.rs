//! Times come and leave as RFC 3339; they leave in UTC.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use jobs::rfc3339;

const NANOSECONDS_PER_MS: i128 = 1_000_000;

/// Since the epoch; `None` for what is no time.
pub(crate) fn milliseconds(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / NANOSECONDS_PER_MS).ok()
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn a_date_becomes_milliseconds() {
        assert_eq!(milliseconds("2023-11-14T22:13:20.123Z"), Some(1_700_000_000_123));
        assert_eq!(milliseconds("2023-11-15T00:13:20.123+02:00"), Some(1_700_000_000_123));
        assert_eq!(milliseconds("tomorrow"), None);
    }
}
