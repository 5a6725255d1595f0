//! SHA-256 of files that were digested before: models are merged again and again, and do not change.
//!
//! Invariant: a digest is taken from here only where device, inode, length and both times of the file are what they were
//! when it was digested. The time of a file's last change cannot be set back, so what was written over is digested anew.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use checkpoint::{CheckpointError, Digester};

/// Bytes read at a time: they stay in the cache.
const PIECE: usize = 1 << 18;

/// A file that changed so shortly ago may change again within what its times tell apart.
const SETTLED: Duration = Duration::from_secs(2);

/// Where digests are kept, one small file for each file digested; `None` keeps none.
#[derive(Debug, Clone, Default)]
pub struct KnownDigests(pub Option<PathBuf>);

impl KnownDigests {
    /// The digest of an open file, of which `on_bytes` is told as it is read; `None` where that says to stop. `path` is for
    /// messages: what stands there now may be another.
    pub(crate) fn digest(
        &self,
        file: &File,
        path: &Path,
        on_bytes: &dyn Fn(u64) -> bool,
    ) -> Result<Option<String>, CheckpointError> {
        let io = |error| CheckpointError::io(path)(error);
        let before = file.metadata().map_err(io)?;
        if let Some(digest) = self.known(&before) {
            return Ok(on_bytes(before.len()).then_some(digest));
        }
        let (mut digester, mut buffer, mut offset) = (Digester::default(), vec![0; PIECE], 0);
        loop {
            let read = file.read_at(&mut buffer, offset).map_err(io)?;
            if read == 0 {
                break;
            }
            offset += read as u64;
            digester.update(&buffer[..read]);
            if !on_bytes(read as u64) {
                return Ok(None);
            }
        }
        let digest = digester.finish();
        let after = file.metadata().map_err(io)?;
        if identity(&before) == identity(&after) && is_settled(&after) {
            self.keep(&after, &digest);
        }
        Ok(Some(digest))
    }

    fn known(&self, metadata: &Metadata) -> Option<String> {
        let text = std::fs::read_to_string(self.place(metadata)?).ok()?;
        let (known, digest) = text.trim_end().rsplit_once(' ')?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        (known == identity(metadata) && is_digest).then(|| digest.to_owned())
    }

    /// What cannot be kept is digested again the next time.
    fn keep(&self, metadata: &Metadata, digest: &str) {
        let Some(place) = self.place(metadata) else { return };
        let draft = place.with_extension(std::process::id().to_string());
        let keep = || {
            std::fs::create_dir_all(place.parent()?).ok()?;
            std::fs::write(&draft, format!("{} {digest}\n", identity(metadata))).ok()?;
            std::fs::rename(&draft, &place).ok()
        };
        if keep().is_none() {
            let _ = std::fs::remove_file(&draft);
        }
    }

    fn place(&self, metadata: &Metadata) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{:x}-{:x}", metadata.dev(), metadata.ino())))
    }
}

/// What changes when the content does.
fn identity(metadata: &Metadata) -> String {
    format!(
        "{} {}.{} {}.{}",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

fn is_settled(metadata: &Metadata) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::new(metadata.ctime().max(0) as u64, 0);
    now > changed + SETTLED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(known: &KnownDigests, path: &Path) -> (String, u64) {
        let read = std::cell::Cell::new(0);
        let on_bytes = |bytes| {
            read.set(read.get() + bytes);
            true
        };
        (known.digest(&File::open(path).unwrap(), path, &on_bytes).unwrap().unwrap(), read.get())
    }

    /// Puts another digest in the place of the one that is kept, so that it shows where it comes from.
    fn forge(dir: &Path) -> Option<String> {
        let place = std::fs::read_dir(dir).ok()?.next()?.unwrap().path();
        let text = std::fs::read_to_string(&place).unwrap();
        let forged = "f".repeat(64);
        std::fs::write(&place, format!("{} {forged}\n", text.trim_end().rsplit_once(' ')?.0)).unwrap();
        Some(forged)
    }

    #[test]
    fn a_digest_is_kept_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, cache) = (dir.path().join("file"), dir.path().join("cache"));
        let known = KnownDigests(Some(cache.clone()));
        std::fs::write(&file, b"one").unwrap();
        let one = checkpoint::digest_bytes(b"one");
        assert_eq!(digest(&known, &file), (one.clone(), 3));
        // it was written just now, and might be again without a sign of it
        assert!(forge(&cache).is_none());
        let metadata = std::fs::metadata(&file).unwrap();
        known.keep(&metadata, &one);
        let forged = forge(&cache).unwrap();
        assert_eq!(digest(&known, &file), (forged, 3));
        // same length, and its time set back: it did change
        std::fs::write(&file, b"two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
        assert_eq!(digest(&known, &file).0, checkpoint::digest_bytes(b"two"));
    }

    #[test]
    fn whoever_asks_to_stop_gets_no_digest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"one").unwrap();
        assert!(KnownDigests::default().digest(&File::open(&file).unwrap(), &file, &|_| false).unwrap().is_none());
    }
}
