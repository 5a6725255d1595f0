//! Whether a worker of this machine still lives: it holds a lock that the kernel drops when its process ends, however
//! that comes. Only asked where all workers are on one machine, which is what SQLite means.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use jobs::{Store, WorkerId};

/// Held as long as the worker lives.
pub(crate) struct Alive {
    path: PathBuf,
    _lock: File,
}

impl Alive {
    pub fn hold(dir: &Path, worker: &WorkerId) -> io::Result<Alive> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(worker.as_str());
        // locked before it has its name: another that starts now never sees it unlocked
        let unnamed = dir.join(format!(".{}", worker.as_str()));
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        std::fs::rename(&unnamed, &path)?;
        Ok(Alive { path, _lock: lock })
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // a file left behind is found dead by the next worker
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Ends the leases of workers that died here.
pub(crate) async fn end_leases_of_the_dead(store: &Store, dir: &Path) {
    for (worker, path) in dead(dir) {
        match store.expire_leases(&worker).await {
            Ok(leases) => {
                tracing::info!(worker, leases, "worker died without ending its leases");
                let _ = std::fs::remove_file(path);
            }
            Err(error) => tracing::warn!(worker, %error, "cannot end the leases of a dead worker"),
        }
    }
}

fn dead(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let named = entries.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()));
    named.filter(|(name, path)| !name.starts_with('.') && is_unlocked(path)).collect()
}

fn is_unlocked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_not_taken_for_dead() {
        let dir = tempfile::tempdir().unwrap();
        let (living, gone) = (WorkerId::generate("living"), WorkerId::generate("gone"));
        let _alive = Alive::hold(dir.path(), &living).unwrap();
        std::fs::write(dir.path().join(gone.as_str()), "").unwrap();
        let found: Vec<String> = dead(dir.path()).into_iter().map(|(id, _)| id).collect();
        assert_eq!(found, [gone.as_str()]);
    }
}
