//! A folder as target: one rename, or where that cannot be, a copy beside it and then one rename.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use engine::artifact::MANIFEST;
use engine::{Artifact, ArtifactFile};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{Publication, PublishError};

pub(crate) fn publish(artifact: &Artifact, target: &Path) -> Result<Publication, PublishError> {
    fault::around("publish.parents", PublishError::io(target), || create_parents(target))?;
    match published_by_rename(&artifact.dir, target)? {
        Ok(()) => {}
        Err(Errno::EXIST | Errno::NOTEMPTY) => return published_before(artifact, target),
        Err(Errno::XDEV) => copy_then_rename(artifact, target)?,
        Err(errno) => return Err(PublishError::io(target)(errno.into())),
    }
    sync_parent(target)?;
    Ok(publication(target, artifact))
}

/// The step by which the artifact is there. What went wrong is the inner error.
fn published_by_rename(from: &Path, to: &Path) -> Result<Result<(), Errno>, PublishError> {
    fault::around("publish.rename", PublishError::io(to), || Ok(rename_new(from, to)))
}

/// Makes the directories above the target, each of them durable.
fn create_parents(target: &Path) -> Result<(), PublishError> {
    let missing: Vec<&Path> =
        target.ancestors().skip(1).take_while(|a| !a.as_os_str().is_empty() && !a.exists()).collect();
    for dir in missing.into_iter().rev() {
        match std::fs::create_dir(dir) {
            // another job made it meanwhile
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            result => result.map_err(PublishError::io(dir))?,
        }
        sync_parent(dir)?;
    }
    Ok(())
}

/// A rename that never replaces, not even an empty directory.
fn rename_new(from: &Path, to: &Path) -> Result<(), Errno> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // file systems without the flag: a look before the rename leaves a moment in which an empty directory could appear
        Err(Errno::INVAL | Errno::NOSYS) if to.exists() => Err(Errno::EXIST),
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::rename(from, to),
        result => result,
    }
}

fn published_before(artifact: &Artifact, target: &Path) -> Result<Publication, PublishError> {
    let found = find(target).filter(|found| found.manifest_sha256 == artifact.manifest_sha256);
    let found = found.ok_or_else(|| PublishError::Occupied { path: target.to_owned() })?;
    sync_parent(target)?;
    remove_work(&artifact.dir);
    Ok(found)
}

/// What is published is published: a leftover is for the sweep.
fn remove_work(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove a work directory");
    }
}

fn copy_then_rename(artifact: &Artifact, target: &Path) -> Result<(), PublishError> {
    let partial = partial_path(target, artifact);
    std::fs::create_dir_all(&partial).map_err(PublishError::io(&partial))?;
    let mut dirs = BTreeSet::from([partial.clone()]);
    let names = artifact.files.iter().map(|f| f.path.as_str()).chain([MANIFEST]);
    for name in names {
        let to = partial.join(name);
        create_parents(&to)?;
        let copy = || std::fs::copy(artifact.dir.join(name), &to);
        fault::around("publish.copy", |error| error, copy).map_err(PublishError::io(&to))?;
        File::open(&to).and_then(|f| f.sync_all()).map_err(PublishError::io(&to))?;
        // stages that are kept have directories of their own
        dirs.insert(to.parent().unwrap_or(&partial).to_owned());
    }
    for dir in dirs {
        File::open(&dir).and_then(|d| d.sync_all()).map_err(PublishError::io(&dir))?;
    }
    match published_by_rename(&partial, target)? {
        Ok(()) => {}
        Err(Errno::EXIST | Errno::NOTEMPTY) => {
            std::fs::remove_dir_all(&partial).map_err(PublishError::io(&partial))?;
            return published_before(artifact, target).map(drop);
        }
        Err(errno) => return Err(PublishError::io(target)(errno.into())),
    }
    remove_work(&artifact.dir);
    Ok(())
}

/// Of this work directory alone, as that is of one lease alone.
fn partial_path(target: &Path, artifact: &Artifact) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let from = checkpoint::digest_bytes(artifact.dir.as_os_str().as_encoded_bytes());
    target.with_file_name(format!(".{name}.partial-{}-{}", &artifact.plan_digest[..16], &from[..8]))
}

fn sync_parent(target: &Path) -> Result<(), PublishError> {
    let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    let sync = || File::open(parent).and_then(|d| d.sync_all());
    fault::around("publish.sync", |error| error, sync).map_err(PublishError::io(parent))
}

fn publication(target: &Path, artifact: &Artifact) -> Publication {
    Publication {
        uri: uri(target),
        plan_digest: artifact.plan_digest.clone(),
        bytes: artifact.files.iter().map(|f| f.bytes).sum(),
        files: artifact.files.clone(),
        manifest_sha256: artifact.manifest_sha256.clone(),
    }
}

fn uri(path: &Path) -> String {
    format!("file://{}", std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display())
}

/// The folder that a publication's address names.
pub(crate) fn path_of(uri: &str) -> Option<PathBuf> {
    uri.strip_prefix("file://").map(PathBuf::from)
}

/// Reads a publication back from its manifest; `None` where there is none, or a file is missing or has another length.
pub(crate) fn find(target: &Path) -> Option<Publication> {
    let text = std::fs::read(target.join(MANIFEST)).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let files: Vec<ArtifactFile> = serde_json::from_value(manifest.get("outputs")?.clone()).ok()?;
    let whole = |file: &ArtifactFile| std::fs::metadata(target.join(&file.path)).is_ok_and(|m| m.len() == file.bytes);
    files.iter().all(whole).then_some(())?;
    // whoever renamed it may have died before this
    sync_parent(target).ok()?;
    Some(Publication {
        uri: uri(target),
        plan_digest: manifest.get("plan_digest")?.as_str()?.to_owned(),
        bytes: files.iter().map(|f| f.bytes).sum(),
        files,
        manifest_sha256: checkpoint::digest_bytes(&text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    fn artifact(root: &Path, content: &str) -> Artifact {
        let dir = root.join(format!("work-{content}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.json"), content).unwrap();
        let file = ArtifactFile {
            path: "config.json".into(),
            bytes: content.len() as u64,
            sha256: checkpoint::digest_bytes(content.as_bytes()),
        };
        let plan_digest = checkpoint::digest_bytes(content.as_bytes());
        let manifest = serde_json::json!({"plan_digest": plan_digest, "outputs": [file]}).to_string();
        std::fs::write(dir.join(MANIFEST), &manifest).unwrap();
        Artifact { dir, plan_digest, files: vec![file], manifest_sha256: checkpoint::digest_bytes(manifest.as_bytes()) }
    }

    #[test]
    fn an_artifact_appears_whole_and_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b/out");
        let artifact = artifact(root.path(), "one");
        let publication = publish(&artifact, &target).unwrap();
        assert_eq!(publication.uri, format!("file://{}", target.display()));
        assert!(!artifact.dir.exists());
        let found = crate::find_published(&Target::Folder(target.clone()), &artifact.plan_digest).unwrap();
        assert_eq!(found, publication);
        assert_eq!(crate::find_published(&Target::Folder(target), "other"), None);
    }

    #[test]
    fn publishing_again_changes_nothing_and_something_else_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let first = publish(&artifact(root.path(), "one"), &target).unwrap();
        assert_eq!(publish(&artifact(root.path(), "one"), &target).unwrap(), first);
        let other = artifact(root.path(), "two");
        assert!(matches!(publish(&other, &target), Err(PublishError::Occupied { .. })));
        assert_eq!(std::fs::read_to_string(target.join("config.json")).unwrap(), "one");
        assert!(other.dir.exists());
        let empty = root.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(matches!(publish(&other, &empty), Err(PublishError::Occupied { .. })));
    }

    #[test]
    fn half_an_artifact_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let artifact = artifact(root.path(), "one");
        publish(&artifact, &target).unwrap();
        std::fs::write(target.join("config.json"), "on").unwrap();
        assert_eq!(find(&target), None);
    }

    #[test]
    fn another_file_system_gets_a_copy() {
        let root = tempfile::tempdir().unwrap();
        let mut artifact = artifact(root.path(), "one");
        std::fs::create_dir_all(artifact.dir.join("stages/a")).unwrap();
        std::fs::write(artifact.dir.join("stages/a/config.json"), "{}").unwrap();
        artifact.files.push(ArtifactFile { path: "stages/a/config.json".into(), bytes: 2, sha256: String::new() });
        let target = root.path().join("out");
        copy_then_rename(&artifact, &target).unwrap();
        assert!(find(&target).is_some() && !artifact.dir.exists());
        assert_eq!(std::fs::read_to_string(target.join("stages/a/config.json")).unwrap(), "{}");
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["out"]);
    }
}
