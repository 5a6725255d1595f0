//! Which directories may be read: anything from the command line, only the source roots for posted recipes.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Dir, OFlags};

use crate::{CheckpointError, OutputRoots, beneath};

#[derive(Debug, Clone)]
pub enum Access {
    /// The caller is at a shell on this machine and reads with its own rights.
    Anywhere,
    /// Only what lies under one of these directories. Links are followed where they stay there, as in the Hub's cache.
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
        let lies_in = |dirs: &[PathBuf]| dirs.iter().any(|dir| canonical(dir).is_some_and(|dir| path.starts_with(dir)));
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

    fn place(&self, path: impl Fn(&Path) -> PathBuf) -> Option<Place> {
        match self {
            Access::Anywhere => None,
            Access::Under(roots) => roots.iter().find_map(|root| Place::under(root, &path(root))),
            Access::OfTenant(tenancy) => {
                let found = tenancy.roots.iter().find_map(|root| Place::under(root, &path(root)))?;
                tenancy.allows(&found.path()).then_some(found)
            }
        }
    }

    /// The directory that `path` names. A path that exists outside the roots and one that does not exist get the same
    /// answer, so that nobody can ask what else is on the machine.
    pub fn resolve_dir(&self, path: &str) -> Result<PathBuf, CheckpointError> {
        let found = match self {
            Access::Anywhere => std::fs::canonicalize(path).ok(),
            Access::Under(_) | Access::OfTenant(_) if !is_straight(path) => None,
            Access::Under(_) | Access::OfTenant(_) => self.place(|root| root.join(path)).map(|place| place.path()),
        };
        found
            .filter(|dir| dir.is_dir())
            .ok_or(CheckpointError::NotFound { under_roots: !matches!(self, Access::Anywhere) })
    }

    /// The file behind `path`, which may be a symlink as in the Hub's cache; it must not lead out of the roots.
    pub fn resolve_file(&self, path: &Path) -> Result<PathBuf, CheckpointError> {
        match self {
            Access::Anywhere => Ok(path.to_owned()),
            Access::Under(_) | Access::OfTenant(_) => {
                self.place(|_| path.to_owned()).map(|place| place.path()).ok_or_else(|| leads_out(path))
            }
        }
    }

    /// Opens the regular file behind `path`, with the place where it is. What is opened lies in the roots even if a link is
    /// put in its way between the look and the opening.
    pub fn open_file(&self, path: &Path) -> Result<(File, PathBuf), CheckpointError> {
        let (place, found) = match self {
            Access::Anywhere => (None, path.to_owned()),
            Access::Under(_) | Access::OfTenant(_) => {
                let place = self.place(|_| path.to_owned()).ok_or_else(|| leads_out(path))?;
                let found = place.path();
                (Some(place), found)
            }
        };
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        let irregular = || CheckpointError::malformed(&name_of(path), "is no regular file");
        // opening a pipe waits for a writer, and opening a device may do anything
        if !std::fs::metadata(&found).map_err(io)?.is_file() {
            return Err(irregular());
        }
        let file = match place {
            None => File::open(&found).map_err(io)?,
            Some(place) => place.open(OFlags::empty()).map_err(io)?,
        };
        if !file.metadata().map_err(io)?.is_file() {
            return Err(irregular());
        }
        Ok((file, found))
    }

    /// The names in a directory, in no order; none where it cannot be read.
    pub fn names_in(&self, dir: &Path) -> Vec<String> {
        let opened = match self {
            Access::Anywhere => File::open(dir).ok(),
            Access::Under(_) | Access::OfTenant(_) => {
                self.place(|_| dir.to_owned()).and_then(|place| place.open(OFlags::DIRECTORY).ok())
            }
        };
        let entries = opened.and_then(|dir| Dir::read_from(dir).ok()).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "." && name != "..")
            .collect()
    }
}

/// What exists beneath a root, with no link on the way from there.
struct Place {
    root: PathBuf,
    below: PathBuf,
}

impl Place {
    fn under(root: &Path, path: &Path) -> Option<Place> {
        let (root, path) = (canonical(root)?, canonical(path)?);
        let below = path.strip_prefix(&root).ok()?.to_owned();
        Some(Place { root, below })
    }

    fn path(&self) -> PathBuf {
        // joining nothing would add a slash
        self.root.join(&self.below).components().collect()
    }

    fn open(&self, kind: OFlags) -> std::io::Result<File> {
        beneath::open(&self.root, &self.below, kind)
    }
}

fn canonical(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

/// Nothing goes up again, not even where it would end up below a root.
fn is_straight(path: &str) -> bool {
    !Path::new(path).components().any(|component| component == Component::ParentDir)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn leads_out(path: &Path) -> CheckpointError {
    CheckpointError::malformed(&name_of(path), "is missing, or a link that leads out of the source roots")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

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

    /// What lies beside the roots is never read, however it is asked for.
    fn refuses_all(access: &Access, root: &Path, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Ok(found) = access.resolve_dir(&name) {
                assert!(found.starts_with(root), "{name:?} gives {}", found.display());
            }
            for text in [access.open_file(&root.join(&name)), access.open_file(Path::new(&name))].into_iter().flatten()
            {
                assert!(text.1.starts_with(root), "{name:?} gives {}", text.1.display());
            }
        }
    }

    fn hostile() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap().join("models");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::create_dir_all(dir.path().join("secret")).unwrap();
        std::fs::write(dir.path().join("secret/config.json"), "secret").unwrap();
        std::fs::write(root.join("a/config.json"), "public").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        std::os::unix::fs::symlink("../../secret/config.json", root.join("a/link.json")).unwrap();
        (dir, root)
    }

    #[test]
    fn no_spelling_of_going_up_leads_out() {
        let (_dir, root) = hostile();
        let access = Access::Under(vec![root.clone()]);
        let ups = [
            "..",
            "%2e%2e",
            "%2E%2E",
            "%252e%252e",
            ".%2e",
            "..%00",
            "..\0",
            "..\u{202e}",
            "\u{2025}",
            "..;",
            ".. ",
            "..\\",
            "\\..",
            "%c0%ae%c0%ae",
            "\u{ff0e}\u{ff0e}",
            "...",
            "....//",
            "a/..",
            "./..",
            "a/./../..",
            "link",
        ];
        let slashes = ["/", "//", "\\", "%2f", "%5c", "%252f", "/./", "\u{2215}", "\u{ff0f}"];
        let names = ups.iter().flat_map(|up| {
            slashes.iter().flat_map(move |slash| {
                let secret = format!("{up}{slash}secret");
                [
                    secret.clone(),
                    format!("a{slash}{up}{slash}{secret}"),
                    format!("/{secret}"),
                    format!("{secret}/config.json"),
                ]
            })
        });
        let names: Vec<String> = names.collect();
        assert!(names.iter().all(|name| access.resolve_dir(name).is_err()), "none of these is a model");
        refuses_all(&access, &root, names);
        let within = root.join("a/../a");
        for up in ["a/..", "a/../a", "./a/../a", within.to_str().unwrap()] {
            assert!(access.resolve_dir(up).is_err(), "{up}: nothing goes up, wherever it ends");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_outside_is_found_by_any_name(parts in proptest::collection::vec(prop_oneof![
            Just("..".to_owned()), Just(".".to_owned()), Just("a".to_owned()), Just("link".to_owned()), Just("secret".to_owned()),
            Just("config.json".to_owned()), Just("link.json".to_owned()), Just("models".to_owned()), Just(String::new()),
            Just("%2e%2e".to_owned()), Just("..\0".to_owned()), any::<String>(),
        ], 0..8), absolute in any::<bool>()) {
            static PLACE: std::sync::LazyLock<(tempfile::TempDir, PathBuf)> = std::sync::LazyLock::new(hostile);
            let root = &PLACE.1;
            let name = format!("{}{}", if absolute { root.to_string_lossy() } else { "".into() }, parts.join("/"));
            refuses_all(&Access::Under(vec![root.clone()]), root, [name]);
        }
    }

    /// Another process makes a link of a directory and a directory of it again, all the time.
    #[test]
    fn a_directory_that_is_swapped_for_a_link_lets_nothing_out() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use std::io::Read;
        use std::sync::atomic::{AtomicBool, Ordering};

        let (_dir, root) = hostile();
        let access = Access::Under(vec![root.clone()]);
        let (model, link, done) = (root.join("a"), root.join("link"), AtomicBool::new(false));
        let swap = || renameat_with(CWD, &model, CWD, &link, RenameFlags::EXCHANGE);
        if swap().is_err() {
            eprintln!("this file system cannot exchange two names at once");
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    swap().unwrap();
                }
            });
            let mut read = 0;
            for _ in 0..20_000 {
                let Ok((mut file, _)) = access.open_file(&model.join("config.json")) else { continue };
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                if text != "public" {
                    done.store(true, Ordering::Relaxed);
                    panic!("read {text:?}");
                }
                read += 1;
            }
            done.store(true, Ordering::Relaxed);
            assert!(read > 0, "what may be read is read");
        });
    }
}
