//! Hears of what other processes write to a Postgres. It only shortens polls: what is not heard is found by the next one.

use std::{sync::Weak, time::Duration};

use sqlx::postgres::PgListener;

use super::Shared;

/// Sent in the transaction of what it tells of, so that it is heard when that can be seen.
pub(super) const NOTIFY: &str = "select pg_notify('amalgam', '')";

const CHANNEL: &str = "amalgam";
const AGAIN: Duration = Duration::from_secs(5);
/// How often a listener looks whether anybody still needs it.
const LOOK: Duration = Duration::from_secs(1);

/// `url` must not lead through a pooler of transactions, such as PgBouncer: those pass no notification on.
pub(super) fn start(url: String, shared: Weak<Shared>) {
    tokio::spawn(async move {
        while shared.strong_count() > 0 {
            // without it there are the polls
            let _ = listen(&url, &shared).await;
            tokio::time::sleep(AGAIN).await;
        }
    });
}

/// Until the connection breaks or nobody needs it any more.
async fn listen(url: &str, shared: &Weak<Shared>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen(CHANNEL).await?;
    loop {
        let heard = tokio::time::timeout(LOOK, listener.recv()).await;
        let Some(shared) = shared.upgrade().filter(|shared| !shared.writer.is_closed()) else { return Ok(()) };
        if let Ok(notification) = heard {
            notification?;
            shared.wrote.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::testing::{new_job, on_each_database};

    #[tokio::test]
    async fn what_another_process_writes_ends_the_wait() {
        on_each_database(async |fixture| {
            if fixture.store.is_sqlite() {
                // one process hears itself, and other workers poll
                return;
            }
            let other = fixture.beside().await;
            let heard = async {
                // the listener may not be there yet, so the writes go on until it is
                loop {
                    fixture.enqueue(new_job()).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                () = other.changed(Duration::from_secs(600)) => {}
                () = heard => unreachable!("it writes for ever"),
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("nothing was heard"),
            }
        })
        .await;
    }
}
