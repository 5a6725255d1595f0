//! The fuzzer's targets on mutated seeds, for a moment each: what a fuzzer would find first is found by `cargo test`.
//!
//! The mutations come from a fixed seed, so a failure is met again; how many are tried depends on the machine.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod mutate;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use mutate::Mutator;

const LONG_ENOUGH: Duration = Duration::from_secs(1);
/// Longer seeds are for the fuzzer alone.
const SEED_BYTES_MAX: usize = 8 * 1024;

#[test]
fn mutated_recipes_are_read_or_refused() {
    hold("recipe_text", &["fuzz/seeds/recipe_text", "tests/recipes", "examples/recipes"], targets::recipe_text::run);
}

#[test]
fn mutated_headers_are_read_or_refused() {
    hold("safetensors_header", &["fuzz/seeds/safetensors_header"], targets::safetensors_header::run);
}

#[test]
fn mutated_indexes_are_read_or_refused() {
    hold("index_file", &["fuzz/seeds/index_file"], targets::index_file::run);
}

#[test]
fn mutated_tokenizers_are_read_or_refused() {
    hold("tokenizer_json", &["fuzz/seeds/tokenizer_json"], targets::tokenizer_json::run);
}

#[test]
fn mutated_sentencepiece_models_are_read_or_refused() {
    hold("sentencepiece", &["fuzz/seeds/sentencepiece"], targets::sentencepiece::run);
}

#[test]
fn mutated_chat_templates_are_read_or_refused() {
    hold("chat_template", &["crates/vocabulary/src/template"], targets::chat_template::run);
}

#[test]
fn mutated_pickles_are_read_or_refused() {
    hold("pickle", &["fuzz/seeds/pickle"], targets::pickle::run);
}

#[test]
fn mutated_torch_files_are_read_or_refused() {
    hold("torch_file", &["crates/checkpoint/tests/pickles"], targets::torch_file::run);
}

fn hold(name: &str, folders: &[&str], target: fn(&[u8])) {
    let seeds: Vec<Vec<u8>> = folders.iter().flat_map(|folder| read_seeds(folder)).collect();
    assert!(seeds.len() > 1, "{folders:?}");
    seeds.iter().for_each(|seed| target(seed));
    let mut mutator = Mutator::new(&seeds);
    let started = Instant::now();
    while started.elapsed() < LONG_ENOUGH {
        let input = mutator.next_input();
        if catch_unwind(|| target(&input)).is_err() {
            panic!("target {name} fails on \"{}\"", input.escape_ascii());
        }
    }
}

fn read_seeds(folder: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(testkit::workspace().join(folder)).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).filter(|path| is_seed(path)).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn is_seed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e != "py") && path.metadata().is_ok_and(|m| m.len() <= SEED_BYTES_MAX as u64)
}
