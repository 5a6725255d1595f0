//! The output's shards while they are written: hashed as far as they are whole, and brought to the disk behind the merge.
//!
//! Invariant: nothing waits for a digest or for the disk before all tensors are merged.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use checkpoint::{Digester, ShardFile, ShardLayout};
use rayon::prelude::*;

use super::journal::Journal;
use super::{ExecuteError, Execution};
use crate::plan::Plan;

/// Bytes hashed at a time: read back while they are in the cache.
const PIECE: usize = 1 << 18;

/// What is done goes to the disk when it is so many bytes, or when so long has passed.
const SYNC_BYTES: u64 = 128 << 20;
const SYNC_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Output {
    shards: Vec<Shard>,
    /// Tasks that an earlier execution has done.
    pub done: Vec<bool>,
}

struct Shard {
    file: ShardFile,
    bytes: u64,
    /// Its tasks in the order of their places, each with its end.
    parts: Vec<(usize, u64)>,
    hashing: Mutex<Hashing>,
}

impl Shard {
    fn new(file: ShardFile, layout: &ShardLayout) -> Shard {
        Shard { file, bytes: layout.bytes, parts: Vec::new(), hashing: Mutex::default() }
    }
}

#[derive(Default)]
struct Hashing {
    digester: Digester,
    /// Bytes hashed.
    at: u64,
    /// Parts hashed.
    parts: usize,
    buffer: Vec<u8>,
}

/// Tells of tasks that are done.
pub(super) struct Done<'a> {
    output: &'a Output,
    execution: &'a Execution<'a>,
    flags: Vec<AtomicBool>,
    unsettled: &'a Unsettled,
    /// Of the thread that brings them to the disk.
    failed: &'a Mutex<Option<ExecuteError>>,
}

/// What is done and not yet on the disk.
#[derive(Default)]
struct Unsettled {
    done: Mutex<Tasks>,
    enough: Condvar,
}

#[derive(Default)]
struct Tasks {
    list: Vec<usize>,
    bytes: u64,
    /// No more will come.
    closed: bool,
}

impl Unsettled {
    fn add(&self, task: usize, bytes: u64) {
        let mut done = lock(&self.done);
        done.list.push(task);
        done.bytes += bytes;
        // a wake-up for each of many small tensors would cost more than the tensors
        if done.bytes >= SYNC_BYTES {
            self.enough.notify_one();
        }
    }

    /// What is done, when it is enough or long enough ago; `None` when that was all.
    fn take(&self) -> Option<Vec<usize>> {
        let mut done = lock(&self.done);
        loop {
            let waited =
                self.enough.wait_timeout_while(done, SYNC_EVERY, |done| !done.closed && done.bytes < SYNC_BYTES);
            done = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            if !done.list.is_empty() {
                done.bytes = 0;
                return Some(std::mem::take(&mut done.list));
            }
            if done.closed {
                return None;
            }
        }
    }
}

impl Output {
    /// Creates the shards, or opens those that an earlier execution has begun.
    pub fn open(plan: &Plan, dir: &Path) -> Result<(Output, Journal), ExecuteError> {
        let (mut journal, tasks) = Journal::open(dir, plan)?;
        let has_shard: Vec<bool> = plan
            .shards
            .iter()
            .map(|shard| std::fs::metadata(dir.join(&shard.file_name)).is_ok_and(|found| found.len() == shard.bytes))
            .collect();
        let kept: Vec<usize> = tasks.iter().copied().filter(|task| has_shard[plan.tasks[*task].shard]).collect();
        if kept.len() < tasks.len() {
            journal.keep(plan, &kept)?;
        }
        let mut done = vec![false; plan.tasks.len()];
        kept.iter().for_each(|task| done[*task] = true);
        let create = |layout: &ShardLayout| {
            let io = ExecuteError::io(dir.join(&layout.file_name));
            let create = || Ok(Shard::new(ShardFile::create(dir, layout)?, layout));
            fault::around("shard.create", io, create)
        };
        let mut shards =
            plan.shards.iter().map(create).collect::<Result<Vec<_>, ExecuteError>>().inspect_err(|_| {
                if kept.is_empty() {
                    // a disk that was too full for all of them is not to be fuller for it
                    plan.shards.iter().for_each(|layout| drop(std::fs::remove_file(dir.join(&layout.file_name))));
                }
            })?;
        for (i, task) in plan.tasks.iter().enumerate() {
            shards[task.shard].parts.push((i, task.start + task.bytes()));
        }
        for shard in &mut shards {
            shard.parts.sort_by_key(|(task, end)| (*end, plan.tasks[*task].start));
        }
        Ok((Output { shards, done }, journal))
    }

    /// Tasks that are to be done, in the order in which they lie in the shards: so hashing keeps up.
    pub fn to_do(&self) -> Vec<usize> {
        let in_order = self.shards.iter().flat_map(|shard| shard.parts.iter().map(|(task, _)| *task));
        in_order.filter(|task| !self.done[*task]).collect()
    }

    pub fn file(&self, shard: usize) -> &ShardFile {
        &self.shards[shard].file
    }

    /// Runs `merge`, which tells of what is done, while another thread brings that to the disk and into the journal.
    pub fn write(
        &self,
        execution: &Execution<'_>,
        journal: Journal,
        merge: impl FnOnce(&Done<'_>) -> Result<(), ExecuteError> + Send,
    ) -> Result<(), ExecuteError> {
        let failed = Mutex::new(None);
        let unsettled = Unsettled::default();
        let done = Done {
            output: self,
            execution,
            flags: self.done.iter().map(|done| AtomicBool::new(*done)).collect(),
            unsettled: &unsettled,
            failed: &failed,
        };
        let merged = std::thread::scope(|scope| {
            let plan = execution.plan;
            let (failed, unsettled) = (&failed, &unsettled);
            scope.spawn(move || {
                if let Err(error) = self.settle(plan, journal, unsettled) {
                    *lock(failed) = Some(error);
                }
            });
            let _closed = Closed(unsettled);
            merge(&done)
        });
        merged?;
        match lock(&failed).take() {
            Some(error) => Err(error),
            None => self.shards.par_iter().try_for_each(|shard| done.hash(shard, &mut lock(&shard.hashing))),
        }
    }

    /// Brings tasks to the disk as they are told of, until none can come any more.
    fn settle(&self, plan: &Plan, mut journal: Journal, unsettled: &Unsettled) -> Result<(), ExecuteError> {
        while let Some(tasks) = unsettled.take() {
            let mut shards: Vec<usize> = tasks.iter().map(|task| plan.tasks[*task].shard).collect();
            shards.sort_unstable();
            shards.dedup();
            for shard in shards {
                let file = &self.shards[shard].file;
                fault::around("shard.sync", ExecuteError::io(&file.path), || Ok(file.sync_data()?))?;
            }
            journal.add(&tasks)?;
        }
        self.shards.iter().try_for_each(|shard| Ok(shard.file.sync()?))
    }

    /// SHA-256 of each shard, all of which are whole.
    pub fn digests(self) -> Vec<String> {
        let finish = |shard: Shard| shard.hashing.into_inner().expect("hashing does not panic").digester.finish();
        self.shards.into_iter().map(finish).collect()
    }
}

/// Lets the other thread end: nobody can tell it of more when this is gone, however the merge ended.
struct Closed<'a>(&'a Unsettled);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        lock(&self.0.done).closed = true;
        self.0.enough.notify_one();
    }
}

impl Done<'_> {
    /// Tells that a task is done, and hashes what follows from it unless another thread is at that.
    pub fn tell(&self, task: usize) -> Result<(), ExecuteError> {
        self.flags[task].store(true, Ordering::Release);
        self.unsettled.add(task, self.execution.plan.tasks[task].bytes());
        if let Some(error) = lock(self.failed).take() {
            return Err(error);
        }
        let shard = &self.output.shards[self.execution.plan.tasks[task].shard];
        match shard.hashing.try_lock() {
            Ok(mut hashing) => self.hash(shard, &mut hashing),
            Err(_) => Ok(()),
        }
    }

    /// Hashes the shard as far as it is whole from its beginning.
    fn hash(&self, shard: &Shard, hashing: &mut Hashing) -> Result<(), ExecuteError> {
        hashing.buffer.resize(PIECE, 0);
        loop {
            let rest = &shard.parts[hashing.parts..];
            let whole = rest.iter().take_while(|(task, _)| self.flags[*task].load(Ordering::Acquire)).count();
            let is_last = hashing.parts + whole == shard.parts.len();
            let end = match whole {
                _ if is_last => shard.bytes,
                0 => return Ok(()),
                whole => rest[whole - 1].1,
            };
            if !is_last && end - hashing.at < PIECE as u64 {
                return Ok(());
            }
            while hashing.at < end {
                self.execution.stop_if_cancelled()?;
                let Hashing { digester, at, buffer, .. } = hashing;
                let piece = &mut buffer[..PIECE.min((end - *at) as usize)];
                shard.file.read_at(*at, piece)?;
                digester.update(piece);
                *at += piece.len() as u64;
                self.execution.add_bytes(piece.len() as u64);
            }
            hashing.parts += whole;
            if is_last {
                // of thousands of shards the buffers would add up
                hashing.buffer = Vec::new();
                return Ok(());
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_is_let_go_even_by_a_panic() {
        let unsettled = Unsettled::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| while unsettled.take().is_some() {});
                let _closed = Closed(&unsettled);
                panic!("in the merge");
            })
        }));
        assert!(panicked.is_err() && lock(&unsettled.done).closed);
    }

    #[test]
    fn what_is_added_is_taken_once_and_then_there_is_an_end() {
        let unsettled = Unsettled::default();
        unsettled.add(3, SYNC_BYTES);
        unsettled.add(5, 1);
        assert_eq!(unsettled.take(), Some(vec![3, 5]));
        unsettled.add(7, 1);
        drop(Closed(&unsettled));
        assert_eq!((unsettled.take(), unsettled.take()), (Some(vec![7]), None));
    }
}
