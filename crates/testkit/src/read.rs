//! Checkpoints read back by the format's own library, values widened to f64.

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::Dtype;
use safetensors::SafeTensors;

#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    /// Exact: every dtype read here fits in f64. Empty for dtypes that are no floats.
    pub values: Vec<f64>,
}

/// All tensors of all safetensors files in a directory.
pub fn read_checkpoint(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    let files = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for path in files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")) {
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for (name, view) in file.tensors() {
            let tensor = Tensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
                values: values(view.dtype(), view.data()),
            };
            assert!(tensors.insert(name.clone(), tensor).is_none(), "{name} is in two files");
        }
    }
    tensors
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        _ => Vec::new(),
    }
}
