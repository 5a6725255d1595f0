//! Shortens a poll. Correctness never rests on it: other processes write unheard, and a write between a look and the wait is missed.

use std::time::Duration;

use super::Store;

impl Store {
    /// Returns when this process writes anything, after `wait` at the latest.
    pub async fn changed(&self, wait: Duration) {
        // running out of time is as good an answer
        let _ = tokio::time::timeout(wait, self.shared.wrote.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use crate::testing::{new_job, on_each_database};

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_write_ends_the_wait() {
        on_each_database(async |fixture| {
            tokio::join!(biased; fixture.store.changed(LONG), fixture.enqueue(new_job()));
        })
        .await;
    }

    #[tokio::test]
    async fn finding_nothing_wakes_nobody() {
        on_each_database(async |fixture| {
            let mut wait = pin!(fixture.store.changed(LONG));
            tokio::select! {
                biased;
                () = &mut wait => panic!("woken without a write"),
                claimed = fixture.try_claim() => assert!(claimed.is_none()),
            }
            assert!(tokio::time::timeout(Duration::ZERO, wait).await.is_err());
        })
        .await;
    }
}
