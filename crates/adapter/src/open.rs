//! An adapter's directory opened: config and header read and checked against each other, no tensor data.

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::{Access, Checkpoint, TensorPlace, is_mergeable};

use crate::names::{Part, Role, role};
use crate::{AdapterError, Config, files, limits};

/// What an adapter is; its tensors are in the checkpoint that is opened with it.
#[derive(Debug)]
pub struct Adapter {
    pub config: Config,
    /// By the name of the model's module.
    pub modules: BTreeMap<String, Module>,
    /// Tensors that replace the model's own, by their names there.
    pub saved: BTreeMap<String, TensorPlace>,
}

/// What an adapter adds to one module.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    pub kind: ModuleKind,
    pub rank: u64,
    /// What the product of the factors is multiplied with.
    pub scale: f64,
    pub factors: Factors,
    /// What is added to the module's bias, scaled likewise.
    pub bias: Option<TensorPlace>,
    /// DoRA: the lengths that the rows of the sum are given.
    pub magnitude: Option<TensorPlace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// A is [rank, in] and B [out, rank].
    Linear,
    /// A is [rank, rows of the embedding] and B [width, rank].
    Embedding,
}

/// Where the two factors are; shapes are checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    pub a: TensorPlace,
    pub b: TensorPlace,
}

impl Factors {
    /// The length of A's rows: inputs of a linear module, rows of an embedding.
    pub fn width(&self) -> u64 {
        self.a.info.shape[1]
    }

    /// The rows of B: outputs of a linear module, the width of an embedding.
    pub fn height(&self) -> u64 {
        self.b.info.shape[0]
    }
}

/// Whether a directory holds an adapter and no model.
pub fn is_adapter(dir: &Path) -> bool {
    // trainers leave the model's config.json beside it
    let weights =
        ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    dir.join(files::CONFIG).is_file() && !weights.iter().any(|name| dir.join(name).exists())
}

impl Adapter {
    pub fn open(dir: &Path, access: &Access) -> Result<(Adapter, Checkpoint), AdapterError> {
        refuse_pickle(dir)?;
        let checkpoint = Checkpoint::open_single(dir, files::WEIGHTS, files::CONFIG, access)?;
        let config = Config::parse(&checkpoint.config)?;
        let (parts, saved) = sort(&checkpoint)?;
        let comparisons = parts.len().saturating_mul(config.rank_pattern.len() + config.alpha_pattern.len());
        if parts.len() > limits::MODULES_MAX || comparisons > limits::PATTERN_MATCHES_MAX {
            return Err(AdapterError::Tensors(format!("{} modules and their patterns are too many", parts.len())));
        }
        let module = |(name, parts): (&str, Parts<'_>)| Ok((name.to_owned(), parts.module(name, &config)?));
        let modules = parts.into_iter().map(module).collect::<Result<BTreeMap<_, _>, AdapterError>>()?;
        if modules.is_empty() && saved.is_empty() {
            return Err(AdapterError::Tensors("has no tensors".to_owned()));
        }
        Ok((Adapter { config, modules, saved }, checkpoint))
    }
}

fn refuse_pickle(dir: &Path) -> Result<(), AdapterError> {
    if !dir.join(files::WEIGHTS).exists() && dir.join("adapter_model.bin").exists() {
        let reason = "is missing, and adapter_model.bin is a pickle, which is never loaded; save the adapter as safetensors first (PEFT: save_pretrained)";
        return Err(AdapterError::Tensors(reason.to_owned()));
    }
    Ok(())
}

type Saved = BTreeMap<String, TensorPlace>;

/// Tensors by module and part, and those that replace the model's own. Every tensor has a place.
fn sort(checkpoint: &Checkpoint) -> Result<(BTreeMap<&str, Parts<'_>>, Saved), AdapterError> {
    let mut modules: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
    let mut saved = BTreeMap::new();
    for (name, place) in &checkpoint.tensors {
        let twice = || AdapterError::Tensors(format!("tensor {name:?} occurs under another spelling too"));
        match role(name) {
            None => {
                return Err(AdapterError::Tensors(format!(
                    "tensor {name:?} is none that a LoRA adapter has, so it is not known what it means"
                )));
            }
            Some(Role::Saved(of_model)) => {
                if saved.insert(of_model, place.clone()).is_some() {
                    return Err(twice());
                }
            }
            Some(Role::Part { module, part }) => {
                floating(name, place)?;
                if modules.entry(module).or_default().slot(part).replace(place).is_some() {
                    return Err(twice());
                }
            }
        }
    }
    Ok((modules, saved))
}

fn floating(name: &str, place: &TensorPlace) -> Result<(), AdapterError> {
    match place.info.dtype {
        dtype if is_mergeable(dtype) => Ok(()),
        dtype => Err(AdapterError::Tensors(format!("tensor {name:?} has unsupported dtype {dtype:?}"))),
    }
}

#[derive(Default)]
struct Parts<'a> {
    a: Option<&'a TensorPlace>,
    b: Option<&'a TensorPlace>,
    embedding_a: Option<&'a TensorPlace>,
    embedding_b: Option<&'a TensorPlace>,
    bias: Option<&'a TensorPlace>,
    magnitude: Option<&'a TensorPlace>,
}

impl<'a> Parts<'a> {
    fn slot(&mut self, part: Part) -> &mut Option<&'a TensorPlace> {
        match part {
            Part::A => &mut self.a,
            Part::B => &mut self.b,
            Part::EmbeddingA => &mut self.embedding_a,
            Part::EmbeddingB => &mut self.embedding_b,
            Part::Bias => &mut self.bias,
            Part::Magnitude => &mut self.magnitude,
        }
    }

    fn module(&self, name: &str, config: &Config) -> Result<Module, AdapterError> {
        let error = |what: String| AdapterError::Tensors(format!("module {name:?} {what}"));
        let (kind, a, b) = match (self.a, self.b, self.embedding_a, self.embedding_b) {
            (Some(a), Some(b), None, None) => (ModuleKind::Linear, a, b),
            (None, None, Some(a), Some(b)) => (ModuleKind::Embedding, a, b),
            _ => {
                return Err(error(
                    "needs one factor A and one factor B, both of a linear layer or an embedding".into(),
                ));
            }
        };
        let rank = rank(a, b).map_err(error)?;
        if config.rank_of(name) != rank as f64 {
            let said = config.rank_of(name);
            return Err(error(format!("has factors of rank {rank}, and adapter_config.json says {said}")));
        }
        let height = b.info.shape[0];
        for (vector, what) in [(self.bias, "bias"), (self.magnitude, "magnitude vector")] {
            if vector.is_some_and(|v| v.info.elements() != height) {
                return Err(error(format!("has a {what} of another length than its {height} outputs")));
            }
        }
        let scale = config.scale_of(name, rank);
        if !(scale as f32).is_finite() {
            return Err(error(format!("has the scale {scale}, which is too large")));
        }
        if config.dora != self.magnitude.is_some() {
            let (said, found) = (config.dora, if config.dora { "no" } else { "a" });
            return Err(error(format!(
                "has {found} magnitude vector, and adapter_config.json says `\"use_dora\": {said}`"
            )));
        }
        if kind == ModuleKind::Embedding && (self.bias.is_some() || self.magnitude.is_some()) {
            return Err(error("is an embedding with a bias or DoRA, which is not supported".into()));
        }
        Ok(Module {
            kind,
            rank,
            scale,
            factors: Factors { a: a.clone(), b: b.clone() },
            bias: self.bias.cloned(),
            magnitude: self.magnitude.cloned(),
        })
    }
}

fn rank(a: &TensorPlace, b: &TensorPlace) -> Result<u64, String> {
    match (a.info.shape.as_slice(), b.info.shape.as_slice()) {
        ([rank, width], [height, same]) if rank == same && (1..=limits::RANK_MAX).contains(rank) => {
            if *width == 0 || *height == 0 { Err("has an empty factor".to_owned()) } else { Ok(*rank) }
        }
        (a, b) => Err(format!(
            "has factors of the shapes {a:?} and {b:?}; [rank, in] and [out, rank] are needed, with a rank of at most {}",
            limits::RANK_MAX
        )),
    }
}
