//! LoRA adapters: applied while their model is read, extracted from the difference of two models.

mod apply;
mod attach;
mod delta;
pub(crate) mod kinds;
pub(crate) mod peft;
pub(crate) mod spectrum;

pub(crate) use attach::{Applied, open};
