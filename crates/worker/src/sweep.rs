//! Work directories that a killed worker left behind, of jobs that have ended since.

use std::path::{Path, PathBuf};

use jobs::{JobId, Store};

pub(crate) async fn remove_finished_work(store: &Store, work: &Path) {
    let Ok(entries) = std::fs::read_dir(work) else { return };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<JobId>() else { continue };
        match store.job(&id).await {
            Ok(Some(job)) if job.status.is_terminal() => remove(entry.path()).await,
            Ok(_) => {}
            Err(error) => return tracing::warn!(%error, "cannot tell which work directories are done with"),
        }
    }
}

/// With all that is in it, off the runtime's threads: it may be much.
pub(crate) async fn remove(dir: PathBuf) {
    let removing = dir.clone();
    let remove = move || fault::around("work.remove", |error| error, || std::fs::remove_dir_all(removing));
    let removed = tokio::task::spawn_blocking(remove).await;
    match removed.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot remove a work directory");
        }
        _ => {}
    }
}
