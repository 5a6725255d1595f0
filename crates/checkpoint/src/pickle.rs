//! Pickles, as far as torch writes them for tensors: a machine that builds values and can run nothing.
//!
//! Invariants: a global is one of a short list or the file is refused; what a global stands for is built here, never
//! called; every value lies in one arena, so that no nesting and no cycle costs stack; opcodes are bounded.

mod build;
mod call;
mod cursor;
mod global;
mod machine;
mod refusal;
mod value;

pub(crate) use machine::{Pickle, read};
pub(crate) use refusal::shorten;
pub(crate) use value::{Object, Storage, TensorView, Value};
