//! LoRA adapters as PEFT writes them: what they mean, read from headers.
//!
//! Invariant: an adapter that opens is understood whole: every key of its config and every tensor of its file has a
//! meaning here, and what has none is refused by name.

mod config;
mod error;
mod matrix;
mod names;
mod open;
mod pattern;
mod svd;

pub use config::{Config, Scaling};
pub use error::AdapterError;
pub use matrix::{Matrix, Svd, exact_svd, qr};
pub use open::{Adapter, Factors, Module, ModuleKind, is_adapter};
pub use svd::{Operator, randomised_svd};

/// Names that PEFT gives the files of an adapter.
pub mod files {
    pub const CONFIG: &str = "adapter_config.json";
    pub const WEIGHTS: &str = "adapter_model.safetensors";
}

/// Named limits on what is read from an adapter.
pub mod limits {
    /// Rank of one module: far above any adapter that is worth its name.
    pub const RANK_MAX: u64 = 8_192;
    /// Entries of `rank_pattern` or `alpha_pattern`: each is looked for in every module's name.
    pub const PATTERNS_MAX: usize = 10_000;
    /// Modules of one adapter.
    pub const MODULES_MAX: usize = 200_000;
    /// Rounds in which the sketch of a matrix is sharpened.
    pub const POWER_ITERATIONS: usize = 2;
    /// Comparisons of modules with patterns.
    pub const PATTERN_MATCHES_MAX: usize = 50_000_000;
}
