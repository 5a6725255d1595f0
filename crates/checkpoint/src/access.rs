//! Which directories may be read: anything from the command line, only the source roots for posted recipes.

use std::path::{Path, PathBuf};

use crate::{CheckpointError, OutputRoots};

#[derive(Debug, Clone)]
pub enum Access {
    /// The caller is at a shell on this machine and reads with its own rights.
    Anywhere,
    /// Only what lies under one of these directories, symlinks followed.
    Under(Vec<PathBuf>),
    /// As `Under`, for one of several tenants.
    OfTenant(Tenancy),
}

/// What a tenant may read: what lies below the roots, but of places where tenants' own things are only its own.
#[derive(Debug, Clone)]
pub struct Tenancy {
    roots: Vec<PathBuf>,
    private: Vec<PathBuf>,
    own: Vec<PathBuf>,
}

impl Tenancy {
    fn allows(&self, path: &Path) -> bool {
        let lies_in = |dirs: &[PathBuf]| dirs.iter().any(|dir| canonical_under(dir, path).is_some());
        lies_in(&self.own) || !lies_in(&self.private)
    }
}

impl Access {
    /// The same as one tenant has it; there is one tenant without a name where nobody is told from another. `private` are
    /// directories that hold what belongs to tenants, beside the output roots.
    pub fn of_tenant(&self, tenant: &str, private: &[PathBuf], outputs: &OutputRoots) -> Access {
        match self {
            Access::Under(roots) if !tenant.is_empty() => Access::OfTenant(Tenancy {
                roots: roots.clone(),
                private: private.iter().chain(outputs.roots()).cloned().collect(),
                own: outputs.of_tenant(tenant).roots().to_vec(),
            }),
            other => other.clone(),
        }
    }

    fn canonical(&self, path: impl Fn(&Path) -> PathBuf) -> Option<PathBuf> {
        match self {
            Access::Anywhere => None,
            Access::Under(roots) => roots.iter().find_map(|root| canonical_under(root, &path(root))),
            Access::OfTenant(tenancy) => {
                let found = tenancy.roots.iter().find_map(|root| canonical_under(root, &path(root)))?;
                tenancy.allows(&found).then_some(found)
            }
        }
    }

    /// The directory that `path` names. A path that exists outside the roots and one that does not exist get the same
    /// answer, so that nobody can ask what else is on the machine.
    pub fn resolve_dir(&self, path: &str) -> Result<PathBuf, CheckpointError> {
        let found = match self {
            Access::Anywhere => std::fs::canonicalize(path).ok(),
            Access::Under(_) | Access::OfTenant(_) => self.canonical(|root| root.join(path)),
        };
        found
            .filter(|dir| dir.is_dir())
            .ok_or(CheckpointError::NotFound { under_roots: !matches!(self, Access::Anywhere) })
    }

    /// The file behind `path`, which may be a symlink as in the Hub's cache; it must not lead out of the roots.
    pub fn resolve_file(&self, path: &Path) -> Result<PathBuf, CheckpointError> {
        match self {
            Access::Anywhere => Ok(path.to_owned()),
            Access::Under(_) | Access::OfTenant(_) => self.canonical(|_| path.to_owned()).ok_or_else(|| {
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
    fn a_tenant_reads_its_own_outputs_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        for place in
            ["models/base", "data/artifacts/a/one", "data/artifacts/b/two", "data/artifacts/job_1", "data/work/x"]
        {
            std::fs::create_dir_all(dir.path().join(place)).unwrap();
        }
        std::os::unix::fs::symlink(data.join("artifacts/b/two"), dir.path().join("models/link")).unwrap();
        let all = Access::Under(vec![dir.path().to_owned()]);
        let outputs = OutputRoots::new(vec![data.join("artifacts")]);
        let of_a = all.of_tenant("a", std::slice::from_ref(&data), &outputs);
        for own in ["models/base", "data/artifacts/a/one"] {
            assert!(of_a.resolve_dir(own).is_ok(), "{own}");
        }
        let told = of_a.resolve_dir("nosuch").unwrap_err().to_string();
        for other in ["data/artifacts/b/two", "data/artifacts/job_1", "data/work/x", "data", "models/link"] {
            assert_eq!(of_a.resolve_dir(other).unwrap_err().to_string(), told, "{other}");
            assert!(of_a.resolve_file(&dir.path().join(other)).is_err(), "{other}");
            assert!(all.of_tenant("", std::slice::from_ref(&data), &outputs).resolve_dir(other).is_ok(), "{other}");
        }
    }

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
