//! A model that torch pickled, from the refusal of a merge to a merge.

use std::path::Path;

use serde_json::{Value, json};

use crate::amalgam;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_pickled_model_is_refused_converted_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, out, recipe] = ["old", "new", "out", "recipe.yml"].map(|name| dir.path().join(name));
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("config.json"), json!({"tie_word_embeddings": true}).to_string()).unwrap();
    let pickle = testkit::workspace().join("crates/checkpoint/tests/pickles/tied.bin");
    std::fs::copy(pickle, old.join("pytorch_model.bin")).unwrap();
    let merge = |model: &Path| {
        let yaml = format!("merge_method: passthrough\nmodels: [{{model: {}}}]\n", text(model));
        std::fs::write(&recipe, yaml).unwrap();
        amalgam(&["merge", text(&recipe), text(&out)])
    };

    let refused = merge(&old);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("`amalgam convert DIR NEW_DIR`"), "{told}");

    let converted = amalgam(&["convert", text(&old), text(&new), "--json"]);
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    let said: Value = serde_json::from_slice(&converted.stdout).unwrap();
    assert_eq!(said["files"], json!(["model.safetensors", "config.json"]));
    assert!(said["warnings"][0].as_str().unwrap().contains("lm_head.weight"), "{said}");

    let merged = merge(&new);
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    assert!(out.join("model.safetensors").exists());
}

#[test]
fn a_hostile_pickle_is_refused_with_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pytorch_model.bin");
    std::fs::write(&file, b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.").unwrap();
    let out = dir.path().join("out");
    let refused = amalgam(&["convert", text(&file), text(&out)]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("names \"os.system\"") && told.contains("nothing of it was run"), "{told}");
    assert!(!out.exists());
}
