//! Opens what lies beneath a root, through no link: what is checked and what is opened are one and the same, whatever is
//! moved or swapped meanwhile.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// Nothing is waited for, no terminal is taken, and no program that is started has it.
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// What lies at `below`, a path as [`std::fs::canonicalize`] gives it, beneath `root`, which is one too.
pub(crate) fn open(root: &Path, below: &Path, kind: OFlags) -> io::Result<File> {
    // a root that is meant itself
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    match by_kernel(root, below, FLAGS | kind) {
        // kernels before 5.6, and sandboxes that know no such call
        Err(Errno::NOSYS | Errno::PERM) => and_look(root, below, FLAGS | kind),
        opened => Ok(opened?),
    }
}

#[cfg(target_os = "linux")]
fn by_kernel(root: &Path, below: &Path, flags: OFlags) -> Result<File, Errno> {
    use rustix::fs::{ResolveFlags, openat2};

    /// Renames anywhere make the kernel ask for another try.
    const TRIES_MAX: usize = 64;
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 1;
    loop {
        match openat2(&root, below, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES_MAX => tries += 1,
            opened => return opened.map(File::from),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn by_kernel(_: &Path, _: &Path, _: OFlags) -> Result<File, Errno> {
    Err(Errno::NOSYS)
}

/// Opens, and then looks at what was opened: if that is not the path asked for, a link has led elsewhere.
fn and_look(root: &Path, below: &Path, flags: OFlags) -> io::Result<File> {
    let path: PathBuf = root.join(below).components().collect();
    let file = File::from(openat(CWD, &path, flags | OFlags::NOFOLLOW, Mode::empty())?);
    let is_beneath = path.starts_with(root) && place_of(&file, &path)? == path;
    if is_beneath { Ok(file) } else { Err(Errno::XDEV.into()) }
}

#[cfg(target_os = "linux")]
fn place_of(file: &File, _: &Path) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The path's own, as long as it is that file.
#[cfg(not(target_os = "linux"))]
fn place_of(file: &File, path: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let (opened, found) = (file.metadata()?, std::fs::symlink_metadata(path)?);
    if (opened.dev(), opened.ino()) != (found.dev(), found.ino()) {
        return Err(Errno::XDEV.into());
    }
    std::fs::canonicalize(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn no_link_and_no_dots_are_followed_by_either_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap().join("root");
        std::fs::create_dir_all(root.join("a")).unwrap();
        for (place, text) in [(root.join("a/file"), "inside"), (dir.path().join("file"), "outside")] {
            std::fs::write(place, text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), root.join("link")).unwrap();
        std::os::unix::fs::symlink("a", root.join("here")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("file"), root.join("a/end")).unwrap();
        for way in [open, |root: &Path, below: &Path, kind| and_look(root, below, FLAGS | kind)] {
            let mut text = String::new();
            way(&root, Path::new("a/file"), OFlags::empty()).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside");
            assert!(way(&root, Path::new("."), OFlags::DIRECTORY).is_ok());
            for out in ["link/file", "here/file", "a/end", "../file", "a/../../file", "/etc/hostname", "nosuch"] {
                assert!(way(&root, Path::new(out), OFlags::empty()).is_err(), "{out}");
            }
        }
    }
}
