//! Tensors on disk: headers read and checked, tiles in, shards out.
//!
//! Invariant: nothing is allocated or trusted on the word of a header before it is checked against the file's length.

mod access;
mod beneath;
pub mod beside;
mod convert;
mod digest;
mod error;
mod header;
mod index;
mod open;
mod output_roots;
mod pickle;
mod planned;
mod quantised;
mod read_at;
mod shard;
mod torch;
mod withdraw;

pub use access::Access;
pub use convert::{Conversion, Converted, convert};
pub use digest::{Digester, digest_bytes, digest_file, hex};
pub use error::CheckpointError;
pub use header::{Header, TensorInfo};
pub use index::Index;
pub use open::{Checkpoint, CheckpointFile, TensorPlace};
pub use output_roots::OutputRoots;
pub use planned::Beside;
pub use read_at::{FileBytes, ReadAt};
pub use safetensors::Dtype;
pub use shard::{ShardFile, ShardLayout, ShardTensor, layout_shards};
pub use torch::{TorchFile, TorchTensor};
pub use withdraw::{WithdrawError, Withdrawal, Withdrawn};

/// Named limits on what is read from a checkpoint.
pub mod limits {
    /// Bytes of one safetensors header, as the format's own library caps it.
    pub const HEADER_BYTES_MAX: u64 = 100_000_000;
    /// Bytes of `config.json` and of other JSON files read whole.
    pub const JSON_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// Tensors of one checkpoint.
    pub const TENSORS_MAX: usize = 2_000_000;
    /// Shards of one checkpoint.
    pub const SHARDS_MAX: usize = 10_000;
    /// Bytes of one pickle; what it speaks of lies elsewhere, so that 100 000 tensors need about 25 MB.
    pub const PICKLE_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// Opcodes of one pickle, of which a tensor takes about 25.
    pub const PICKLE_STEPS_MAX: usize = 4_000_000;
    /// Lists, tuples and the like of one pickle, of which a tensor takes about 8.
    pub const PICKLE_OBJECTS_MAX: usize = 1_500_000;
    /// Values on the stack of one pickle.
    pub const PICKLE_STACK_MAX: usize = 1_000_000;
    /// Open marks of one pickle.
    pub const PICKLE_DEPTH_MAX: usize = 256;
    /// Bytes of the name of a global.
    pub const PICKLE_NAME_BYTES_MAX: usize = 1_024;
    /// Characters of a name from a pickle that a message shows.
    pub const NAME_SHOWN_MAX: usize = 120;
    /// Dimensions of one tensor of a pickle.
    pub const PICKLE_DIMENSIONS_MAX: usize = 16;
    /// Bytes of the directory of a zip.
    pub const ZIP_DIRECTORY_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// Bytes of the name of a tensor in a pickle.
    pub const TENSOR_NAME_BYTES_MAX: usize = 4_096;
    /// Entries that are no tensors, of which a conversion tells.
    pub const LEFT_OUT_MAX: usize = 20;
    /// How many times as large a conversion may be as the files it reads.
    pub const CONVERSION_GROWTH_MAX: u64 = 4;
}

/// Bytes of `elements` values of `dtype`; `None` when they fill no whole number of bytes or overflow.
pub fn bytes_of(dtype: Dtype, elements: u64) -> Option<u64> {
    let bits = elements.checked_mul(dtype.bitsize() as u64)?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// Whether this is one of the dtypes that merge arithmetic reads and writes.
pub fn is_mergeable(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32)
}

/// Whether values of this dtype are real numbers that merging would have to interpolate.
pub fn is_floating(dtype: Dtype) -> bool {
    !matches!(
        dtype,
        Dtype::BOOL
            | Dtype::U8
            | Dtype::I8
            | Dtype::I16
            | Dtype::U16
            | Dtype::I32
            | Dtype::U32
            | Dtype::I64
            | Dtype::U64
    )
}
