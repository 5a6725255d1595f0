//! What to merge: text in, [`Recipe`] out, or every problem found with its place.
//!
//! Invariant: no I/O here, and nothing about methods: which parameters mean something is the engine's to say.

mod decode;
mod draft;
mod model_ref;
mod node;
mod problem;
mod setting;
mod stages;
mod types;
mod variants;
mod write;
mod yaml;

pub use decode::place_of;
pub use draft::Draft;
pub use model_ref::ModelRef;
pub use problem::{Positions, Problem, Refusal, escape, nearest};
pub use setting::{Condition, Parameters, Scalar, Setting, Value};
pub use stages::{Stage, StageUse, Stages};
pub use types::{
    Content, FloatDtype, InputModel, InputSlice, LayerRange, ModuleContent, ModuleRecipe, Options, OutputSlice, Recipe,
    TokenRecipe, TokenSource, TokenizerRecipe, TokenizerSource, UnknownTensors,
};
pub use variants::{Variant, with_each};
pub use yaml::to_yaml;

/// Named limits of a recipe: past them it is refused before it is understood.
pub mod limits {
    /// Bytes of recipe text.
    pub const RECIPE_BYTES_MAX: usize = 256 * 1024;
    /// YAML nodes, after aliases are expanded.
    pub const NODES_MAX: usize = 50_000;
    /// Bytes of all texts, after aliases are expanded.
    pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
    /// Nesting of lists and maps.
    pub const DEPTH_MAX: usize = 32;
    /// Bytes of the pointers to all values.
    pub const POINTER_BYTES_MAX: usize = 16 * 1024 * 1024;
    /// Bytes of one key: pointers repeat the keys above a value.
    pub const KEY_BYTES_MAX: usize = 256;
    /// Conditions of one setting.
    pub const CONDITIONS_MAX: usize = 128;
    /// Conditions of a whole recipe: each is looked for in every tensor's name.
    pub const CONDITIONS_TOTAL_MAX: usize = 1_000;
    /// YAML aliases and merge keys.
    pub const ALIASES_MAX: usize = 2_000;
    /// Models, or sources of one slice.
    pub const MODELS_MAX: usize = 64;
    /// Modules of one recipe: far above what any family has.
    pub const MODULES_MAX: usize = 64;
    /// Output slices.
    pub const SLICES_MAX: usize = 4_096;
    /// Layers of one source: far above any model, far below what would exhaust memory.
    pub const LAYERS_MAX: u32 = 100_000;
    /// Entries of `options`.
    pub const OPTIONS_MAX: usize = 64;
    /// Bytes of an output shard that a recipe may ask for.
    pub const SHARD_BYTES_MAX: f64 = 9.0e15;
    /// Merges that one text may ask for.
    pub const VARIANTS_MAX: usize = 64;
    /// Values that one variant may change.
    pub const CHANGES_MAX: usize = 128;
    /// Places of the recipe that these may be: a model can be in many slices.
    pub const CHANGED_PLACES_MAX: usize = 10_000;
    /// Characters of a variant's name.
    pub const VARIANT_NAME_CHARS_MAX: usize = 64;
    /// Problems of all variants reported at once.
    pub const VARIANT_PROBLEMS_MAX: usize = 200;
    /// Documents of one recipe.
    pub const STAGES_MAX: usize = 32;
    /// Problems reported at once.
    pub const PROBLEMS_MAX: usize = 50;
}
