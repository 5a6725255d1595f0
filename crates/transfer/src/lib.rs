//! Artifacts out: to a folder today, to object stores and the Hub later.
//!
//! Invariant: a target never shows half an artifact; it appears by one atomic step or not at all.

mod folder;

use std::path::{Path, PathBuf};

use engine::{Artifact, ArtifactFile};
use serde::{Deserialize, Serialize};

/// Where an artifact is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory that does not exist yet.
    Folder(PathBuf),
}

/// An artifact at its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub uri: String,
    pub plan_digest: String,
    pub bytes: u64,
    pub files: Vec<ArtifactFile>,
    /// SHA-256 of the manifest, which holds the digests of all other files.
    pub manifest_sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("{path} exists already and holds something else; choose another output", path = path.display())]
    Occupied { path: PathBuf },
    #[error("{path} has {bytes} bytes where {expected} were written", path = path.display())]
    Changed { path: PathBuf, bytes: u64, expected: u64 },
    #[error("cancelled")]
    Cancelled,
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl PublishError {
    pub fn io(path: impl Into<PathBuf>) -> impl Fn(std::io::Error) -> PublishError {
        let path = path.into();
        move |source| PublishError::Io { path: path.clone(), source }
    }

    pub fn occupied(target: &Target) -> PublishError {
        let Target::Folder(path) = target;
        PublishError::Occupied { path: path.clone() }
    }

    pub fn is_transient(&self) -> bool {
        matches!(self, PublishError::Io { .. } | PublishError::Changed { .. })
    }
}

/// An artifact at the side of its target, one step before it is there. Dropped, it leaves nothing beside the target.
#[derive(Debug)]
pub struct Prepared(folder::Prepared);

/// Brings the artifact to where one step publishes it, which may copy all of it; `goes_on` is told of bytes and says whether
/// to. `attempt` is a name that no other attempt has.
pub fn prepare(
    artifact: Artifact,
    target: &Target,
    attempt: &str,
    goes_on: &dyn Fn(u64) -> bool,
) -> Result<Prepared, PublishError> {
    match target {
        Target::Folder(path) => {
            folder::prepare(artifact, path, &folder::partial_path(path, attempt), goes_on).map(Prepared)
        }
    }
}

impl Prepared {
    /// The one step. Publishing the same artifact again finds it there and changes nothing.
    pub fn publish(self) -> Result<Publication, PublishError> {
        self.0.publish()
    }
}

/// What an attempt of this name may leave beside its target when it is killed.
pub fn partial(target: &Target, attempt: &str) -> PathBuf {
    match target {
        Target::Folder(path) => folder::partial_path(path, attempt),
    }
}

/// Removes what a killed attempt has left at the path that [`partial`] gave.
pub fn remove_partial(path: &Path) {
    folder::remove_partial(path);
}

/// What an earlier attempt of the same plan has published, whole: a crash after publishing is completed, not repeated.
pub fn find_published(target: &Target, plan_digest: &str) -> Option<Publication> {
    match target {
        Target::Folder(path) => folder::find(path).filter(|found| found.plan_digest == plan_digest),
    }
}

/// A publication that was told of before, if it is still there and whole, with the same manifest.
pub fn find_again(told: &Publication) -> Option<Publication> {
    let path = folder::path_of(&told.uri)?;
    folder::find(&path).filter(|found| found.manifest_sha256 == told.manifest_sha256)
}

/// Whether something stands where the artifact is to go.
pub fn is_occupied(target: &Target) -> bool {
    match target {
        Target::Folder(path) => path.symlink_metadata().is_ok(),
    }
}
