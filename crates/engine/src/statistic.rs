//! Reductions over a tensor's inputs: what a method may ask for before it can make its coefficients.

/// One reduction over all elements of a tensor's inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Statistic {
    /// Inner products of every pair of inputs, in f64.
    Gram,
    /// For each input with a count: the exact cut that keeps that many largest |x - origin|.
    Cuts { origin: usize, keep: Vec<Option<u64>> },
    /// For each input: the sum of |x - origin|, over all elements and over those that its cut keeps, in f64.
    L1 { origin: usize, cuts: Vec<Option<Cut>> },
}

/// What came of a [`Statistic`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reduced {
    Gram(Gram),
    Cuts(Vec<Option<Cut>>),
    L1(Vec<L1>),
}

/// Symmetric matrix of inner products.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    pub size: usize,
    /// Row by row.
    pub products: Vec<f64>,
}

impl Gram {
    pub fn dot(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.size + j]
    }

    pub fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct L1 {
    pub all: f64,
    pub kept: f64,
}

/// Keeps magnitudes above `threshold`, and of those equal to it the ones at an index below `equal_end`: the lowest
/// indices, as many as the count asked for. The bits of a non-negative f32 order as the number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub threshold: u32,
    pub equal_end: u64,
}

impl Cut {
    pub const KEEP_NOTHING: Cut = Cut { threshold: u32::MAX, equal_end: 0 };
    pub const KEEP_ALL: Cut = Cut { threshold: 0, equal_end: u64::MAX };

    /// The same cut for elements counted from `at` on.
    pub fn from(self, at: u64) -> TileCut {
        TileCut {
            threshold: self.threshold,
            equal_end: self.equal_end.saturating_sub(at).min(u64::from(u32::MAX)) as u32,
        }
    }
}

/// A [`Cut`] with its end relative to a tile, so that a kernel compares 32-bit lanes only.
#[derive(Debug, Clone, Copy)]
pub struct TileCut {
    threshold: u32,
    equal_end: u32,
}

impl TileCut {
    #[inline(always)]
    pub fn keeps(self, value: f32, index: usize) -> bool {
        let magnitude = value.to_bits() & 0x7fff_ffff;
        magnitude > self.threshold || (magnitude == self.threshold && (index as u32) < self.equal_end)
    }
}
