//! Recorded outputs of another implementation.

use std::path::PathBuf;

use serde_json::Value;

/// One recorded merge: `config.yml`, `meta.json`, and `out/` where it was not refused.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    /// Model paths of recipes are relative to this.
    pub root: PathBuf,
    pub recipe: String,
    pub meta: Value,
}

/// The subset in `tests/golden`, and the whole set where `AMALGAM_GOLDEN` names it.
pub fn golden_dirs() -> Vec<PathBuf> {
    let subset = crate::workspace().join("tests/golden");
    std::iter::once(subset).chain(std::env::var_os("AMALGAM_GOLDEN").map(PathBuf::from)).collect()
}

impl Case {
    /// All cases below a root, sorted by name.
    pub fn all(root: &std::path::Path) -> Vec<Case> {
        let mut cases: Vec<Case> = std::fs::read_dir(root.join("golden"))
            .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
            .map(|entry| {
                let dir = entry.unwrap().path();
                let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
                Case {
                    name: dir.file_name().unwrap().to_string_lossy().into_owned(),
                    root: root.to_owned(),
                    recipe: read("config.yml"),
                    meta: serde_json::from_str(&read("meta.json")).unwrap(),
                    dir,
                }
            })
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(!cases.is_empty(), "no cases in {}", root.display());
        cases
    }

    pub fn kind(&self) -> &str {
        self.meta["kind"].as_str().unwrap()
    }
}
