//! Which directories may be read: anything from the command line, only the source roots for posted recipes.

use std::path::{Path, PathBuf};

use crate::CheckpointError;

#[derive(Debug, Clone)]
pub enum Access {
    /// The caller is at a shell on this machine and reads with its own rights.
    Anywhere,
    /// Only what lies under one of these directories, symlinks followed.
    Under(Vec<PathBuf>),
}

impl Access {
    /// The directory that `path` names. A path that exists outside the roots and one that does not exist get the same
    /// answer, so that nobody can ask what else is on the machine.
    pub fn resolve_dir(&self, path: &str) -> Result<PathBuf, CheckpointError> {
        let found = match self {
            Access::Anywhere => std::fs::canonicalize(path).ok(),
            Access::Under(roots) => roots.iter().find_map(|root| canonical_under(root, &root.join(path))),
        };
        found
            .filter(|dir| dir.is_dir())
            .ok_or(CheckpointError::NotFound { under_roots: matches!(self, Access::Under(_)) })
    }

    /// The file behind `path`, which may be a symlink as in the Hub's cache; it must not lead out of the roots.
    pub fn resolve_file(&self, path: &Path) -> Result<PathBuf, CheckpointError> {
        match self {
            Access::Anywhere => Ok(path.to_owned()),
            Access::Under(roots) => roots.iter().find_map(|root| canonical_under(root, path)).ok_or_else(|| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                CheckpointError::malformed(&file, "is missing, or a link that leads out of the source roots")
            }),
        }
    }
}

fn canonical_under(root: &Path, path: &Path) -> Option<PathBuf> {
    let root = std::fs::canonicalize(root).ok()?;
    let path = std::fs::canonicalize(path).ok()?;
    path.starts_with(&root).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_roots_resolves() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::create_dir_all(dir.path().join("secret")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), root.join("link")).unwrap();
        let access = Access::Under(vec![root.clone()]);
        assert_eq!(access.resolve_dir("a").unwrap(), std::fs::canonicalize(root.join("a")).unwrap());
        assert!(access.resolve_dir(root.join("a").to_str().unwrap()).is_ok());
        let secret = dir.path().join("secret");
        for outside in ["../secret", "link", "/etc", "a/../../secret", secret.to_str().unwrap(), "nosuch", "../nosuch"]
        {
            let error = access.resolve_dir(outside).unwrap_err().to_string();
            assert_eq!(error, "no such directory under the source roots", "{outside}");
        }
    }
}
