//! LoRA adapters: applied while their model is read.

mod apply;
mod attach;
mod delta;

pub(crate) use attach::{Applied, open};
