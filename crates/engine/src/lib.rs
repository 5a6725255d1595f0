//! Recipe and checkpoints in, plan and shards out.
//!
//! Invariants: synchronous, and no input makes it panic; a plan is made from headers alone, and only advice looks at a few
//! KiB of values; the bytes of an output depend on recipe, inputs and seed, never on threads, tiles or the backend.

mod advice;
mod architecture;
pub mod artifact;
pub mod backend;
mod beside;
mod check;
pub mod convert;
mod execute;
pub mod kernel;
mod known_digests;
mod layers;
mod lora;
pub mod methods;
mod parameters;
pub mod philox;
mod plan;
mod rows;
mod simd;
mod slices;
mod sources;
mod special;
mod stages;
pub mod statistic;

pub use artifact::{Artifact, ArtifactFile};
pub use backend::Backend;
pub use check::check;
pub use execute::{ExecuteError, Observer, Progress, execute, execute_on};
pub use known_digests::KnownDigests;
pub use lora::kinds::adapter_methods;
pub use plan::{
    Plan, PlanSummary, PlannedModel, PlannedShard, PlannedTensor, Settings, TaskInput, TensorTask, open_and_plan, plan,
};
pub use sources::{Source, Sources};
pub use stages::{
    Checked, OpenStages, PlannedStage, StageSummary, StagedPlan, check_stages, execute_stages, open_and_plan_stages,
};

/// Version of the engine, recorded in manifests and part of a plan's identity.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
