//! Where artifacts may be put: a directory of their own below a configured root, nowhere else.

use std::path::{Component, Path, PathBuf};

/// Characters of one name at most: file systems have 255, and work on it adds to it.
const NAME_MAX: usize = 128;
/// Directories and characters of one output: far below what a path may have, whatever root it is below.
const DEPTH_MAX: usize = 16;
const CHARS_MAX: usize = 1024;

/// By what an artifact is known; where a directory has that name, the one above it would be taken for an artifact.
const ARTIFACT_MARK: &str = "manifest.json";

/// Devices of Windows, which are no files there with any ending.
const DEVICES: &[&str] = &["con", "prn", "aux", "nul"];
const NUMBERED_DEVICES: &[&str] = &["com", "lpt"];

/// Why a directory may not have this name: none is a surprise in a shell, a URL, a Hub repository or another file system.
fn unfit(name: &str) -> Option<String> {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if let Some(other) = name.chars().find(|c| !is_plain(c)) {
        return Some(format!("has the character {other:?}; use letters, digits, `.`, `-` and `_`"));
    }
    let reason = match name.as_bytes() {
        [] => "is empty",
        [b'.', ..] => "begins with a dot, as `..` and hidden files do",
        [b'-', ..] => "begins with a dash, as options of commands do",
        [.., b'.'] => "ends with a dot, which not every file system keeps",
        _ if name.eq_ignore_ascii_case(ARTIFACT_MARK) => "is what an artifact is known by",
        _ if is_device(name) => "is the name of a device on Windows",
        _ if name.len() > NAME_MAX => return Some(format!("has more than {NAME_MAX} characters")),
        _ => return None,
    };
    Some(reason.to_owned())
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = || NUMBERED_DEVICES.iter().filter_map(|device| stem.strip_prefix(device));
    DEVICES.contains(&stem.as_str()) || numbered().any(|number| matches!(number.as_bytes(), [b'1'..=b'9']))
}

/// Why a path below a root is none of an output, by its first part that is not.
fn unfit_path(below: &Path) -> Option<String> {
    let depth = below.components().count();
    if depth > DEPTH_MAX || below.as_os_str().len() > CHARS_MAX {
        return Some(format!(
            "has {depth} parts and {} characters; it may have {DEPTH_MAX} parts and {CHARS_MAX} characters",
            below.as_os_str().len()
        ));
    }
    if depth == 0 {
        return Some("names no directory below an output root".to_owned());
    }
    below.components().find_map(|part| match part {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            unfit(&name).map(|reason| format!("cannot be used: {name:?} {reason}"))
        }
        Component::ParentDir => Some("goes up by `..`; name a place below an output root".to_owned()),
        Component::CurDir => Some("begins with `.`; leave `./` out".to_owned()),
        Component::RootDir | Component::Prefix(_) => Some("is not below a configured output root".to_owned()),
    })
}

/// As a message can show it.
fn shown(path: &str) -> String {
    match path.char_indices().nth(NAME_MAX) {
        Some((at, _)) => format!("{:?}...", &path[..at]),
        None => format!("{path:?}"),
    }
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
        let shown = shown(path);
        let placed = self.0.iter().find_map(|root| {
            let below = if wanted.is_absolute() { wanted.strip_prefix(root).ok()? } else { wanted };
            Some((root, below))
        });
        let (root, below) = placed.ok_or_else(|| format!("output {shown} is not below a configured output root"))?;
        if let Some(reason) = unfit_path(below) {
            return Err(format!("output {shown} {reason}"));
        }
        let target = root.join(below);
        let inside = target.ancestors().skip(1).take_while(|a| *a != root).find(|a| a.join(ARTIFACT_MARK).exists());
        if let Some(artifact) = inside.and_then(Path::file_name) {
            return Err(format!("output {shown} lies inside the artifact {artifact:?}; choose a place beside it"));
        }
        if leads_outside(root, &target) {
            return Err(format!("output {shown} leads out of its output root through a link"));
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
        for (wrong, told) in [
            ("", "names no directory below an output root"),
            (".", "begins with `.`; leave `./` out"),
            ("./a", "begins with `.`; leave `./` out"),
            ("..", "goes up by `..`"),
            ("a/../../b", "goes up by `..`"),
            ("/etc/x", "is not below a configured output root"),
            ("//etc", "is not below a configured output root"),
            (".hidden", "\".hidden\" begins with a dot"),
            ("a/.b", "\".b\" begins with a dot"),
            ("...", "\"...\" begins with a dot"),
            ("-rf", "\"-rf\" begins with a dash"),
            ("a/--x", "\"--x\" begins with a dash"),
            ("a.", "\"a.\" ends with a dot"),
            ("a./b", "\"a.\" ends with a dot"),
            ("a ", "has the character ' '"),
            (" a", "has the character ' '"),
            ("a b", "has the character ' '"),
            ("a\0b", "has the character '\\0'"),
            ("a\nb", "has the character '\\n'"),
            ("a\u{1b}[2J", "has the character '\\u{1b}'"),
            ("a\u{7f}", "has the character '\\u{7f}'"),
            ("\u{202e}txt", "has the character '\\u{202e}'"),
            ("mod\u{e8}le", "has the character 'è'"),
            ("\u{ff0e}\u{ff0e}/x", "has the character '．'"),
            ("%2e%2e/x", "has the character '%'"),
            ("%252e%252e%252fx", "has the character '%'"),
            ("..\\x", "has the character '\\\\'"),
            ("a:b", "has the character ':'"),
            ("~/x", "has the character '~'"),
            ("a*", "has the character '*'"),
            ("$HOME", "has the character '$'"),
            ("CON", "\"CON\" is the name of a device"),
            ("a/nul.txt", "\"nul.txt\" is the name of a device"),
            ("Lpt9/x", "\"Lpt9\" is the name of a device"),
            ("a/manifest.json", "\"manifest.json\" is what an artifact is known by"),
            ("link/x", "leads out of its output root through a link"),
        ] {
            let error = roots.resolve(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong:?}: {error}");
        }
        for plain in ["a", "_x", "7B", "a-b_c.d", "com0", "com10", "console", "null", "lpt", "a//b", "a/b/", "a/./b"] {
            assert!(roots.resolve(plain).is_ok(), "{plain:?}: {:?}", roots.resolve(plain));
        }
        for wrong in ["", ".", "..", "../x", "a/../b", "/etc/x", "a b", ".hidden", "a/.b", "link/x", "a\0b", "%2e%2e/x"]
        {
            assert!(roots.resolve(wrong).is_err(), "{wrong:?}");
        }
    }
}
