//! Kernels: how one output element comes from the input elements at the same place.

mod combination;
mod kept;
mod mask;
mod task_vectors;

use std::cell::RefCell;
use std::sync::Arc;

pub use combination::{Scaled, VectorSum, WeightedSum};
pub(crate) use combination::{add_scaled, divide};
pub use kept::Kept;
pub use mask::{Draws, Mask, Ranking};
pub use task_vectors::{Consensus, ElectedSum, Election, MergedVector, TaskVector, TaskVectorSum, VectorTaskSum};
pub(crate) use task_vectors::{add_to_base, subtract};

/// Elements of a tile at most, unless the kernel asks for longer units: a few inputs of this length stay in the L1 cache.
pub const TILE_MAX: usize = 2048;

/// The same span of every input, as f32.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    pub inputs: &'a [&'a [f32]],
    /// Index of the first element in its tensor.
    pub at: u64,
}

impl<'a> Tile<'a> {
    pub fn len(&self) -> usize {
        self.inputs[0].len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An elementwise function with its coefficients. The result for an element depends on the inputs of its unit and its
/// index alone, never on the tile it came in.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// `out` has the length of each input.
    fn combine(&self, tile: &Tile<'_>, out: &mut [f32]);

    /// Elements that must come together: a tile is a whole number of such units.
    fn unit(&self) -> u64 {
        1
    }
}

/// Several elementwise functions that share work.
pub trait Kernels: Send + Sync + std::fmt::Debug {
    fn count(&self) -> usize;

    /// Gives each function's number and its results for the tile.
    fn each(&self, tile: &Tile<'_>, take: &mut dyn FnMut(usize, &[f32]));

    /// As [`Kernel::unit`].
    fn unit(&self) -> u64 {
        1
    }
}

/// Kernels that share nothing.
impl Kernels for Vec<Arc<dyn Kernel>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn each(&self, tile: &Tile<'_>, take: &mut dyn FnMut(usize, &[f32])) {
        with_buffer(tile.len(), |values| {
            for (which, kernel) in self.iter().enumerate() {
                kernel.combine(tile, values);
                take(which, values);
            }
        });
    }

    fn unit(&self) -> u64 {
        self.iter().map(|kernel| kernel.unit()).max().unwrap_or(1)
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    static DOUBLES: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
    static BITS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of zeros that is kept from tile to tile.
pub(crate) fn with_scratch<R>(length: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    with_buffer(length, |buffer| {
        buffer.fill(0.0);
        f(buffer)
    })
}

/// Lends a buffer that holds what the last one left there, for those who write all of it.
pub(crate) fn with_buffer<R>(length: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    let result = f(&mut buffer[..length]);
    SCRATCH.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}

/// Lends one bit for each of so many elements, of no particular value. Not to be asked for inside itself.
pub(crate) fn with_bits<R>(length: usize, f: impl FnOnce(&mut [u64]) -> R) -> R {
    let words = length.div_ceil(64);
    BITS.with_borrow_mut(|bits| {
        bits.resize(bits.len().max(words), 0);
        f(&mut bits[..words])
    })
}

/// Lends numbers of no particular value. Not to be asked for inside itself.
pub(crate) fn with_doubles<R>(length: usize, f: impl FnOnce(&mut [f64]) -> R) -> R {
    DOUBLES.with_borrow_mut(|doubles| {
        doubles.resize(doubles.len().max(length), 0.0);
        f(&mut doubles[..length])
    })
}
