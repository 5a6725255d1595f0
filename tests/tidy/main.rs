//! Tests of the repository itself: its shape is what ARCHITECTURE.md says.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Workspace crates with their direct dependencies; those of tests apart.
fn dependencies(kind: Option<&str>) -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(testkit::workspace())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let wanted = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].as_str() == kind);
            (
                package["name"].as_str().unwrap().to_owned(),
                wanted.map(|d| d["name"].as_str().unwrap().to_owned()).collect(),
            )
        })
        .collect()
}

#[test]
fn each_heavy_dependency_has_one_home() {
    let homes: &[(&str, &[&str])] = &[
        ("sqlx", &["jobs"]),
        ("axum", &["api"]),
        ("utoipa", &["api"]),
        ("rayon", &["engine"]),
        ("minijinja", &["vocabulary"]),
        ("faer", &["adapter"]),
        ("fail", &["fault"]),
        ("reqwest", &["client", "webhook"]),
        ("hmac", &["webhook"]),
        ("prometheus-client", &["meter"]),
        ("opentelemetry-otlp", &["spans"]),
        ("clap", &["bench", "server"]),
        ("indicatif", &["server"]),
        ("serde-saphyr", &["recipe"]),
        ("safetensors", &["checkpoint", "testkit"]),
    ];
    let dependencies = dependencies(None);
    for (heavy, expected) in homes {
        let found: Vec<&str> =
            dependencies.iter().filter(|(_, d)| d.contains(*heavy)).map(|(name, _)| name.as_str()).collect();
        assert_eq!(&found, expected, "{heavy}");
    }
}

#[test]
fn the_engine_and_what_is_below_it_are_synchronous() {
    let dependencies = dependencies(None);
    for sync in ["recipe", "checkpoint", "adapter", "vocabulary", "engine"] {
        for banned in ["tokio", "futures", "sqlx", "axum", "reqwest"] {
            assert!(!dependencies[sync].contains(banned), "{sync} depends on {banned}");
        }
    }
}

#[test]
fn dependencies_run_in_one_direction() {
    let allowed: &[(&str, &[&str])] = &[
        ("recipe", &[]),
        ("checkpoint", &[]),
        ("fault", &[]),
        ("adapter", &["checkpoint"]),
        ("vocabulary", &["recipe"]),
        ("engine", &["adapter", "checkpoint", "fault", "recipe", "vocabulary"]),
        ("jobs", &["fault"]),
        ("meter", &[]),
        ("spans", &[]),
        ("transfer", &["checkpoint", "engine", "fault"]),
        ("worker", &["checkpoint", "engine", "fault", "jobs", "meter", "recipe", "transfer"]),
        ("webhook", &["jobs", "meter"]),
        ("api", &["checkpoint", "engine", "jobs", "meter", "recipe", "webhook"]),
        ("client", &[]),
        ("testkit", &["checkpoint"]),
        ("bench", &["checkpoint", "engine", "recipe"]),
    ];
    let dependencies = dependencies(None);
    let ours: BTreeSet<&str> = dependencies.keys().map(String::as_str).collect();
    for (name, allowed) in allowed {
        let found: Vec<&str> = dependencies[*name].iter().map(String::as_str).filter(|d| ours.contains(d)).collect();
        assert!(found.iter().all(|d| allowed.contains(d)), "{name} depends on {found:?}, allowed are {allowed:?}");
    }
    assert!(ours.iter().all(|name| *name == "testkit" || !dependencies[*name].contains("testkit")));
}

/// The environment is read where settings are made and nowhere else.
#[test]
fn the_environment_is_read_in_one_file() {
    let output =
        Command::new("git").args(["ls-files", "crates/*.rs"]).current_dir(testkit::workspace()).output().unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    assert!(files.lines().count() > 50);
    for file in
        files.lines().filter(|f| !f.starts_with("crates/testkit") && !f.contains("/tests/") && !f.contains("/testing"))
    {
        let text = std::fs::read_to_string(testkit::workspace().join(file)).unwrap();
        // where tests stand in the file itself they end it; a test module in a file of its own is under `testing`
        if file == "crates/server/src/config.rs" {
            continue;
        }
        let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        assert!(!shipped.contains("env::var"), "{file} reads the environment");
    }
}

#[test]
fn unsafe_code_is_only_where_vectors_are_chosen() {
    let output =
        Command::new("git").args(["ls-files", "crates/*.rs"]).current_dir(testkit::workspace()).output().unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    let has_unsafe = |file: &&str| {
        // a word of a policy for browsers is none of the language
        let text = std::fs::read_to_string(testkit::workspace().join(file)).unwrap().replace("'unsafe-inline'", "");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).any(|word| word == "unsafe")
    };
    let found: Vec<&str> = files.lines().filter(has_unsafe).collect();
    assert!(!found.is_empty() && found.iter().all(|file| file.starts_with("crates/engine/src/simd")), "{found:?}");
}

#[test]
fn documents_name_files_that_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(testkit::workspace().join(document)).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|l| !l.contains("://") && !l.starts_with('#')) {
            let path = link.split('#').next().unwrap();
            assert!(testkit::workspace().join(path).exists(), "{document} links to {link}");
        }
    }
}
