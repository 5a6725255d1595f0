//! Artifacts out: to a folder today, to object stores and the Hub later.
//!
//! Invariant: a target never shows half an artifact; it appears by one atomic step or not at all.

mod folder;

use std::path::PathBuf;

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
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl PublishError {
    fn io(path: impl Into<PathBuf>) -> impl Fn(std::io::Error) -> PublishError {
        let path = path.into();
        move |source| PublishError::Io { path: path.clone(), source }
    }

    pub fn occupied(target: &Target) -> PublishError {
        let Target::Folder(path) = target;
        PublishError::Occupied { path: path.clone() }
    }

    pub fn is_transient(&self) -> bool {
        matches!(self, PublishError::Io { .. })
    }
}

/// Moves the artifact to its target. Publishing the same artifact again finds it there and changes nothing.
pub fn publish(artifact: &Artifact, target: &Target) -> Result<Publication, PublishError> {
    match target {
        Target::Folder(path) => folder::publish(artifact, path),
    }
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
