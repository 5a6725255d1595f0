//! Takes a published artifact away: out of sight by one rename, then off the disk.
//!
//! Invariant: no link is followed, and nothing is touched but a directory whose manifest is the one that was published.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::{beneath, digest_bytes, limits};

const MANIFEST: &str = "manifest.json";

/// Directories within directories: an artifact has stages, and these have files.
const DEPTH_MAX: usize = 16;

/// What is to go, as its publication told of it.
#[derive(Debug, Clone)]
pub struct Withdrawal<'a> {
    /// The directory of the artifact.
    pub path: &'a Path,
    pub manifest_sha256: &'a str,
    /// Paths of its files, but for the manifest.
    pub files: &'a BTreeSet<String>,
    /// Names what is moved aside, so that whoever asks again finds what was left by a process that died.
    pub mark: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    #[error("it lies where this server keeps no outputs")]
    Elsewhere,
    #[error("a link is on the way to it")]
    Linked,
    #[error("what stands there is not what was published")]
    Other,
    #[error("it holds files that were not published with it")]
    Added,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for WithdrawError {
    fn from(errno: Errno) -> WithdrawError {
        WithdrawError::Io(errno.into())
    }
}

/// An artifact that nobody finds any more. Dropped, it stays aside, for whoever asks again.
#[derive(Debug)]
#[must_use]
pub struct Withdrawn {
    /// The directory above it.
    above: File,
    name: String,
    aside: String,
}

impl Withdrawal<'_> {
    /// Moves the artifact aside, if it lies below one of `roots`; `None` where nothing is there any more, nor aside.
    pub fn take_aside(&self, roots: &[PathBuf]) -> Result<Option<Withdrawn>, WithdrawError> {
        let Some(above) = self.above(roots)? else { return Ok(None) };
        let name = self.path.file_name().and_then(|name| name.to_str()).ok_or(WithdrawError::Elsewhere)?.to_owned();
        let withdrawn = Withdrawn { above, aside: format!(".{name}.removed-{}", self.mark), name };
        match statat(&withdrawn.above, &withdrawn.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                let is_aside = statat(&withdrawn.above, &withdrawn.aside, AtFlags::SYMLINK_NOFOLLOW).is_ok();
                return Ok(is_aside.then_some(withdrawn));
            }
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        let found = self.assert_published(&withdrawn)?;
        // left by one who died at it, before the same was published again
        remove_tree(&withdrawn.above, withdrawn.aside.as_str(), DEPTH_MAX)?;
        withdrawn.move_aside()?;
        // what was looked at, or what was put in its place a moment ago
        let moved = statat(&withdrawn.above, &withdrawn.aside, AtFlags::SYMLINK_NOFOLLOW)?;
        let looked_at = rustix::fs::fstat(&found)?;
        if (moved.st_dev, moved.st_ino) != (looked_at.st_dev, looked_at.st_ino) {
            withdrawn.put_back()?;
            return Err(WithdrawError::Other);
        }
        Ok(Some(withdrawn))
    }

    /// The directory that holds it; `None` where that is gone, too.
    fn above(&self, roots: &[PathBuf]) -> Result<Option<File>, WithdrawError> {
        let below = |root: &PathBuf| {
            let below = self.path.strip_prefix(std::path::absolute(root).ok()?).ok()?;
            let is_plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            Some((root.clone(), below.parent().filter(|_| is_plain)?.to_owned()))
        };
        let (root, below) = roots.iter().find_map(below).ok_or(WithdrawError::Elsewhere)?;
        // a root is the operator's, and may be reached as he likes
        let Ok(root) = std::fs::canonicalize(root) else { return Ok(None) };
        match beneath::open(&root, &below, OFlags::DIRECTORY) {
            Ok(above) => Ok(Some(above)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => Ok(None),
                Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => Err(WithdrawError::Linked),
                _ => Err(error.into()),
            },
        }
    }

    /// That the directory is what was published, by its manifest.
    fn assert_published(&self, there: &Withdrawn) -> Result<OwnedFd, WithdrawError> {
        let dir = open_dir(&there.above, &there.name)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let manifest = openat(&dir, MANIFEST, flags, Mode::empty()).map_err(|_| WithdrawError::Other)?;
        let manifest = File::from(manifest);
        if !manifest.metadata()?.is_file() {
            return Err(WithdrawError::Other);
        }
        let mut text = Vec::new();
        manifest.take(limits::JSON_BYTES_MAX).read_to_end(&mut text)?;
        if digest_bytes(&text) != self.manifest_sha256 {
            return Err(WithdrawError::Other);
        }
        self.assert_nothing_else(&dir, "", DEPTH_MAX)?;
        Ok(dir)
    }
}

impl Withdrawal<'_> {
    /// That somebody else has put nothing there: it would go, too.
    fn assert_nothing_else(&self, dir: &OwnedFd, below: &str, depth: usize) -> Result<(), WithdrawError> {
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_str().map_err(|_| WithdrawError::Added)?;
            if matches!(name, "." | "..") {
                continue;
            }
            let path = format!("{below}{name}");
            let found = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                if self.files.contains(&path) || path == MANIFEST {
                    continue;
                }
                return Err(WithdrawError::Added);
            }
            let within = format!("{path}/");
            let is_published = self.files.range(within.clone()..).next().is_some_and(|file| file.starts_with(&within));
            let Some(depth) = depth.checked_sub(1).filter(|_| is_published) else { return Err(WithdrawError::Added) };
            self.assert_nothing_else(&open_dir(dir, name)?, &within, depth)?;
        }
        Ok(())
    }
}

impl Withdrawn {
    fn move_aside(&self) -> Result<(), WithdrawError> {
        self.rename(&self.name, &self.aside)
    }

    /// Where it was, as if nobody had asked.
    pub fn put_back(self) -> Result<(), WithdrawError> {
        self.rename(&self.aside, &self.name)
    }

    /// Off the disk, with all that was put into it since.
    pub fn remove(self) -> Result<(), WithdrawError> {
        remove_tree(&self.above, self.aside.as_str(), DEPTH_MAX)?;
        self.above.sync_all()?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), WithdrawError> {
        match renameat_with(&self.above, from, &self.above, to, RenameFlags::NOREPLACE) {
            // file systems without the flag; a directory replaces none that has something in it
            Err(Errno::INVAL | Errno::NOSYS) => renameat(&self.above, from, &self.above, to)?,
            renamed => renamed?,
        }
        self.above.sync_all()?;
        Ok(())
    }
}

fn open_dir(above: impl AsFd, name: &str) -> Result<OwnedFd, WithdrawError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => WithdrawError::Other,
        other => other.into(),
    })
}

/// What is gone meanwhile is gone.
fn remove_tree(above: impl AsFd, name: impl rustix::path::Arg + Copy, depth: usize) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match openat(&above, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let names: Vec<_> = Dir::read_from(&dir)?.collect::<Result<_, Errno>>()?;
    for entry in names.iter().map(|entry| entry.file_name()).filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        let is_dir = match statat(&dir, entry, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => FileType::from_raw_mode(found?.st_mode) == FileType::Directory,
        };
        if is_dir {
            remove_tree(&dir, entry, depth.checked_sub(1).ok_or(Errno::LOOP)?)?;
        } else {
            gone(unlinkat(&dir, entry, AtFlags::empty()))?;
        }
    }
    gone(unlinkat(&above, name, AtFlags::REMOVEDIR))
}

fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    removed.or_else(|errno| if errno == Errno::NOENT { Ok(()) } else { Err(errno) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"outputs\": []}";

    struct Place {
        dir: tempfile::TempDir,
        root: PathBuf,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("out");
            artifact(&root.join("team/one"));
            Place { dir, root }
        }

        fn take(&self, path: &Path) -> Result<Option<Withdrawn>, WithdrawError> {
            let manifest_sha256 = &digest_bytes(TEXT.as_bytes());
            let files = &["stages/a/config.json", "stages/link"].map(str::to_owned).into();
            Withdrawal { path, manifest_sha256, files, mark: "job" }.take_aside(std::slice::from_ref(&self.root))
        }
    }

    fn artifact(dir: &Path) {
        std::fs::create_dir_all(dir.join("stages/a")).unwrap();
        std::fs::write(dir.join(MANIFEST), TEXT).unwrap();
        std::fs::write(dir.join("stages/a/config.json"), "{}").unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_somebody_has_put_into_an_artifact_stays() {
        let place = Place::new();
        let path = place.root.join("team/one");
        for added in ["notes.txt", "stages/notes.txt", "sub/precious", "stages/a/b/c", ".hidden"] {
            let added = path.join(added);
            std::fs::create_dir_all(added.parent().unwrap()).unwrap();
            std::fs::write(&added, "x").unwrap();
            assert!(matches!(place.take(&path), Err(WithdrawError::Added)), "{}", added.display());
            assert!(added.exists());
            std::fs::remove_file(&added).unwrap();
            for empty in ["sub", "stages/a/b"] {
                let _ = std::fs::remove_dir(path.join(empty));
            }
        }
        assert!(place.take(&path).unwrap().is_some());
    }

    #[test]
    fn an_artifact_goes_out_of_sight_and_then_off_the_disk_and_is_gone_once() {
        let place = Place::new();
        let path = place.root.join("team/one");
        let outside = place.dir.path().join("outside");
        artifact(&outside);
        std::os::unix::fs::symlink(&outside, path.join("stages/link")).unwrap();
        let taken = place.take(&path).unwrap().unwrap();
        assert_eq!(names(&place.root.join("team")), [".one.removed-job"]);
        taken.put_back().unwrap();
        assert!(path.join("stages/a/config.json").exists());
        // a process that dies after the first step leaves it to whoever asks again
        drop(place.take(&path).unwrap().unwrap());
        artifact(&path);
        drop(place.take(&path).unwrap().unwrap());
        place.take(&path).unwrap().unwrap().remove().unwrap();
        assert!(names(&place.root.join("team")).is_empty());
        assert!(outside.join("stages/a/config.json").exists(), "what a link names stays");
        assert!(place.take(&path).unwrap().is_none());
        std::fs::remove_dir_all(&place.root).unwrap();
        assert!(place.take(&path).unwrap().is_none());
    }

    #[test]
    fn nothing_but_what_was_published_is_touched() {
        let place = Place::new();
        let path = place.root.join("team/one");
        let outside = place.dir.path().join("outside");
        artifact(&outside);
        std::os::unix::fs::symlink(&outside, place.root.join("link")).unwrap();
        std::os::unix::fs::symlink(place.dir.path(), place.root.join("above")).unwrap();
        std::fs::create_dir(place.root.join("empty")).unwrap();
        std::fs::write(place.root.join("file"), TEXT).unwrap();
        let told = |path: &Path| place.take(path).unwrap_err().to_string();
        for elsewhere in [&outside, &place.root, &place.root.join("../outside"), Path::new("/"), Path::new("")] {
            assert!(told(elsewhere).contains("keeps no outputs"), "{}", elsewhere.display());
        }
        assert!(told(&place.root.join("above/outside")).contains("a link is on the way"));
        for other in ["link", "empty", "file"] {
            assert!(told(&place.root.join(other)).contains("not what was published"), "{other}");
        }
        std::fs::write(path.join(MANIFEST), "{}").unwrap();
        assert!(told(&path).contains("not what was published"));
        std::fs::remove_file(path.join(MANIFEST)).unwrap();
        std::os::unix::fs::symlink(outside.join(MANIFEST), path.join(MANIFEST)).unwrap();
        assert!(told(&path).contains("not what was published"), "a manifest of elsewhere");
        assert!(outside.join("stages/a/config.json").exists() && path.join("stages/a/config.json").exists());
    }
}
