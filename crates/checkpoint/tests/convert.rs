//! Files that torch wrote, converted and compared with the safetensors of the same tensors.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use checkpoint::{Access, Checkpoint, CheckpointError, Conversion, Converted, Dtype, convert};
use serde_json::{Value, json};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn pickles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pickles")
}

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    read.iter().map(|(name, t)| (name.to_owned(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn run(from: &Path, to: &Path, shard_bytes: u64) -> Result<Converted, CheckpointError> {
    let cancel = AtomicBool::new(false);
    convert(&Conversion { from, to, shard_bytes, on_progress: &|done, total| assert!(done <= total), cancel: &cancel })
}

/// A directory with a model of this pickle in it.
fn model(dir: &Path, pickle: &str, config: Value) -> PathBuf {
    let model = dir.join("model");
    std::fs::create_dir_all(&model).unwrap();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(pickles().join(pickle), model.join("pytorch_model.bin")).unwrap();
    model
}

#[test]
fn what_torch_wrote_is_read_to_the_byte() {
    for name in ["dtypes", "views", "protocol4", "legacy", "wrapped"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        run(&pickles().join(format!("{name}.bin")), &out, 1 << 30).unwrap();
        let expected = read(&pickles().join(format!("{name}.safetensors")));
        assert_eq!(read(&out.join("model.safetensors")), expected, "{name}");
    }
}

#[test]
fn a_directory_becomes_a_checkpoint_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let from = model(dir.path(), "dtypes.bin", json!({"model_type": "x"}));
    std::fs::write(from.join("tokenizer.json"), "{}").unwrap();
    std::fs::write(from.join("code.py"), "").unwrap();
    let out = dir.path().join("out");
    let converted = run(&from, &out, 40).unwrap();
    assert_eq!(converted.tensors, 13);
    let checkpoint = Checkpoint::open(&out, &Access::Anywhere).unwrap();
    assert!(checkpoint.files.len() > 3);
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let mut told = converted.files.clone();
    names.sort();
    told.sort();
    assert_eq!(names, told);
    assert!(names.contains(&"tokenizer.json".to_owned()) && !names.contains(&"code.py".to_owned()));
    let expected = read(&pickles().join("dtypes.safetensors"));
    let got: Tensors = checkpoint.files.iter().flat_map(|file| read(&file.path)).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_tied_head_is_left_out_unless_the_config_unties_it() {
    for (config, kept) in [(json!({}), false), (json!({"tie_word_embeddings": false}), true)] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let converted = run(&model(dir.path(), "tied.bin", config), &out, 1 << 30).unwrap();
        let mut expected = read(&pickles().join("tied.safetensors"));
        if !kept {
            expected.remove("lm_head.weight").unwrap();
            assert!(converted.notes[0].contains(r#""lm_head.weight" is "embed_tokens.weight" itself"#));
        }
        assert_eq!(read(&out.join("model.safetensors")), expected);
    }
}

#[test]
fn what_is_left_out_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let converted = run(&pickles().join("wrapped.bin"), &dir.path().join("out"), 1 << 30).unwrap();
    let notes = converted.notes.join("\n");
    for told in ["no config.json", r#""epoch" stands beside "model""#, r#""optimizer""#, r#""steps" is an integer"#] {
        assert!(notes.contains(told), "{told}: {notes}");
    }
}
