//! Merged vocabularies against mergekit's: rows are matched by token, since it numbers the tokens that a union adds in the
//! order of a hash map.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use testkit::{Case, Tensor, golden_dirs, read_checkpoint};

/// Recipes beyond what is supported, and options of mergekit's command line that are not.
const NOT_OURS: &[&str] = &["vocab-truncate"];

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn ids(dir: &Path) -> BTreeMap<String, u32> {
    vocabulary::token_ids(&json(&dir.join("tokenizer.json"))).unwrap()
}

fn rows(tensor: &Tensor) -> Vec<&[f64]> {
    tensor.values.chunks(tensor.values.len() / tensor.shape[0]).collect()
}

/// Off by no more than mergekit's own rounding: it rounds the aligned rows to bf16, merges, and rounds again.
fn assert_near(name: &str, ours: &[f64], golden: &[f64], steps: f64) {
    let rms = (golden.iter().map(|g| g * g).sum::<f64>() / golden.len() as f64).sqrt();
    for (a, b) in ours.iter().zip(golden) {
        let allowed = steps * 2f64.powi(-8) * b.abs().max(rms);
        assert!((a - b).abs() <= allowed, "{name}: {a} against {b}, allowed {allowed:e}");
    }
}

#[test]
fn merged_vocabularies_agree_by_token() {
    let mut merged = 0;
    for root in golden_dirs() {
        for case in Case::all(&root).iter().filter(|c| c.name.starts_with("vocab-") && !NOT_OURS.contains(&&*c.name)) {
            let dir = tempfile::tempdir().unwrap();
            crate::merge(case, dir.path());
            compare(case, dir.path());
            files_agree(case, dir.path());
            merged += 1;
        }
    }
    assert!(merged >= 3, "only {merged} cases");
}

/// Each special token has one id wherever it is named, and a template of the recipe stands in both of its places.
fn files_agree(case: &Case, dir: &Path) {
    let (ids, config, names) = (ids(dir), json(&dir.join("config.json")), json(&dir.join("tokenizer_config.json")));
    for role in ["bos", "eos", "pad"] {
        let name = names[format!("{role}_token")].as_str().unwrap();
        assert_eq!(config[format!("{role}_token_id")], ids[name], "{} {role}", case.name);
    }
    if case.recipe.contains("chat_template:") {
        let template = std::fs::read_to_string(dir.join("chat_template.jinja")).unwrap();
        assert_eq!(names["chat_template"], template, "{}", case.name);
    }
}

fn compare(case: &Case, dir: &Path) {
    let out = case.dir.join("out");
    let (ours, golden) = (ids(dir), ids(&out));
    assert_eq!(ours.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>(), "{}", case.name);
    let size = |dir: &Path| json(&dir.join("config.json"))["vocab_size"].as_u64().unwrap();
    assert_eq!(size(dir), size(&out), "{}", case.name);
    let (a, b) = (read_checkpoint(dir), read_checkpoint(&out));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{}", case.name);
    // where signs are elected mergekit's bf16 votes can fall the other way, which is compared elsewhere
    let elects = case.recipe.contains("merge_method: ties");
    for (name, ours_tensor) in &a {
        let golden_tensor = &b[name];
        assert_eq!(ours_tensor.shape, golden_tensor.shape, "{} {name}", case.name);
        if ours_tensor.shape[0] as u64 != size(dir) || elects {
            continue;
        }
        let (ours_rows, golden_rows) = (rows(ours_tensor), rows(golden_tensor));
        for (token, row) in &ours {
            let what = format!("{} {name} {token:?}", case.name);
            assert_near(&what, ours_rows[*row as usize], golden_rows[golden[token] as usize], 1.5);
        }
        let tokens = ours.len().max(ours.values().max().map_or(0, |m| *m as usize + 1));
        for row in tokens..ours_rows.len() {
            assert_near(&format!("{} {name} padding {row}", case.name), ours_rows[row], golden_rows[row], 2.0);
        }
    }
}
