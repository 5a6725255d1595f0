//! Times as others read them: RFC 3339 in UTC.

use time::OffsetDateTime;

const NANOSECONDS_PER_MS: i128 = 1_000_000;

/// Of milliseconds since the epoch. Empty for a time that RFC 3339 cannot write, which no clock has told.
pub fn rfc3339(ms: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * NANOSECONDS_PER_MS) else {
        return String::new();
    };
    let (date, (hour, minute, second, ms)) = (time.date(), time.time().as_hms_milli());
    if !(0..=9999).contains(&date.year()) {
        return String::new();
    }
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    // always three decimals: so times sort as text, too
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn milliseconds_become_a_date() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MAX), "");
    }
}
