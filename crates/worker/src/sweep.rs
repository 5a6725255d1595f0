//! Work directories that a killed worker left behind, of jobs that have ended since.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jobs::{JobId, Store};

use crate::answered;

pub(crate) async fn remove_finished_work(store: &Store, work: &Path) {
    let Ok(entries) = std::fs::read_dir(work) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<JobId>() else { continue };
        match answered(store.job(&id)).await {
            Ok(Some(job)) if job.status.is_terminal() => remove(entry.path()).await,
            // forgotten, or of another database that only shares the directory
            Ok(None) if is_old(&entry.path()) => remove(entry.path()).await,
            Ok(_) => {}
            Err(error) => return tracing::warn!(%error, "cannot tell which work directories are done with"),
        }
    }
}

/// So old is the work of a job that nobody knows.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);

fn is_old(dir: &Path) -> bool {
    let modified = dir.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > OLD))
}

/// Names of files in a job's work directory, each of which holds the path of a copy that an attempt may leave elsewhere.
const PARTIAL: &str = "partial-";

/// Notes, before it is begun, where the attempt of this token copies the artifact to. What attempts before it have left is
/// removed; those after it are none of its business.
pub(crate) fn note_partial(work: &Path, token: i64, partial: &Path) -> std::io::Result<()> {
    remove_partials(work, token);
    let note = File::create(work.join(format!("{PARTIAL}{token}")))?;
    (&note).write_all(partial.as_os_str().as_bytes())?;
    note.sync_all()?;
    File::open(work)?.sync_all()
}

/// Of attempts before this token.
fn remove_partials(work: &Path, before: i64) {
    let Ok(entries) = std::fs::read_dir(work) else { return };
    for note in entries.flatten() {
        let name = note.file_name();
        let token = name.to_str().and_then(|name| name.strip_prefix(PARTIAL)).and_then(|token| token.parse().ok());
        let Some(token) = token else { continue };
        if before <= token {
            continue;
        }
        let Ok(path) = std::fs::read(note.path()) else { continue };
        transfer::remove_partial(Path::new(OsStr::from_bytes(&path)));
    }
}

/// With all that is in it, and what it notes of copies elsewhere; off the runtime's threads: it may be much.
pub(crate) async fn remove(dir: PathBuf) {
    let removing = dir.clone();
    let remove = move || {
        remove_partials(&removing, i64::MAX);
        fault::around("work.remove", |error| error, || std::fs::remove_dir_all(removing))
    };
    let removed = tokio::task::spawn_blocking(remove).await;
    match removed.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove a work directory");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_removes_copies_of_those_before_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let partial = |token: i64| dir.path().join(format!(".out.partial-{token}"));
        for token in [3, 5] {
            std::fs::create_dir(partial(token)).unwrap();
            note_partial(dir.path(), token, &partial(token)).unwrap();
        }
        assert!(!partial(3).exists() && partial(5).exists());
        note_partial(dir.path(), 4, &partial(4)).unwrap();
        assert!(partial(5).exists());
        remove_partials(dir.path(), i64::MAX);
        assert!(!partial(5).exists());
    }
}
