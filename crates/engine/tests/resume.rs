//! A merge that is killed goes on where it stood, and ends with the same bytes.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use checkpoint::{Access, Dtype};
use engine::backend::cpu::Cpu;
use engine::{Artifact, ExecuteError, Observer, Plan, Progress, Settings, Sources};
use recipe::Recipe;
use testkit::TinyCheckpoint;

const RECIPE: &str = "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1, density: 0.5}}, {model: b, parameters: {weight: 0.5, density: 0.3}}]\noptions: {out_shard_size: 4KB}\n";

/// Elements of a tile as a rule: the most that there may be.
const TILE: usize = engine::kernel::TILE_MAX;

struct Merge {
    backend: Cpu,
    plan: Plan,
    sources: Sources,
    dir: tempfile::TempDir,
}

impl Merge {
    fn new(threads: usize, tile: usize) -> Merge {
        let dir = tempfile::tempdir().unwrap();
        for (name, seed) in [("base", 1), ("a", 2), ("b", 3)] {
            TinyCheckpoint::llama(12, Dtype::BF16, seed).write(&dir.path().join(name));
        }
        let settings = Settings { threads, ..Settings::default() };
        let access = Access::Under(vec![dir.path().to_owned()]);
        let (plan, sources) =
            engine::open_and_plan(&Recipe::parse(RECIPE, false).unwrap(), &access, &settings).unwrap();
        Merge { backend: Cpu::with_spans(1, tile), plan, sources, dir }
    }

    /// Merges until so many bytes are done, as far as that is in the hands of a flag.
    fn until(&self, out: &str, bytes: u64) -> (Result<Artifact, ExecuteError>, Progress) {
        let cancel = AtomicBool::new(false);
        let first: Mutex<Option<Progress>> = Mutex::new(None);
        let on_progress = |progress: Progress| {
            first.lock().unwrap().get_or_insert(progress);
            if progress.bytes_done >= bytes {
                cancel.store(true, Ordering::Relaxed);
            }
        };
        let observer = Observer { on_progress: &on_progress, cancel: &cancel };
        let merged = engine::execute_on(&self.backend, &self.plan, &self.sources, RECIPE, &self.path(out), &observer);
        (merged, first.into_inner().unwrap().unwrap())
    }

    fn path(&self, out: &str) -> PathBuf {
        self.dir.path().join(out)
    }

    fn bytes_total(&self) -> u64 {
        let total = AtomicU64::new(0);
        let on_progress = |progress: Progress| total.store(progress.bytes_total, Ordering::Relaxed);
        let observer = Observer { on_progress: &on_progress, cancel: &AtomicBool::new(false) };
        engine::execute(&self.plan, &self.sources, RECIPE, &self.path("total"), &observer).unwrap();
        total.into_inner()
    }
}

/// Digests of the files as they lie there, which the manifest must know.
fn digests(artifact: &Artifact) -> Vec<String> {
    assert!(!artifact.dir.join(".journal").exists());
    for file in &artifact.files {
        assert_eq!(file.sha256, checkpoint::digest_file(&artifact.dir.join(&file.path)).unwrap(), "{}", file.path);
    }
    artifact.files.iter().map(|file| file.sha256.clone()).collect()
}

/// Numbers that spread over a range, the same each time.
fn spread(count: u64, below: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(move |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % below)
}

#[test]
fn a_merge_stopped_at_any_point_ends_with_the_same_bytes() {
    let whole = Merge::new(1, TILE);
    let expected = digests(&whole.until("out", u64::MAX).0.unwrap());
    let total = whole.bytes_total();
    for (threads, tile) in [1, 2, 7].into_iter().flat_map(|threads| [TILE, 64, 7].map(|tile| (threads, tile))) {
        let merge = Merge::new(threads, tile);
        for (nth, at) in spread(20, total).enumerate() {
            let out = format!("out-{nth}");
            let stopped = merge.until(&out, at).0.map(drop);
            assert!(matches!(stopped, Err(ExecuteError::Cancelled) | Ok(())), "{stopped:?}");
            // once more, a little further on, so that a resumed merge is itself resumed
            let _ = merge.until(&out, (at + total) / 2).0;
            let artifact = merge.until(&out, u64::MAX).0.unwrap();
            assert_eq!(
                digests(&artifact),
                expected,
                "{threads} threads, tiles of {tile}, stopped at byte {at} of {total}"
            );
        }
    }
}

#[test]
fn what_is_done_is_not_done_again() {
    let merge = Merge::new(1, TILE);
    let total = merge.bytes_total();
    merge.until("out", total / 2).0.unwrap_err();
    let (resumed, first) = merge.until("out", u64::MAX);
    // what an earlier execution has done counts from the start
    assert!(first.bytes_done > total / 10, "{first:?} of {total}");
    resumed.unwrap();
    let (again, first) = merge.until("out", u64::MAX);
    assert_eq!((first.bytes_done, first.tensors_done), (first.bytes_total, first.tensors_total));
    again.unwrap();
}

#[test]
fn a_shard_that_is_gone_is_written_again_and_a_journal_of_another_plan_counts_for_nothing() {
    let merge = Merge::new(1, TILE);
    let expected = digests(&merge.until("whole", u64::MAX).0.unwrap());
    let total = merge.bytes_total();
    merge.until("out", total * 2 / 3).0.unwrap_err();
    let shard = |out: &str| merge.path(out).join(&merge.plan.shards[0].file_name);
    std::fs::remove_file(shard("out")).unwrap();
    assert_eq!(digests(&merge.until("out", u64::MAX).0.unwrap()), expected);
    merge.until("other", total * 2 / 3).0.unwrap_err();
    let journal = merge.path("other").join(".journal");
    let text = String::from_utf8_lossy(&std::fs::read(&journal).unwrap()).replace(&merge.plan.digest[..8], "00000000");
    std::fs::write(&journal, text).unwrap();
    std::fs::write(shard("other"), vec![0xff; merge.plan.shards[0].bytes as usize]).unwrap();
    assert_eq!(digests(&merge.until("other", u64::MAX).0.unwrap()), expected);
}

#[test]
fn what_is_done_after_a_torn_record_counts_too() {
    let merge = Merge::new(1, TILE);
    let total = merge.bytes_total();
    merge.until("out", total / 6).0.unwrap_err();
    let journal = merge.path("out").join(".journal");
    let mut text = std::fs::read(&journal).unwrap();
    text.extend([7, 0, 0]);
    std::fs::write(&journal, &text).unwrap();
    merge.until("out", total * 2 / 3).0.unwrap_err();
    let records = std::fs::read(&journal).unwrap().len();
    assert!(records > text.len(), "{records} after {}", text.len());
    let (resumed, first) = merge.until("out", u64::MAX);
    let begin = "amalgam journal 1\n".len() + merge.plan.digest.len() + 1;
    assert_eq!(first.tensors_done as usize, (records - begin) / 8, "{first:?}");
    resumed.unwrap();
}

/// Two processes that both believe the job is theirs: threads here, each with files of its own.
#[test]
fn two_executions_in_one_directory_do_no_harm() {
    let merge = Merge::new(2, TILE);
    let expected = digests(&merge.until("alone", u64::MAX).0.unwrap());
    for round in 0..5 {
        let run = || merge.until("shared", u64::MAX).0;
        let artifacts = std::thread::scope(|scope| {
            let other = scope.spawn(run);
            [run(), other.join().unwrap()]
        });
        for artifact in artifacts {
            assert_eq!(digests(&artifact.unwrap()), expected, "round {round}");
        }
        std::fs::remove_dir_all(merge.path("shared")).unwrap();
    }
}
