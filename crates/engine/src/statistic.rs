//! Reductions over a tensor's inputs: what a method may ask for before it can make its coefficients.

use std::ops::Range;
use std::sync::Arc;

use crate::kernel::{Kept, Kernel, Kernels, TaskVector};

/// One reduction over all elements of a tensor's inputs. Where it takes kernels, it reduces what they make of the inputs.
#[derive(Debug, Clone)]
pub enum Statistic {
    /// Inner products of every pair of inputs, or of their differences from `origin`, in f64.
    Gram { origin: Option<usize> },
    /// The same for each vector of the tensor apart.
    VectorGram { origin: Option<usize>, vectors: Vectors },
    /// Exact cuts: of the magnitudes that the first number's kernel makes, the second number's largest.
    Cuts { of: Vec<Arc<dyn Kernel>>, keep: Vec<(usize, u64)> },
    /// Sums of what each kernel makes, in f64.
    Sums { of: Arc<dyn Kernels> },
    /// L1 norms of each task vector before and after its mask, of which it has one at most, in f64; and what the mask keeps,
    /// where that is dear to find and there is room for it.
    Norms { of: Vec<TaskVector> },
    /// Sums over each row of so many elements, for each kernel.
    Rows { of: Vec<Arc<dyn Kernel>>, row: u64 },
}

/// How a tensor of `rows * columns` elements falls into vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vectors {
    pub rows: u64,
    pub columns: u64,
    pub along: Along,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// A vector is a row: elements that lie side by side.
    Rows,
    /// A vector is a column: one element of every row.
    Columns,
}

impl Vectors {
    pub fn count(self) -> u64 {
        match self.along {
            Along::Rows => self.rows,
            Along::Columns => self.columns,
        }
    }

    /// `length` elements from `at` on, in parts: the elements of a part, counted from `at`, and the vectors that they
    /// belong to, which is one for all of them or one for each.
    pub fn parts(self, at: u64, length: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let columns = self.columns.max(1);
        let end = at + length as u64;
        (at / columns..end.div_ceil(columns)).map(move |row| {
            let (first, last) = ((row * columns).max(at), ((row + 1) * columns).min(end));
            let vectors = match self.along {
                Along::Rows => row..row + 1,
                Along::Columns => first - row * columns..last - row * columns,
            };
            ((first - at) as usize..(last - at) as usize, vectors.start as usize..vectors.end as usize)
        })
    }
}

/// What came of a [`Statistic`].
#[derive(Debug, Clone)]
pub enum Reduced {
    Gram(Gram),
    VectorGram(Vec<Gram>),
    /// One for each count asked for.
    Cuts(Vec<Cut>),
    /// One for each kernel.
    Sums(Vec<f64>),
    /// One for each task vector.
    Norms(Vec<Norms>),
    /// For each kernel, one for each row.
    Rows(Vec<Vec<f64>>),
}

impl Reduced {
    /// # Panics
    /// When something else was asked for; each method knows what it asked.
    pub fn gram(&self) -> &Gram {
        match self {
            Reduced::Gram(gram) => gram,
            other => unreachable!("asked for a Gram matrix, got {other:?}"),
        }
    }

    /// # Panics
    /// As [`Reduced::gram`].
    pub fn grams(&self) -> &[Gram] {
        match self {
            Reduced::VectorGram(grams) => grams,
            other => unreachable!("asked for Gram matrices, got {other:?}"),
        }
    }

    /// # Panics
    /// As [`Reduced::gram`].
    pub fn cuts(&self) -> &[Cut] {
        match self {
            Reduced::Cuts(cuts) => cuts,
            other => unreachable!("asked for cuts, got {other:?}"),
        }
    }

    /// # Panics
    /// As [`Reduced::gram`].
    pub fn sums(&self) -> &[f64] {
        match self {
            Reduced::Sums(sums) => sums,
            other => unreachable!("asked for sums, got {other:?}"),
        }
    }

    /// # Panics
    /// As [`Reduced::gram`].
    pub fn norms(&self) -> &[Norms] {
        match self {
            Reduced::Norms(norms) => norms,
            other => unreachable!("asked for norms, got {other:?}"),
        }
    }

    /// # Panics
    /// As [`Reduced::gram`].
    pub fn rows(&self) -> &[Vec<f64>] {
        match self {
            Reduced::Rows(rows) => rows,
            other => unreachable!("asked for rows, got {other:?}"),
        }
    }
}

/// L1 norms of a task vector.
#[derive(Debug, Clone)]
pub struct Norms {
    pub whole: f64,
    pub masked: f64,
    /// What the mask keeps, if that was noted.
    pub kept: Option<Arc<Kept>>,
}

/// Symmetric matrix of inner products.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    pub size: usize,
    /// Row by row.
    pub products: Vec<f64>,
}

impl Gram {
    /// From the products of the pairs (0, 0), (0, 1), ..., (1, 1), ...
    pub fn from_pairs(size: usize, pairs: impl IntoIterator<Item = f64>) -> Gram {
        let mut products = vec![0.0; size * size];
        let mut pairs = pairs.into_iter();
        for i in 0..size {
            for j in i..size {
                let product = pairs.next().unwrap_or(0.0);
                products[i * size + j] = product;
                products[j * size + i] = product;
            }
        }
        Gram { size, products }
    }

    pub fn dot(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.size + j]
    }

    pub fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }

    /// Inner product of two combinations of the inputs.
    pub fn of(&self, a: &[f64], b: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                sum += a * b * self.dot(i, j);
            }
        }
        sum
    }

    /// Length of a combination of the inputs.
    pub fn length(&self, a: &[f64]) -> f64 {
        self.of(a, a).max(0.0).sqrt()
    }
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

    /// The least magnitude that is kept.
    pub fn value(self) -> f32 {
        f32::from_bits(self.threshold)
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
