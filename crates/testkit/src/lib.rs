//! What tests share: tiny checkpoints made in code, checkpoints read back, and every method written naively in f64.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test, and the panic says where")]

mod build;
mod golden;
pub mod postgres;
mod read;
pub mod reference;
mod server;

pub use build::{TinyCheckpoint, sparse_checkpoint};
pub use golden::{Case, golden_dirs};
pub use read::{Tensor, read_checkpoint};
pub use server::TestServer;

use std::path::PathBuf;

/// The root of the repository.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/testkit lies two levels down")
        .to_owned()
}
