//! Files of `torch.save`, read as a list of tensors with their places; no tensor data is read and nothing is run.

mod archive;
mod copy;
mod legacy;
mod state_dict;

use safetensors::Dtype;

use crate::pickle::Storage;
use crate::read_at::ReadAt;
use crate::{CheckpointError, bytes_of, limits};

/// The tensors of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchFile {
    /// In the order of the file.
    pub tensors: Vec<TorchTensor>,
    /// Entries that are no tensors and were left out, in words.
    pub left_out: Vec<String>,
}

/// A tensor as a view of bytes of the file, all of them inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// In elements, one for each dimension.
    pub strides: Vec<u64>,
    /// Offset of the first element from the start of the file.
    pub start: u64,
    /// Bytes of the tensor when its elements stand one after the other.
    pub bytes: u64,
}

impl TorchFile {
    /// Reads what tensors a file has; `name` is for messages.
    pub fn read(source: &dyn ReadAt, name: &str) -> Result<TorchFile, CheckpointError> {
        parse(source).map_err(|reason| CheckpointError::malformed(name, reason))
    }
}

fn parse(source: &dyn ReadAt) -> Result<TorchFile, String> {
    let mut magic = [0; 2];
    source.read_exact_at(&mut magic, 0).map_err(|_| "is empty".to_owned())?;
    match &magic {
        b"PK" => archive::read(source),
        [0x80, _] => legacy::read(source),
        _ => Err("is neither a file of torch.save nor a pickle".to_owned()),
    }
}

/// Where a storage's bytes are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    bytes: u64,
}

fn storage_bytes(storage: &Storage<'_>) -> Option<u64> {
    bytes_of(storage.dtype.unwrap_or(Dtype::U8), storage.elements)
}

fn read_bytes(source: &dyn ReadAt, place: Place, what: &str) -> Result<Vec<u8>, String> {
    if place.bytes > limits::PICKLE_BYTES_MAX {
        return Err(format!("{what} has {} bytes; at most {} are read", place.bytes, limits::PICKLE_BYTES_MAX));
    }
    let mut bytes = vec![0; place.bytes as usize];
    source.read_exact_at(&mut bytes, place.start).map_err(|e| format!("{what} cannot be read: {e}"))?;
    Ok(bytes)
}
