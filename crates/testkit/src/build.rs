//! Tiny checkpoints, written with the format's own library so that ours is tested against it.

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// A checkpoint in the making: llama names, deterministic values.
#[derive(Clone)]
pub struct TinyCheckpoint {
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub config: Value,
}

impl TinyCheckpoint {
    /// A llama of `layers` layers whose values depend on `seed`, in `dtype`.
    pub fn llama(layers: usize, dtype: Dtype, seed: u64) -> TinyCheckpoint {
        let mut tiny = TinyCheckpoint {
            tensors: BTreeMap::new(),
            config: json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": layers,
                "hidden_size": 8, "vocab_size": 16, "tie_word_embeddings": false, "torch_dtype": "float32",
            }),
        };
        let mut stream = seed;
        tiny.random("model.embed_tokens.weight", dtype, &[16, 8], &mut stream);
        tiny.random("model.norm.weight", dtype, &[8], &mut stream);
        tiny.random("lm_head.weight", dtype, &[16, 8], &mut stream);
        for layer in 0..layers {
            tiny.random(&format!("model.layers.{layer}.self_attn.q_proj.weight"), dtype, &[8, 8], &mut stream);
            tiny.random(&format!("model.layers.{layer}.mlp.up_proj.weight"), dtype, &[12, 8], &mut stream);
        }
        tiny
    }

    /// Adds a tensor of values between -1 and 1.
    pub fn random(&mut self, name: &str, dtype: Dtype, shape: &[usize], stream: &mut u64) {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| uniform(stream)).collect();
        self.set(name, dtype, shape, &values);
    }

    pub fn set(&mut self, name: &str, dtype: Dtype, shape: &[usize], values: &[f32]) {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        let bytes = match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::I64 => values.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect(),
            other => panic!("no tiny tensors of {other:?}"),
        };
        self.tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
    }

    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        let views = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&self.config).unwrap()).unwrap();
    }
}

/// A llama-like checkpoint of about `bytes` bytes that takes no room on disk: all zeros, never written.
pub fn sparse_checkpoint(dir: &Path, bytes: u64) {
    let layers = 8;
    let rows = bytes / layers / 1024 / 2;
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for layer in 0..layers {
        let end = offset + rows * 1024 * 2;
        header.insert(
            format!("model.layers.{layer}.mlp.up_proj.weight"),
            json!({"dtype": "BF16", "shape": [rows, 1024], "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let header = Value::Object(header).to_string();
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("model.safetensors");
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(8 + header.len() as u64 + offset).unwrap();
    let config = json!({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "torch_dtype": "bfloat16"});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// SplitMix64, as a number between -1 and 1.
fn uniform(stream: &mut u64) -> f32 {
    *stream = stream.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *stream;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}
