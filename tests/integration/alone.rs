//! `amalgam merge`, without a server: killed again and again, and watched from the outside.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use checkpoint::Dtype;
use testkit::{TinyCheckpoint, sparse_checkpoint};

use crate::BINARY;

const RECIPE: &str = "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1, density: 0.5}}, {model: b, parameters: {weight: 0.5, density: 0.3}}]\noptions: {random_seed: 5, out_shard_size: 8MB}\n";

/// How often the merges are killed, all together.
const KILLS: u32 = 20;

fn merge(dir: &Path, out: &str, more: &[&str]) -> Child {
    Command::new(BINARY)
        .args(["merge", "recipe.yml", out])
        .args(more)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// SHA-256 of every file but the card.
fn digests(dir: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().unwrap();
    files
        .map(|entry| (name(&entry), checkpoint::digest_file(&entry.path()).unwrap()))
        .filter(|(name, _)| name.ends_with(".safetensors") || name.ends_with(".json"))
        .collect()
}

#[test]
fn a_merge_killed_at_random_moments_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (name, mut seed) in [("base", 1), ("a", 2), ("b", 3)] {
        let mut model = TinyCheckpoint::llama(30, Dtype::BF16, seed);
        for layer in 0..30 {
            let name = format!("model.layers.{layer}.mlp.down_proj.weight");
            model.random(&name, Dtype::BF16, &[512, 1024], &mut seed);
        }
        model.write(&dir.path().join(name));
    }
    std::fs::write(dir.path().join("recipe.yml"), RECIPE).unwrap();
    let started = Instant::now();
    assert!(merge(dir.path(), "whole", &["--threads", "1"]).wait().unwrap().success());
    let whole = started.elapsed();
    let expected = digests(&dir.path().join("whole"));
    assert!(expected.len() > 3, "{expected:?}");
    let (mut kills, mut merges) = (0, 0);
    while kills < KILLS {
        merges += 1;
        let out = format!("out-{merges}");
        // a merge that is never let alone for long would never end, so each is killed five times at most
        for round in 1..=5u32 {
            let threads = ["1", "2", "7"][(merges + round) as usize % 3];
            let mut child = merge(dir.path(), &out, &["--threads", threads]);
            std::thread::sleep(
                whole.mul_f64(f64::from((merges * 5 + round).wrapping_mul(0x9e37_79b9) >> 8) / f64::from(1 << 24)),
            );
            child.kill().unwrap();
            match child.wait().unwrap() {
                ended if ended.success() => {}
                ended => {
                    assert_eq!(ended.signal(), Some(9), "it failed by itself: {ended}");
                    kills += 1;
                }
            }
        }
        assert!(merge(dir.path(), &out, &[]).wait().unwrap().success());
        assert_eq!(digests(&dir.path().join(&out)), expected, "after {kills} kills");
        std::fs::remove_dir_all(dir.path().join(&out)).unwrap();
        assert!(merges < 50, "{kills} kills only: the merges end too soon");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "something is left behind: {left:?}");
}

/// The highest anonymous memory of a process, in bytes, until it ends.
fn peak_anonymous(child: &mut Child) -> u64 {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_merge_of_models_larger_than_its_memory_stays_within_it() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["base", "a", "b"] {
        sparse_checkpoint(&dir.path().join(name), 256 << 20);
    }
    for method in ["linear", "ties", "dare_ties"] {
        let recipe = RECIPE.replace("dare_ties", method).replace(", out_shard_size: 8MB", "");
        let recipe = if method == "linear" { recipe.replace("base_model: base\n", "") } else { recipe };
        std::fs::write(dir.path().join("recipe.yml"), recipe.replace("out_shard_size: 8MB", "")).unwrap();
        let peak = peak_anonymous(&mut merge(dir.path(), method, &["--threads", "2", "--memory", "64MiB"]));
        assert!(peak > 1 << 20, "{method}: {peak} bytes were seen");
        assert!(peak < 80 << 20, "{method}: {peak} bytes of anonymous memory");
        std::fs::remove_dir_all(dir.path().join(method)).unwrap();
    }
}
