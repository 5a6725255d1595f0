//! Where artifacts may be put: a directory of their own below a configured root, nowhere else.

use std::path::{Component, Path, PathBuf};

/// Characters of one name at most: file systems have 255, and work on it adds to it.
const NAME_MAX: usize = 128;
/// Directories and characters of one output: far below what a path may have, whatever root it is below.
const DEPTH_MAX: usize = 16;
const CHARS_MAX: usize = 1024;

/// Characters of an output's directory names: no surprise in a shell, a URL or a Hub repository.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.')
        && !name.is_empty()
        && name.len() <= NAME_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[derive(Debug, Clone)]
pub struct OutputRoots(Vec<PathBuf>);

impl OutputRoots {
    /// Roots should be absolute; relative outputs go below the first.
    pub fn new(roots: Vec<PathBuf>) -> OutputRoots {
        assert!(!roots.is_empty(), "there is always a default root");
        OutputRoots(roots)
    }

    pub fn roots(&self) -> &[PathBuf] {
        &self.0
    }

    /// The same roots as one tenant sees them: a directory of its own below each.
    pub fn of_tenant(&self, tenant: &str) -> OutputRoots {
        if tenant.is_empty() {
            return self.clone();
        }
        OutputRoots(self.0.iter().map(|root| root.join(tenant)).collect())
    }

    /// The directory that `path` names: relative to the first root, or absolute below any. It need not exist; whatever
    /// part of it does exist must lie below the root with symlinks followed.
    pub fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        let wanted = Path::new(path);
        let placed = self.0.iter().find_map(|root| {
            let below = if wanted.is_absolute() { wanted.strip_prefix(root).ok()? } else { wanted };
            Some((root, below))
        });
        let (root, below) = placed.ok_or_else(|| format!("output {path:?} is not below a configured output root"))?;
        let plain =
            below.components().all(|c| matches!(c, Component::Normal(name) if name.to_str().is_some_and(is_plain)));
        let depth = below.components().count();
        if depth > DEPTH_MAX || below.as_os_str().len() > CHARS_MAX {
            return Err(format!(
                "output has {depth} parts and {} characters; it may have {DEPTH_MAX} parts and {CHARS_MAX} characters",
                below.as_os_str().len()
            ));
        }
        if below.as_os_str().is_empty() || !plain {
            return Err(format!(
                "output {path:?} is no plain path below an output root; use letters, digits, `.`, `-`, `_` and `/`, no part beginning with a dot or longer than 128"
            ));
        }
        let target = root.join(below);
        let inside = target.ancestors().skip(1).take_while(|a| *a != root).find(|a| a.join("manifest.json").exists());
        if let Some(artifact) = inside.and_then(Path::file_name) {
            return Err(format!("output {path:?} lies inside the artifact {artifact:?}; choose a place beside it"));
        }
        if leads_outside(root, &target) {
            return Err(format!("output {path:?} leads out of its output root through a link"));
        }
        Ok(target)
    }
}

fn leads_outside(root: &Path, target: &Path) -> bool {
    let Ok(root) = std::fs::canonicalize(root) else { return false };
    let existing = target.ancestors().find_map(|a| std::fs::canonicalize(a).ok());
    existing.is_some_and(|existing| !existing.starts_with(&root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_below_a_root_are_outputs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        std::fs::create_dir_all(&root).unwrap();
        std::os::unix::fs::symlink("/tmp", root.join("link")).unwrap();
        let roots = OutputRoots::new(vec![root.clone()]);
        assert_eq!(roots.resolve("team/merged-1.0").unwrap(), root.join("team/merged-1.0"));
        assert_eq!(roots.resolve(root.join("x").to_str().unwrap()).unwrap(), root.join("x"));
        std::fs::create_dir_all(root.join("done")).unwrap();
        std::fs::write(root.join("done/manifest.json"), "{}").unwrap();
        assert!(roots.resolve("done/x").unwrap_err().contains("inside the artifact"));
        assert!(roots.resolve(&"a".repeat(129)).is_err());
        assert!(roots.resolve(&"a/".repeat(40)).unwrap_err().contains("40 parts"));
        assert!(roots.resolve(&vec!["a".repeat(120); 9].join("/")).unwrap_err().contains("1088 characters"));
        for wrong in ["", ".", "..", "../x", "a/../b", "/etc/x", "a b", ".hidden", "a/.b", "link/x", "a\0b", "%2e%2e/x"]
        {
            assert!(roots.resolve(wrong).is_err(), "{wrong:?}");
        }
    }
}
