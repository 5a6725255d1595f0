//! Work directories that a killed worker left behind, of jobs that have ended since.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jobs::{JobId, Store};

pub(crate) async fn remove_finished_work(store: &Store, work: &Path) {
    let Ok(entries) = std::fs::read_dir(work) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<JobId>() else { continue };
        match store.job(&id).await {
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

/// Notes, before it is begun, where an attempt copies the artifact to. What earlier attempts have left is removed: they are over.
pub(crate) fn note_partial(work: &Path, attempt: &str, partial: &Path) -> std::io::Result<()> {
    remove_partials(work);
    let note = File::create(work.join(format!("{PARTIAL}{attempt}")))?;
    (&note).write_all(partial.as_os_str().as_bytes())?;
    note.sync_all()?;
    File::open(work)?.sync_all()
}

fn remove_partials(work: &Path) {
    let Ok(entries) = std::fs::read_dir(work) else { return };
    let notes = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PARTIAL));
    for note in notes {
        let Ok(path) = std::fs::read(note.path()) else { continue };
        transfer::remove_partial(Path::new(OsStr::from_bytes(&path)));
        let _ = std::fs::remove_file(note.path());
    }
}

/// With all that is in it, and what it notes of copies elsewhere; off the runtime's threads: it may be much.
pub(crate) async fn remove(dir: PathBuf) {
    let removing = dir.clone();
    let remove = move || {
        remove_partials(&removing);
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
