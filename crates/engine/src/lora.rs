//! LoRA adapters: applied while their model is read, extracted from the difference of two models,
//! merged with each other.

mod apply;
mod attach;
mod delta;
pub(crate) mod kinds;
pub(crate) mod mixing;
pub(crate) mod peft;
pub(crate) mod spectrum;

pub(crate) use attach::{Applied, open};
pub(crate) use delta::read_all;
