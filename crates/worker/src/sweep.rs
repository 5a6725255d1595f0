//! Work directories that a killed worker left behind, of jobs that have ended since.

use std::path::Path;

use jobs::{JobId, Store};

pub(crate) async fn remove_finished_work(store: &Store, work: &Path) {
    let Ok(entries) = std::fs::read_dir(work) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<JobId>() else { continue };
        match store.job(&id).await {
            Ok(Some(job)) if job.status.is_terminal() => remove(&entry.path()),
            Ok(_) => {}
            Err(error) => return tracing::warn!(%error, "cannot tell which work directories are done with"),
        }
    }
}

pub(crate) fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove a work directory");
        }
        _ => {}
    }
}
