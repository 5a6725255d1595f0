//! A folder as target: one rename, or where that cannot be, a copy beside it and then one rename.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use engine::artifact::MANIFEST;
use engine::{Artifact, ArtifactFile};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{Publication, PublishError};

/// Bytes copied between two looks at whether it is to go on.
const PIECE: u64 = 16 << 20;

/// What the last step will move, and where to.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub artifact: Artifact,
    target: PathBuf,
    /// The directory that is renamed: the work itself, or a copy of it beside the target.
    from: PathBuf,
}

impl Drop for Prepared {
    /// A copy that was not moved to its place is in nobody's way.
    fn drop(&mut self) {
        if self.from != self.artifact.dir && self.from.exists() {
            remove(&self.from);
        }
    }
}

/// Brings the artifact to the file system of the target. `partial` names a copy, where one is needed, beside the target.
pub(crate) fn prepare(
    artifact: Artifact,
    target: &Path,
    partial: &Path,
    goes_on: &dyn Fn(u64) -> bool,
) -> Result<Prepared, PublishError> {
    fault::around("publish.parents", PublishError::io(target), || create_parents(target))?;
    if is_renamed(&artifact, partial)? {
        return Ok(Prepared { from: artifact.dir.clone(), target: target.to_owned(), artifact });
    }
    // whatever goes wrong from here on, the copy goes with it
    let prepared = Prepared { from: partial.to_owned(), target: target.to_owned(), artifact };
    copy(&prepared.artifact, partial, goes_on)?;
    Ok(prepared)
}

/// Whether the work can be moved to where the target is: what holds for an empty directory beside it holds for it.
fn is_renamed(artifact: &Artifact, partial: &Path) -> Result<bool, PublishError> {
    // of this attempt alone, as the name of the copy is
    let attempt = partial.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let probe = artifact.dir.with_file_name(format!("probe{attempt}"));
    // one that a crash has left is as good
    match std::fs::create_dir(&probe) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(PublishError::io(probe)(error)),
        _ => {}
    }
    let moved = rustix::fs::rename(&probe, partial);
    let is_renamed = match moved {
        Ok(()) => {
            std::fs::remove_dir(partial).map_err(PublishError::io(partial))?;
            return Ok(true);
        }
        Err(Errno::XDEV) => Ok(false),
        Err(errno) => Err(PublishError::io(partial)(errno.into())),
    };
    std::fs::remove_dir(&probe).map_err(PublishError::io(&probe))?;
    is_renamed
}

impl Prepared {
    /// The one step by which the artifact is there.
    pub fn publish(self) -> Result<Publication, PublishError> {
        let (artifact, target) = (&self.artifact, &self.target);
        // whoever else was at the same work may have moved it away, or be writing it still
        assert_whole(artifact, &self.from)?;
        let moved = fault::around("publish.rename", PublishError::io(target), || Ok(rename_new(&self.from, target)))?;
        match moved {
            Ok(()) => sync_parent(target)?,
            Err(Errno::EXIST | Errno::NOTEMPTY) => return published_before(artifact, target),
            Err(errno) => return Err(PublishError::io(target)(errno.into())),
        }
        if self.from != artifact.dir {
            remove(&artifact.dir);
        }
        Ok(publication(target, artifact))
    }
}

fn assert_whole(artifact: &Artifact, dir: &Path) -> Result<(), PublishError> {
    for file in &artifact.files {
        let path = dir.join(&file.path);
        let bytes = std::fs::metadata(&path).map_err(PublishError::io(&path))?.len();
        if bytes != file.bytes {
            return Err(PublishError::Changed { path, bytes, expected: file.bytes });
        }
    }
    Ok(())
}

/// Makes the directories above the target, each of them durable.
fn create_parents(target: &Path) -> Result<(), PublishError> {
    let missing: Vec<&Path> =
        target.ancestors().skip(1).take_while(|a| !a.as_os_str().is_empty() && !a.exists()).collect();
    for dir in missing.into_iter().rev() {
        create_dir(dir)?;
        sync_parent(dir)?;
    }
    Ok(())
}

fn create_dir(dir: &Path) -> Result<(), PublishError> {
    match std::fs::create_dir(dir) {
        // another job made it meanwhile
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(PublishError::io(dir)),
    }
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
    remove(&artifact.dir);
    Ok(found)
}

/// What is published is published: a leftover is for the sweep.
fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove a directory");
    }
}

/// Copies into a directory that is not there yet: nobody else writes to it.
fn copy(artifact: &Artifact, to: &Path, goes_on: &dyn Fn(u64) -> bool) -> Result<(), PublishError> {
    std::fs::create_dir(to).map_err(PublishError::io(to))?;
    let mut dirs = BTreeSet::from([to.to_owned()]);
    for name in artifact.files.iter().map(|f| f.path.as_str()).chain([MANIFEST]) {
        let file = to.join(name);
        // stages that are kept have directories of their own
        for dir in
            Path::new(name).ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()).collect::<Vec<_>>().iter().rev()
        {
            create_dir(&to.join(dir))?;
            dirs.insert(to.join(dir));
        }
        let copied = fault::around("publish.copy", PublishError::io(&file), || {
            copy_file(&artifact.dir.join(name), &file, goes_on).map_err(PublishError::io(&file))
        });
        if !copied? {
            return Err(PublishError::Cancelled);
        }
    }
    for dir in dirs {
        File::open(&dir).and_then(|d| d.sync_all()).map_err(PublishError::io(&dir))?;
    }
    Ok(())
}

/// Whether it came to the end.
fn copy_file(from: &Path, to: &Path, goes_on: &dyn Fn(u64) -> bool) -> std::io::Result<bool> {
    let (from, mut to) = (File::open(from)?, File::create_new(to)?);
    loop {
        let copied = std::io::copy(&mut (&from).take(PIECE), &mut to)?;
        if !goes_on(copied) {
            return Ok(false);
        }
        if copied == 0 {
            to.sync_all()?;
            return Ok(true);
        }
    }
}

/// Beside the target, of one attempt alone.
pub(crate) fn partial_path(target: &Path, attempt: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}{PARTIAL}{attempt}"))
}

const PARTIAL: &str = ".partial-";

/// Removes what an attempt that is over has left beside its target. Anything else is left alone.
pub(crate) fn remove_partial(partial: &Path) {
    let name = partial.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with('.') && name.contains(PARTIAL) && partial.exists() {
        remove(partial);
    }
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

    fn publish(artifact: &Artifact, target: &Path) -> Result<Publication, PublishError> {
        prepare(artifact.clone(), target, &partial_path(target, "a-1"), &|_| true)?.publish()
    }

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

    /// One with a directory of its own inside.
    fn nested(root: &Path) -> Artifact {
        let mut artifact = artifact(root, "one");
        std::fs::create_dir_all(artifact.dir.join("stages/a")).unwrap();
        std::fs::write(artifact.dir.join("stages/a/config.json"), "{}").unwrap();
        artifact.files.push(ArtifactFile { path: "stages/a/config.json".into(), bytes: 2, sha256: String::new() });
        artifact
    }

    fn copied(artifact: Artifact, target: &Path, goes_on: &dyn Fn(u64) -> bool) -> Result<Prepared, PublishError> {
        let partial = partial_path(target, "a-1");
        let prepared = Prepared { from: partial.clone(), target: target.to_owned(), artifact };
        copy(&prepared.artifact, &partial, goes_on)?;
        Ok(prepared)
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn another_file_system_gets_a_copy() {
        let root = tempfile::tempdir().unwrap();
        let artifact = nested(root.path());
        let target = root.path().join("out");
        let prepared = copied(artifact.clone(), &target, &|_| true).unwrap();
        assert!(!target.exists());
        prepared.publish().unwrap();
        assert!(find(&target).is_some() && !artifact.dir.exists());
        assert_eq!(std::fs::read_to_string(target.join("stages/a/config.json")).unwrap(), "{}");
        assert_eq!(names(root.path()), ["out"]);
    }

    #[test]
    fn a_copy_that_is_stopped_or_not_published_goes() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let artifact = nested(root.path());
        assert!(matches!(copied(artifact.clone(), &target, &|_| false), Err(PublishError::Cancelled)));
        drop(copied(artifact.clone(), &target, &|_| true).unwrap());
        assert_eq!(names(root.path()), ["work-one"]);
    }

    #[test]
    fn what_another_has_cut_short_is_not_published() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let prepared = copied(nested(root.path()), &target, &|_| true).unwrap();
        std::fs::write(partial_path(&target, "a-1").join("stages/a/config.json"), "").unwrap();
        assert!(matches!(prepared.publish(), Err(PublishError::Changed { bytes: 0, expected: 2, .. })));
        assert_eq!(names(root.path()), ["work-one"]);
    }

    #[test]
    fn only_what_is_named_as_a_copy_is_removed_as_one() {
        let root = tempfile::tempdir().unwrap();
        let (partial, other) = (partial_path(&root.path().join("out"), "a-1"), root.path().join("out"));
        for dir in [&partial, &other] {
            std::fs::create_dir(dir).unwrap();
            remove_partial(dir);
        }
        assert_eq!(names(root.path()), ["out"]);
    }
}
