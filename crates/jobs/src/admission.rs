//! Which job may run where and when.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::JobId;

/// A job whose workers were lost so often fails: its recipe may be what kills them.
pub const WORKERS_LOST_MAX: i64 = 3;

/// What a job asks of the queue beside its recipe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    /// Whose job it is: nobody else sees it.
    pub tenant: String,
    /// Whose share of the workers it counts against.
    pub owner: String,
    /// Not to be begun before this time, in milliseconds since the epoch; at once where absent.
    pub run_at: Option<i64>,
    /// How long it may wait for a worker, from its time on, in milliseconds.
    pub queue_ttl_ms: Option<i64>,
    /// How long an attempt may take, in milliseconds.
    pub timeout_ms: Option<i64>,
    /// What another job has published for the same plan will do.
    pub reuse: bool,
    pub requirements: Requirements,
}

/// What a worker must have for a job, as its plan says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub gpu_memory_bytes: u64,
    /// Labels that its worker must carry.
    pub labels: BTreeSet<String>,
    /// What it reads, by name: a worker that has it at hand already is preferred.
    pub sources: BTreeSet<String>,
}

/// What a worker has left for one more job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    pub memory_bytes: u64,
    /// A job that finds no room here in a minute, and none elsewhere, is taken all the same, to end with an error that says so.
    pub disk_bytes: u64,
    pub gpu_memory_bytes: u64,
    pub labels: BTreeSet<String>,
    /// Sources that it has at hand.
    pub sources: BTreeSet<String>,
    /// Whether jobs whose sources others have at hand are left to those for a moment.
    pub prefers_sources: bool,
    /// Jobs that it could not begin before: they are left to others that can.
    pub avoids: BTreeSet<JobId>,
    /// Whether it takes over jobs whose lease has run out.
    pub takes_over: bool,
}

impl Capacity {
    /// Fits every job that asks for no label and no GPU.
    pub fn unlimited() -> Capacity {
        Capacity {
            memory_bytes: u64::MAX,
            disk_bytes: u64::MAX,
            gpu_memory_bytes: 0,
            labels: BTreeSet::new(),
            sources: BTreeSet::new(),
            prefers_sources: true,
            avoids: BTreeSet::new(),
            takes_over: true,
        }
    }

    /// Whether it is a worker for the job at all, when it has nothing else to do.
    pub fn suits(&self, needed: &Requirements) -> bool {
        needed.gpu_memory_bytes <= self.gpu_memory_bytes && needed.labels.is_subset(&self.labels)
    }

    /// Whether it has the memory left for it.
    pub fn fits(&self, needed: &Requirements) -> bool {
        needed.memory_bytes <= self.memory_bytes && self.suits(needed)
    }
}

/// How many jobs may run at once, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub running_max: u32,
    pub running_per_owner_max: u32,
}

impl Limits {
    pub const NONE: Limits = Limits { running_max: u32::MAX, running_per_owner_max: u32::MAX };
}

/// How many jobs may wait for a worker; those that are to be begun later among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    pub queued_max: u32,
    /// Of one owner.
    pub queued_per_owner_max: u32,
}

impl QueueLimits {
    pub const NONE: QueueLimits = QueueLimits { queued_max: u32::MAX, queued_per_owner_max: u32::MAX };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_fits_what_asks_for_no_more_than_it_has() {
        let labels = |of: &[&str]| of.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
        let worker = Capacity { memory_bytes: 10, labels: labels(&["a", "b"]), ..Capacity::unlimited() };
        let needed = Requirements { memory_bytes: 10, labels: labels(&["b"]), ..Requirements::default() };
        assert!(worker.fits(&needed) && worker.fits(&Requirements::default()));
        let too_much = [
            Requirements { memory_bytes: 11, ..needed.clone() },
            Requirements { gpu_memory_bytes: 1, ..needed.clone() },
            Requirements { labels: labels(&["c"]), ..needed },
        ];
        assert!(too_much.iter().all(|needed| !worker.fits(needed)));
    }
}
