//! Files that torch wrote, converted and compared with the safetensors of the same tensors.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod made;

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

/// Two files with an index, as large models were saved.
fn sharded(dir: &Path, weight_map: &Value) -> PathBuf {
    let from = model(dir, "tied.bin", json!({"tie_word_embeddings": false}));
    std::fs::rename(from.join("pytorch_model.bin"), from.join("pytorch_model-00001-of-00002.bin")).unwrap();
    std::fs::copy(pickles().join("wrapped.bin"), from.join("pytorch_model-00002-of-00002.bin")).unwrap();
    let index = json!({"weight_map": weight_map}).to_string();
    std::fs::write(from.join("pytorch_model.bin.index.json"), index).unwrap();
    from
}

#[test]
fn files_of_an_index_become_one_checkpoint() {
    let (one, two) = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    run(&sharded(dir.path(), &json!({"norm.weight": one, "w": two})), &out, 1 << 30).unwrap();
    let mut expected = read(&pickles().join("tied.safetensors"));
    expected.extend(read(&pickles().join("wrapped.safetensors")));
    assert_eq!(read(&out.join("model.safetensors")), expected);

    let cases = [
        (
            json!({"w": one, "norm.weight": one}),
            r#"tensor "w" is in pytorch_model-00001-of-00002.bin, which does not have it"#,
        ),
        (json!({"w": "../x.bin"}), "plain file name ending in .bin"),
        (json!({"w": "model.safetensors"}), "plain file name ending in .bin"),
        (json!({"w": "missing.bin"}), "missing.bin"),
    ];
    for (weight_map, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let error = run(&sharded(dir.path(), &weight_map), &dir.path().join("out"), 1 << 30).unwrap_err().to_string();
        assert!(error.contains(expected), "{weight_map}: {error}");
    }
}

#[test]
fn what_fails_leaves_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let from = model(dir.path(), "views.bin", json!({}));
    let entries = || std::fs::read_dir(dir.path()).unwrap().count();
    let out = dir.path().join("out");

    let cancel = AtomicBool::new(true);
    let stopped =
        convert(&Conversion { from: &from, to: &out, shard_bytes: 1, on_progress: &|_, _| (), cancel: &cancel });
    assert!(matches!(stopped, Err(CheckpointError::Cancelled)));
    assert_eq!(entries(), 1);

    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "precious").unwrap();
    assert!(matches!(run(&from, &out, 1 << 30), Err(CheckpointError::Io { .. })));
    assert_eq!((entries(), std::fs::read_dir(&out).unwrap().count()), (2, 1));

    std::fs::remove_file(out.join("mine")).unwrap();
    run(&from, &out, 1 << 30).unwrap();
    assert!(out.join("model.safetensors").exists());
}

#[test]
fn models_that_need_no_conversion_or_allow_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = model(dir.path(), "views.bin", json!({"quantization_config": {"quant_method": "gptq"}}));
    let out = dir.path().join("out");
    let refused = |from: &Path| run(from, &out, 1 << 30).unwrap_err().to_string();
    assert!(refused(&from).contains("(GPTQ)"));
    std::fs::write(from.join("model.safetensors"), "").unwrap();
    assert!(refused(&from).contains("nothing to convert"));
    assert!(refused(dir.path()).contains("name the file itself"));
    assert!(refused(&dir.path().join("nosuch")).contains("no such directory"));
    assert!(!out.exists());
}

/// 8-bit weights of bitsandbytes, pickled with a config that does not say so.
#[test]
fn a_pickle_of_quantised_tensors_is_refused_by_its_scheme() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bin");
    let [weight, scale] = ["w.weight", "w.SCB"].map(|name| made::named(name, "CharStorage"));
    std::fs::write(&path, made::torch(&[&weight[..weight.len() - 1], &scale[3..]].concat())).unwrap();
    let error = run(&path, &dir.path().join("out"), 1 << 30).unwrap_err().to_string();
    assert!(error.contains("(bitsandbytes, 8 bit)"), "{error}");
}

/// A view that repeats one element may be as large as it likes in a file of a few bytes.
#[test]
fn a_small_file_does_not_become_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bin");
    std::fs::write(&path, made::torch(&made::tensor(0, &[1 << 20, 1 << 20], &[0, 0]))).unwrap();
    let error = run(&path, &dir.path().join("out"), 1 << 30).unwrap_err().to_string();
    assert!(error.contains("more than 4 times as large"), "{error}");
}

#[test]
fn opening_a_pickle_names_the_command_that_converts_it() {
    let dir = tempfile::tempdir().unwrap();
    let from = model(dir.path(), "tied.bin", json!({}));
    let error = Checkpoint::open(&from, &Access::Anywhere).unwrap_err().to_string();
    assert!(error.contains("`amalgam convert DIR NEW_DIR`"), "{error}");
    std::fs::rename(from.join("pytorch_model.bin"), from.join("consolidated.pth")).unwrap();
    let error = Checkpoint::open(&from, &Access::Anywhere).unwrap_err().to_string();
    assert!(error.contains("`amalgam convert DIR/consolidated.pth NEW_DIR`"), "{error}");
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
