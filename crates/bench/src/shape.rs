//! Shapes of synthetic checkpoints: names and sizes of tensors, as real models have them.

use clap::ValueEnum;
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// 1.1 billion parameters: hidden 2048, 22 layers, intermediate 5632, 32/4 heads, vocabulary 32000.
    Tinyllama,
    /// The same in small, 0.05 billion: enough to see that everything runs.
    Small,
    /// 2.2 million parameters, for the time that a start takes.
    Tiny,
    /// 10 000 tensors of 512 elements.
    Many,
    /// One tensor of 2 billion elements.
    Huge,
}

/// A shape, and how much of it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Size {
    #[arg(long, value_enum, default_value = "tinyllama")]
    pub shape: Shape,
    /// Layers of a llama shape, where they are not to be its own: 88 MB each of tinyllama.
    #[arg(long)]
    pub layers: Option<u64>,
}

pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
}

struct Llama {
    hidden: u64,
    layers: u64,
    intermediate: u64,
    key_values: u64,
    vocabulary: u64,
}

impl Size {
    pub fn tensors(self) -> Vec<Tensor> {
        let layers = self.layer_count();
        match self.shape {
            Shape::Tinyllama => {
                llama(&Llama { hidden: 2048, layers, intermediate: 5632, key_values: 256, vocabulary: 32000 })
            }
            Shape::Small => llama(&Llama { hidden: 512, layers, intermediate: 1408, key_values: 64, vocabulary: 8000 }),
            Shape::Tiny => llama(&Llama { hidden: 64, layers, intermediate: 176, key_values: 16, vocabulary: 15000 }),
            Shape::Many => {
                (0..10_000).map(|i| tensor(format!("model.layers.{}.w{}.weight", i / 100, i % 100), &[512])).collect()
            }
            Shape::Huge => vec![tensor("model.embed_tokens.weight".to_owned(), &[1 << 18, 1 << 13])],
        }
    }

    pub fn bytes(self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.dims.iter().product::<u64>() * 2).sum()
    }

    pub fn config(self) -> Value {
        json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": self.layer_count(), "torch_dtype": "bfloat16"})
    }

    /// What tells it from others in the name of a folder.
    pub fn name(self) -> String {
        format!("{:?}-{}", self.shape, self.layer_count()).to_lowercase()
    }

    fn layer_count(self) -> u64 {
        match self.shape {
            Shape::Tinyllama => self.layers.unwrap_or(22),
            Shape::Small => self.layers.unwrap_or(12),
            Shape::Tiny => self.layers.unwrap_or(4),
            Shape::Many => 100,
            Shape::Huge => 0,
        }
    }
}

fn llama(of: &Llama) -> Vec<Tensor> {
    let Llama { hidden, layers, intermediate, key_values, vocabulary } = *of;
    let mut tensors = vec![
        tensor("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]),
        tensor("model.norm.weight".to_owned(), &[hidden]),
        tensor("lm_head.weight".to_owned(), &[vocabulary, hidden]),
    ];
    let parts: &[(&str, &[u64])] = &[
        ("input_layernorm", &[hidden]),
        ("self_attn.q_proj", &[hidden, hidden]),
        ("self_attn.k_proj", &[key_values, hidden]),
        ("self_attn.v_proj", &[key_values, hidden]),
        ("self_attn.o_proj", &[hidden, hidden]),
        ("post_attention_layernorm", &[hidden]),
        ("mlp.gate_proj", &[intermediate, hidden]),
        ("mlp.up_proj", &[intermediate, hidden]),
        ("mlp.down_proj", &[hidden, intermediate]),
    ];
    for layer in 0..layers {
        tensors.extend(parts.iter().map(|(part, dims)| tensor(format!("model.layers.{layer}.{part}.weight"), dims)));
    }
    tensors
}

fn tensor(name: String, dims: &[u64]) -> Tensor {
    Tensor { name, dims: dims.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_shape_has_the_size_it_is_known_by() {
        let of = |shape, layers| Size { shape, layers };
        assert_eq!(of(Shape::Tinyllama, None).bytes(), 2 * 1_100_048_384);
        assert_eq!(of(Shape::Tinyllama, Some(110)).bytes(), 9_951_891_456);
        assert_eq!(of(Shape::Many, None).tensors().len(), 10_000);
        assert_eq!(of(Shape::Huge, None).bytes(), 4 << 30);
    }
}
