//! From files of `torch.save` to a checkpoint of safetensors: tensor by tensor, published by one rename.
//!
//! Invariant: the output depends on the input's bytes and the shard size alone.

mod input;
mod output;
mod ties;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::{CheckpointError, quantised};

/// What to convert, and who watches.
pub struct Conversion<'a> {
    /// A directory with `pytorch_model.bin` or its index, or one file of `torch.save`.
    pub from: &'a Path,
    /// The directory to make; it must not exist, or be empty.
    pub to: &'a Path,
    /// Bytes of tensors in one shard at most.
    pub shard_bytes: u64,
    /// Told bytes done and bytes in all.
    pub on_progress: &'a dyn Fn(u64, u64),
    pub cancel: &'a AtomicBool,
}

/// What a conversion made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    pub tensors: usize,
    pub bytes: u64,
    /// In the order in which they were written.
    pub files: Vec<String>,
    /// What of the input is not in the output, or not as it was, in words.
    pub notes: Vec<String>,
}

pub fn convert(conversion: &Conversion<'_>) -> Result<Converted, CheckpointError> {
    let mut input = input::open(conversion.from)?;
    quantised::refuse_tensors(&input.places())?;
    let mut notes = std::mem::take(&mut input.notes);
    notes.extend(ties::drop_tied_heads(&mut input));
    input::check_growth(&input)?;
    let written = output::write(conversion, &input)?;
    Ok(Converted { tensors: input.tensors.len(), bytes: written.bytes, files: written.files, notes })
}
