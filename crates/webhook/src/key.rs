//! The one key that every secret is derived from. It lies in a file beside the database and not in it, so that a copy of the
//! database signs nothing.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use jobs::WebhookId;
use sha2::Sha256;
use uuid::Uuid;

/// Characters that a key has at least: fewer could be guessed.
const CHARS_MIN: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key of webhooks in {} cannot be read or made: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is no key of webhooks: it has fewer than {CHARS_MIN} characters", path.display())]
    TooShort { path: PathBuf },
}

/// What all secrets follow from; clones share it.
#[derive(Clone)]
pub struct MasterKey(Arc<[u8]>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// Reads the file, and makes it, with a key of its own, where there is none.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(path).map_err(io)?;
                std::fs::read_to_string(path).map_err(io)?
            }
            read => read.map_err(io)?,
        };
        match text.trim() {
            key if key.len() >= CHARS_MIN => Ok(Self(key.as_bytes().into())),
            _ => Err(KeyError::TooShort { path: path.to_owned() }),
        }
    }

    /// One that lasts as long as the process.
    pub fn generate() -> Self {
        Self(random().as_bytes().into())
    }

    /// What an endpoint signs by in this generation.
    pub fn of_endpoint(&self, id: &WebhookId, generation: i64) -> Secret {
        self.derive(&format!("endpoint\n{id}\n{generation}"))
    }

    /// What the webhooks of single jobs of a tenant sign by.
    pub fn of_tenant(&self, tenant: &str) -> Secret {
        self.derive(&format!("tenant\n{tenant}"))
    }

    fn derive(&self, of: &str) -> Secret {
        Secret(mac(&self.0, &[of.as_bytes()]))
    }
}

/// What a receiver checks signatures by.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As Standard Webhooks writes it; to be shown to whoever may know it.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0))
    }

    pub(crate) fn sign(&self, parts: &[&[u8]]) -> String {
        STANDARD.encode(mac(&self.0, parts))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_...")
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of this kind may have any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// 244 random bits.
fn random() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Under another name first, so that nobody reads half of it; of several that start at once the first one's stays.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let unfinished = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
    let made = write(&unfinished).and_then(|()| match std::fs::hard_link(&unfinished, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = std::fs::remove_file(&unfinished);
    made?;
    removed?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", random())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/webhook.key");
        let secrets: Vec<Secret> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| MasterKey::open(&path).unwrap().of_tenant("a"))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("webhook.key");
        for text in ["", "\n", "secret"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(MasterKey::open(&path), Err(KeyError::TooShort { .. })), "{text:?}");
        }
    }

    #[test]
    fn every_secret_differs_and_none_is_shown_by_accident() {
        let key = MasterKey::generate();
        let (id, other) = (WebhookId::generate(), WebhookId::generate());
        let secrets = [
            key.of_endpoint(&id, 1),
            key.of_endpoint(&id, 2),
            key.of_endpoint(&other, 1),
            key.of_tenant(""),
            key.of_tenant("a"),
            MasterKey::generate().of_tenant("a"),
        ];
        for (at, secret) in secrets.iter().enumerate() {
            assert!(secrets[at + 1..].iter().all(|other| other != secret));
            assert!(secret.reveal().starts_with("whsec_") && secret.reveal().len() == 50);
            assert_eq!(format!("{secret:?}"), "whsec_...");
        }
        assert_eq!(format!("{key:?}"), "MasterKey(..)");
        assert_eq!(key.of_endpoint(&id, 1), secrets[0]);
    }
}
