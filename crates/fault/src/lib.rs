//! Fail points: before and after each durable step, where tests have it fail by an error, a panic or the end of the process.
//!
//! Invariant: nothing of it is left in a released binary, since only tests build the crate `fail` with its feature.

use std::io;

/// Every step there is. What follows the last dot is the step of its part.
pub const STEPS: &[&str] = &[
    // transactions of the queue
    "store.cancel",
    "store.cancel_group",
    "store.claim",
    "store.claim_deliveries",
    "store.create_key",
    "store.create_webhook",
    "store.delete",
    "store.delete_webhook",
    "store.drain",
    "store.enqueue",
    "store.enqueue_group",
    "store.expire",
    "store.finish",
    "store.heartbeat",
    "store.issue_ticket",
    "store.pause",
    "store.place_events",
    "store.plan_digest",
    "store.prune",
    "store.record",
    "store.redeliver",
    "store.release",
    "store.report",
    "store.rescue",
    "store.resume",
    "store.revoke_key",
    "store.rotate_webhook",
    "store.settle_delivery",
    "store.stopped",
    "store.use_key",
    "store.use_ticket",
    // what it is asked without a transaction
    "store.read",
    // a merge on its way to the disk
    "journal.add",
    "journal.begin",
    "journal.remove",
    "shard.create",
    "shard.sync",
    "file.write",
    "manifest.write",
    "dir.sync",
    // an artifact on its way to its target
    "publish.parents",
    "publish.rename",
    "publish.copy",
    "publish.sync",
    // what a worker leaves behind
    "work.remove",
];

/// Reads which steps are to fail, and how, from `FAILPOINTS`, as in `store.claim:before=2*return(error)`. What `return` may
/// name: `error`, `full` (no space is left) and `kill`; `panic`, `sleep` and how often are the crate `fail`'s.
pub fn start() {
    if fail::has_failpoints() {
        // it lasts as long as the process
        std::mem::forget(fail::FailScenario::setup());
    }
}

/// Just before a step: what fails here has not happened.
pub fn before(step: &str) -> io::Result<()> {
    at(step, "before")
}

/// Just after a step: what fails here has happened, and whoever did it does not know.
pub fn after(step: &str) -> io::Result<()> {
    at(step, "after")
}

/// A step between its two fail points.
pub fn around<T, E>(step: &str, error: impl Fn(io::Error) -> E, it: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    before(step).map_err(&error)?;
    let done = it()?;
    after(step).map_err(&error)?;
    Ok(done)
}

fn at(step: &str, side: &str) -> io::Result<()> {
    if !fail::has_failpoints() {
        return Ok(());
    }
    assert!(STEPS.contains(&step), "{step} is not among the steps that tests know of");
    injected(&format!("{step}:{side}"))
}

// the value is needed only where the crate `fail` has its feature
#[allow(unused_variables, reason = "without the feature the macro is empty")]
fn injected(point: &str) -> io::Result<()> {
    fail::fail_point!(point, |how| fail_by(point, how.as_deref()));
    Ok(())
}

#[cfg_attr(not(test), allow(dead_code, reason = "without the feature nothing calls it"))]
fn fail_by(point: &str, how: Option<&str>) -> io::Result<()> {
    // tests look for it, so that none passes for a point that is never come to
    eprintln!("fault at {point}");
    match how {
        Some("kill") => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::process::abort()
        }
        Some("full") => Err(io::ErrorKind::StorageFull.into()),
        _ => Err(io::Error::other(format!("fault at {point}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_fails_as_it_is_told() {
        assert_eq!(fail_by("p", Some("full")).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fail_by("p", Some("error")).unwrap_err().to_string(), "fault at p");
    }

    #[test]
    fn a_step_that_nothing_is_set_for_passes() {
        let done: io::Result<u8> = around("store.claim", |error| error, || Ok(7));
        assert_eq!(done.unwrap(), 7);
    }
}
