//! How fast bytes are done of late.

/// How long a rate looks back, in milliseconds: what is older weighs little.
const MEMORY_MS: f64 = 10_000.0;
/// Shorter steps tell nothing.
const STEP_MS: i64 = 200;

/// A mean that forgets; the first step only sets the clock.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    last: Option<(u64, i64)>,
    per_second: Option<f64>,
}

impl Rate {
    /// Bytes per second, when so many are done at this time.
    pub fn at(&mut self, bytes_done: u64, now_ms: i64) -> Option<u64> {
        match self.last {
            Some((bytes, at)) if now_ms - at >= STEP_MS => {
                let elapsed = (now_ms - at) as f64;
                let now = bytes_done.saturating_sub(bytes) as f64 * 1000.0 / elapsed;
                let weight = 1.0 - (-elapsed / MEMORY_MS).exp();
                self.per_second = Some(self.per_second.map_or(now, |before| before + weight * (now - before)));
                self.last = Some((bytes_done, now_ms));
            }
            None => self.last = Some((bytes_done, now_ms)),
            Some(_) => {}
        }
        self.per_second.map(|rate| rate as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_before_is_no_rate_and_a_change_shows_slowly() {
        let mut rate = Rate::default();
        assert_eq!(rate.at(1_000_000, 0), None);
        assert_eq!(rate.at(1_000_100, 100), None);
        assert_eq!(rate.at(1_001_000, 1000), Some(1000));
        assert_eq!(rate.at(1_002_000, 2000), Some(1000));
        // it stops: after a while longer than its memory little is left
        let soon = rate.at(1_002_000, 3000).unwrap();
        assert!((850..1000).contains(&soon), "{soon}");
        assert!(rate.at(1_002_000, 43_000).unwrap() < 30);
    }
}
