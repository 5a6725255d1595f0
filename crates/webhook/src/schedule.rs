//! When a delivery that was not taken is sent again: the schedule that Standard Webhooks recommends.

use std::time::Duration;

use jobs::DeliveryId;
use sha2::{Digest, Sha256};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Seconds after each attempt, from the first on; after one more there is none.
const AFTER: [u64; 9] = [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];

/// How long to wait after this attempt, from 1; `None` when it was the last. Up to a tenth is added, so that receivers that were
/// away are not met by everything at once; how much follows from the delivery and its attempt.
pub(crate) fn after(attempt: i64, id: &DeliveryId) -> Option<Duration> {
    let at = usize::try_from(attempt.checked_sub(1)?).ok()?;
    let wait = Duration::from_secs(*AFTER.get(at)?);
    let digest = Sha256::digest(format!("{id} {attempt}"));
    Some(wait + wait.mul_f64(f64::from(digest[0]) / 2550.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_schedule_is_that_of_the_documents_and_a_tenth_at_most() {
        let id = DeliveryId::generate();
        for (attempt, seconds) in (1..).zip(AFTER) {
            let wait = after(attempt, &id).unwrap().as_secs_f64();
            let seconds = seconds as f64;
            assert!((seconds..=seconds * 1.1).contains(&wait), "{attempt}: {wait}");
        }
        assert_eq!((after(10, &id), after(0, &id), after(i64::MIN, &id)), (None, None, None));
    }

    #[test]
    fn deliveries_that_failed_together_come_again_apart() {
        let waits: BTreeSet<_> = (0..100).map(|_| after(3, &DeliveryId::generate())).collect();
        assert!(waits.len() > 50, "{waits:?}");
    }
}
