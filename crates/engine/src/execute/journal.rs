//! Which tasks of a plan are done, kept beside the shards, so that an execution that was killed goes on where it stood.
//!
//! Invariants: a task is in the journal only when its bytes are on the disk; two processes may write one journal, since they
//! write the same records and each in one piece.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{ExecuteError, Plan};

const NAME: &str = ".journal";
const MAGIC: &[u8] = b"amalgam journal 1\n";
/// A task's number, and its complement: what a crash has torn or left as zeros is no record.
const RECORD: usize = 8;

pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal of a plan, and gives the tasks that it says are done. One of another plan is begun anew.
    pub(super) fn open(dir: &Path, plan: &Plan) -> Result<(Journal, Vec<usize>), ExecuteError> {
        let path = dir.join(NAME);
        let begin = begin(&plan.digest);
        let io = |error| ExecuteError::io(&path)(error);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(io)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(io)?;
        let found = text.strip_prefix(begin.as_slice());
        let done = found.map_or_else(Vec::new, |records| tasks(records, plan.tasks.len()));
        let mut journal = Journal { file, path };
        // what is added after a torn record would never be read
        if found.is_none_or(|records| !is_whole(records)) {
            journal.keep(plan, &done)?;
        }
        Ok((journal, done))
    }

    /// Begins anew with these tasks: the others' bytes are not there any more.
    pub(super) fn keep(&mut self, plan: &Plan, tasks: &[usize]) -> Result<(), ExecuteError> {
        let all = || {
            fault::before("journal.begin")?;
            self.file.set_len(0)?;
            (&self.file).write_all(&[begin(&plan.digest), records(tasks)].concat())?;
            self.file.sync_data()?;
            fault::after("journal.begin")
        };
        all().map_err(ExecuteError::io(&self.path))
    }

    /// Adds tasks, whose bytes are on the disk.
    pub(super) fn add(&mut self, tasks: &[usize]) -> Result<(), ExecuteError> {
        let mut add = || {
            fault::before("journal.add")?;
            self.file.write_all(&records(tasks))?;
            self.file.sync_data()?;
            fault::after("journal.add")
        };
        add().map_err(ExecuteError::io(&self.path))
    }

    /// An artifact that is whole has none.
    pub fn remove(dir: &Path) -> Result<(), ExecuteError> {
        let path = dir.join(NAME);
        let remove = || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        fault::around("journal.remove", |error| error, remove).map_err(ExecuteError::io(&path))
    }
}

fn begin(digest: &str) -> Vec<u8> {
    [MAGIC, digest.as_bytes(), b"\n"].concat()
}

fn records(tasks: &[usize]) -> Vec<u8> {
    let record = |task: &usize| {
        let number = *task as u32;
        [number.to_le_bytes(), (!number).to_le_bytes()].concat()
    };
    tasks.iter().flat_map(record).collect()
}

fn is_whole(records: &[u8]) -> bool {
    let (whole, torn) = records.as_chunks::<RECORD>();
    torn.is_empty() && whole.iter().all(|record| task(record).is_some())
}

/// A record's task; `None` where it was not written whole.
fn task(record: &[u8; RECORD]) -> Option<usize> {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let (task, check) = (number(&record[..4]), number(&record[4..]));
    (check == !task).then_some(task as usize)
}

/// The tasks of whole records. After a torn one the rest may not lie at its place, so it counts for nothing.
fn tasks(records: &[u8], count: usize) -> Vec<usize> {
    let whole = records.as_chunks::<RECORD>().0.iter().map_while(task);
    let mut tasks: Vec<usize> = whole.filter(|task| *task < count).collect();
    tasks.sort_unstable();
    tasks.dedup();
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_has_torn_is_not_done() {
        let whole = records(&[3, 1, 1, 9]);
        assert_eq!(tasks(&whole, 9), [1, 3]);
        assert_eq!(tasks(&whole[..RECORD + 5], 9), [3]);
        let mut zeros = records(&[2]);
        zeros.extend([0; RECORD]);
        zeros.extend(records(&[4]));
        assert_eq!(tasks(&zeros, 9), [2]);
        assert!(tasks(&[], 9).is_empty());
        assert!(is_whole(&whole) && is_whole(&[]) && !is_whole(&whole[..RECORD + 5]) && !is_whole(&zeros));
    }
}
