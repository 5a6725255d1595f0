//! Masks: which elements of a task vector are kept.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Kept, with_bits, with_buffer};
use crate::philox::Stream;
use crate::simd::{BUCKETS, bits_below, bits_by_bounds, keep_bits, simd_clones};
use crate::statistic::{Cut, TileCut};

/// One stage of a task vector's trim. Stages are applied one after the other.
#[derive(Debug, Clone)]
pub enum Mask {
    /// Magnitudes that the cut keeps. `offset` is where the tensor begins in what the cut was taken over.
    Cut { cut: Cut, offset: u64 },
    /// Magnitudes that the outer cut keeps and the inner one does not: large, but no outliers.
    Band { outer: Cut, inner: Cut },
    /// Each element with the same probability.
    Random { draws: Draws, keep: f32 },
    /// Each element with a probability that rises with its rank.
    Ranked { draws: Draws, ranking: Ranking },
    /// What an earlier pass kept. `offset` is where the tensor begins in what it passed over.
    Kept { kept: Arc<Kept>, offset: u64 },
    /// Everything, times a factor.
    Scale(f32),
}

/// Uniform numbers, one for each element of a tensor.
#[derive(Clone)]
pub enum Draws {
    Philox(Stream),
    /// Given from outside, to compare with another implementation's generator.
    Given(Arc<dyn Fn(u64) -> f32 + Send + Sync>),
}

impl std::fmt::Debug for Draws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Draws::Philox(stream) => write!(f, "{stream:?}"),
            Draws::Given(_) => f.write_str("Given"),
        }
    }
}

impl Draws {
    fn fill(&self, at: u64, out: &mut [f32]) {
        match self {
            Draws::Philox(stream) => stream.fill(at, out),
            Draws::Given(number) => out.iter_mut().enumerate().for_each(|(i, u)| *u = number(at + i as u64)),
        }
    }
}

/// Ranks by magnitude within groups of `length` elements that lie `stride` apart; `length * stride` elements are a unit.
/// Of equal magnitudes the one at the lower index ranks lower.
#[derive(Debug, Clone, Copy)]
pub struct Ranking {
    pub length: u64,
    pub stride: u64,
    /// Probability of the lowest rank, and what the highest has more.
    pub lowest: f32,
    pub spread: f32,
    /// Divide what is kept by its probability, so that its mean is what it was.
    pub unbiased: bool,
}

impl Ranking {
    pub fn unit(self) -> u64 {
        self.length * self.stride
    }

    /// Groups lie one after the other, what is kept stays as it is, and probabilities do not fall.
    fn has_rows(self) -> bool {
        self.stride == 1 && self.length > 1 && !self.unbiased && self.spread >= 0.0
    }

    /// Keep-probability of rank r of the group, from 0.
    fn probability(self, rank: usize) -> f32 {
        let place = if self.length > 1 { rank as f32 / (self.length - 1) as f32 } else { 0.5 };
        self.lowest + self.spread * place
    }
}

impl Mask {
    /// Elements that must come together.
    pub fn unit(&self) -> u64 {
        match self {
            Mask::Ranked { ranking, .. } => ranking.unit().max(1),
            Mask::Cut { .. } | Mask::Band { .. } | Mask::Random { .. } | Mask::Kept { .. } | Mask::Scale(_) => 1,
        }
    }

    /// Whether it takes so long to find what is kept that a pass should leave it to the next.
    pub fn is_dear(&self) -> bool {
        matches!(self, Mask::Random { .. } | Mask::Ranked { .. })
    }

    /// Sets what is dropped to 0; the first delta is element `at` of its tensor.
    pub fn apply(&self, at: u64, deltas: &mut [f32]) {
        match self {
            Mask::Cut { cut, offset } => keep_above(deltas, cut.from(offset + at)),
            Mask::Band { outer, inner } => keep_between(deltas, outer.from(at), inner.from(at)),
            Mask::Ranked { draws, ranking } if ranking.unbiased => with_buffer(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                keep_by_order(deltas, uniforms, *ranking);
            }),
            Mask::Random { .. } | Mask::Ranked { .. } | Mask::Kept { .. } => with_bits(deltas.len(), |bits| {
                self.choose(at, deltas, bits);
                keep_bits(deltas, bits);
            }),
            Mask::Scale(factor) => scale(deltas, *factor),
        }
    }

    /// Sets the bits of what is kept, and clears the others. A delta of 0 may count as either.
    pub fn choose(&self, at: u64, deltas: &[f32], bits: &mut [u64]) {
        match self {
            Mask::Random { draws, keep } => with_buffer(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                bits_below(uniforms, *keep, bits);
            }),
            Mask::Ranked { draws, ranking } if ranking.has_rows() => with_buffer(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                choose_by_rank(deltas, uniforms, *ranking, bits);
            }),
            Mask::Kept { kept, offset } => kept.bits(offset + at, bits),
            Mask::Cut { .. } | Mask::Band { .. } | Mask::Ranked { .. } | Mask::Scale(_) => {
                with_buffer(deltas.len(), |masked| {
                    masked.copy_from_slice(deltas);
                    match self {
                        Mask::Ranked { draws, ranking } => with_buffer(deltas.len(), |uniforms| {
                            draws.fill(at, uniforms);
                            keep_by_order(masked, uniforms, *ranking);
                        }),
                        _ => self.apply(at, masked),
                    }
                    bits_of(masked, bits);
                });
            }
        }
    }
}

/// The bits of what is not 0.
fn bits_of(values: &[f32], bits: &mut [u64]) {
    for (values, word) in values.chunks(64).zip(bits) {
        *word = values.iter().enumerate().fold(0, |word, (i, value)| word | u64::from(*value != 0.0) << i);
    }
}

thread_local! {
    static BUCKETS_OF_THREAD: RefCell<Buckets> = RefCell::new(Buckets::default());
}

fn choose_by_rank(deltas: &[f32], uniforms: &[f32], ranking: Ranking, bits: &mut [u64]) {
    let length = ranking.length as usize;
    BUCKETS_OF_THREAD.with_borrow_mut(|buckets| {
        bits.fill(0);
        let rows = deltas.chunks_exact(length).zip(uniforms.chunks_exact(length));
        for (row, (deltas, uniforms)) in rows.enumerate() {
            if !buckets.choose(deltas, uniforms, ranking) {
                buckets.choose_by_order(deltas, uniforms, ranking);
            }
            put_bits(bits, row * length, &buckets.bits);
        }
    });
}

/// Sets the bits of `row` from bit `at` on, where none is set yet.
fn put_bits(bits: &mut [u64], at: usize, row: &[u64]) {
    let (first, shift) = (at / 64, at % 64);
    for (i, word) in row.iter().enumerate() {
        bits[first + i] |= word << shift;
        // what would lie beyond the last word is no element
        if let Some(next) = bits.get_mut(first + i + 1).filter(|_| shift > 0) {
            *next |= word >> (64 - shift);
        }
    }
}

/// By the ranks of all elements.
fn keep_by_order(deltas: &mut [f32], uniforms: &[f32], ranking: Ranking) {
    let (length, stride) = (ranking.length as usize, ranking.stride as usize);
    let mut order = Order::default();
    for unit in 0..deltas.len() / (length * stride).max(1) {
        for column in 0..stride {
            let index = |i: u32| unit * length * stride + i as usize * stride + column;
            order.sort((0..length as u32).map(|i| (deltas[index(i)].to_bits() & 0x7fff_ffff, i)));
            for (rank, (_, i)) in order.sorted.iter().enumerate() {
                let probability = ranking.probability(rank);
                let delta = &mut deltas[index(*i)];
                if uniforms[index(*i)] >= probability {
                    *delta = 0.0;
                } else if ranking.unbiased {
                    *delta /= probability;
                }
            }
        }
    }
}

/// Elements that are ranked one by one at most; beyond that it is better to put buckets in order.
const RANKED_ALONE: usize = 128;

/// Ranks as far as they decide: an element's bucket bounds its rank, and so its probability, and the number drawn is seldom
/// within these bounds.
struct Buckets {
    of: Vec<u16>,
    counts: [u32; BUCKETS],
    starts: [u32; BUCKETS + 1],
    /// Probability of the lowest rank of each bucket.
    lowest: [f32; BUCKETS + 1],
    undecided: Vec<u32>,
    /// Elements by bucket, and where the next of each goes.
    members: Vec<u32>,
    next: [u32; BUCKETS + 1],
    /// What is kept of the row.
    bits: Vec<u64>,
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets {
            of: Vec::new(),
            counts: [0; BUCKETS],
            starts: [0; BUCKETS + 1],
            lowest: [0.0; BUCKETS + 1],
            undecided: Vec::new(),
            members: Vec::new(),
            next: [0; BUCKETS + 1],
            bits: Vec::new(),
        }
    }
}

impl Buckets {
    /// Leaves in `bits` what [`keep_by_order`] keeps of one row; `false` where the magnitudes do not spread over buckets.
    fn choose(&mut self, deltas: &[f32], uniforms: &[f32], ranking: Ranking) -> bool {
        let scale = (BUCKETS - 1) as f32 / largest(deltas);
        if !scale.is_finite() || scale <= 0.0 {
            return false;
        }
        self.of.resize(deltas.len(), 0);
        place(deltas, scale, &mut self.of);
        self.counts.fill(0);
        for bucket in &self.of {
            self.counts[usize::from(*bucket) % BUCKETS] += 1;
        }
        let mut start = 0;
        for (count, place) in self.counts.iter().zip(&mut self.starts) {
            *place = start;
            start += count;
        }
        self.starts[BUCKETS] = start;
        bounds(&self.starts, ranking, &mut self.lowest);
        self.bits.resize(deltas.len().div_ceil(64), 0);
        self.undecided.clear();
        bits_by_bounds(&self.of, uniforms, &self.lowest, &mut self.bits, &mut self.undecided);
        // it does not matter whether nothing is kept
        self.undecided.retain(|i| deltas[*i as usize] != 0.0);
        if self.undecided.len() > RANKED_ALONE {
            self.decide(deltas, uniforms, ranking);
        } else {
            for i in &self.undecided {
                let i = *i as usize;
                let is_kept = uniforms[i] < ranking.probability(rank(deltas, i) as usize);
                self.bits[i / 64] |= u64::from(is_kept) << (i % 64);
            }
        }
        true
    }

    /// Puts the buckets that need it in order, and decides by the ranks of their elements.
    fn decide(&mut self, deltas: &[f32], uniforms: &[f32], ranking: Ranking) {
        self.members.resize(deltas.len(), 0);
        self.next.copy_from_slice(&self.starts);
        for (i, bucket) in self.of.iter().enumerate() {
            let next = &mut self.next[usize::from(*bucket)];
            self.members[*next as usize] = i as u32;
            *next += 1;
        }
        self.undecided.iter_mut().for_each(|i| *i = u32::from(self.of[*i as usize]));
        self.undecided.sort_unstable();
        self.undecided.dedup();
        for bucket in &self.undecided {
            let (start, end) = (self.starts[*bucket as usize], self.next[*bucket as usize]);
            let members = &mut self.members[start as usize..end as usize];
            // they lie by their index, and so are in order already where all magnitudes are equal
            members.sort_by_key(|i| deltas[*i as usize].to_bits() & 0x7fff_ffff);
            for (rank, i) in (start as usize..).zip(&*members) {
                let i = *i as usize;
                let is_kept = uniforms[i] < ranking.probability(rank);
                self.bits[i / 64] |= u64::from(is_kept) << (i % 64);
            }
        }
    }

    /// The same by the ranks of all elements.
    fn choose_by_order(&mut self, deltas: &[f32], uniforms: &[f32], ranking: Ranking) {
        with_buffer(deltas.len(), |kept| {
            kept.copy_from_slice(deltas);
            keep_by_order(kept, uniforms, ranking);
            self.bits.resize(deltas.len().div_ceil(64), 0);
            bits_of(kept, &mut self.bits);
        });
    }
}

simd_clones! { fn largest(deltas: &[f32]) -> f32 = largest_body; }
simd_clones! { fn place(deltas: &[f32], scale: f32, of: &mut [u16]) = place_body; }
simd_clones! { fn bounds(starts: &[u32; BUCKETS + 1], ranking: Ranking, lowest: &mut [f32; BUCKETS + 1]) = bounds_body; }
simd_clones! { fn rank(deltas: &[f32], of: usize) -> u32 = rank_body; }

/// The bits of the largest magnitude: NaN counts as larger than all.
#[inline(always)]
fn largest_body(deltas: &[f32]) -> f32 {
    f32::from_bits(deltas.iter().fold(0, |largest, delta| largest.max(delta.to_bits() & 0x7fff_ffff)))
}

#[inline(always)]
fn place_body(deltas: &[f32], scale: f32, of: &mut [u16]) {
    for (delta, of) in deltas.iter().zip(of) {
        // the sum's last bits are the product, rounded to a whole number
        let rounded = delta.abs().mul_add(scale, (1 << 23) as f32);
        *of = (rounded.to_bits() & (BUCKETS as u32 - 1)) as u16;
    }
}

#[inline(always)]
fn bounds_body(starts: &[u32; BUCKETS + 1], ranking: Ranking, lowest: &mut [f32; BUCKETS + 1]) {
    for (start, lowest) in starts.iter().zip(lowest) {
        *lowest = ranking.probability(*start as usize);
    }
}

/// How many elements rank below this one.
#[inline(always)]
fn rank_body(deltas: &[f32], of: usize) -> u32 {
    let magnitude = |delta: &f32| delta.to_bits() & 0x7fff_ffff;
    let own = magnitude(&deltas[of]);
    let before: u32 = deltas[..of].iter().map(|delta| u32::from(magnitude(delta) <= own)).sum();
    let after: u32 = deltas[of..].iter().map(|delta| u32::from(magnitude(delta) < own)).sum();
    before + after
}

/// Magnitudes, each with its index, in rising order: radix sort by eleven bits, which keeps equal ones in their order.
#[derive(Default)]
struct Order {
    sorted: Vec<(u32, u32)>,
    spare: Vec<(u32, u32)>,
}

const DIGIT_BITS: u32 = 11;

impl Order {
    fn sort(&mut self, magnitudes: impl Iterator<Item = (u32, u32)>) {
        self.sorted.clear();
        self.sorted.extend(magnitudes);
        self.spare.resize(self.sorted.len(), (0, 0));
        let mut counts = [[0u32; 1 << DIGIT_BITS]; 3];
        for (bits, _) in &self.sorted {
            for (digit, counts) in counts.iter_mut().enumerate() {
                counts[Order::digit(*bits, digit)] += 1;
            }
        }
        for (digit, counts) in counts.iter_mut().enumerate() {
            let first = self.sorted.first().map_or(0, |(bits, _)| Order::digit(*bits, digit));
            if counts[first] as usize == self.sorted.len() {
                continue;
            }
            let mut next = 0;
            for count in counts.iter_mut() {
                (*count, next) = (next, next + *count);
            }
            for entry in &self.sorted {
                let place = &mut counts[Order::digit(entry.0, digit)];
                self.spare[*place as usize] = *entry;
                *place += 1;
            }
            std::mem::swap(&mut self.sorted, &mut self.spare);
        }
    }

    fn digit(bits: u32, digit: usize) -> usize {
        (bits >> (digit as u32 * DIGIT_BITS)) as usize & ((1 << DIGIT_BITS) - 1)
    }
}

simd_clones! { fn keep_above(deltas: &mut [f32], cut: TileCut) = keep_above_body; }
simd_clones! { fn keep_between(deltas: &mut [f32], outer: TileCut, inner: TileCut) = keep_between_body; }
simd_clones! { fn scale(deltas: &mut [f32], factor: f32) = scale_body; }

#[inline(always)]
fn keep_above_body(deltas: &mut [f32], cut: TileCut) {
    for (i, d) in deltas.iter_mut().enumerate() {
        *d = if cut.keeps(*d, i) { *d } else { 0.0 };
    }
}

#[inline(always)]
fn keep_between_body(deltas: &mut [f32], outer: TileCut, inner: TileCut) {
    for (i, d) in deltas.iter_mut().enumerate() {
        *d = if outer.keeps(*d, i) && !inner.keeps(*d, i) { *d } else { 0.0 };
    }
}

#[inline(always)]
fn scale_body(deltas: &mut [f32], factor: f32) {
    for d in deltas {
        *d *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_keep_what_the_order_keeps() {
        let (length, rows) = (8001, 3);
        let ranking = Ranking { length, stride: 1, lowest: 0.3, spread: 0.4, unbiased: false };
        let noise = |i: u32| f32::from_bits(0x3f80_0000 | i.wrapping_mul(0x9e37_79b9) >> 9) - 1.5;
        let uniforms: Vec<f32> = (0..length as u32 * rows).map(|i| noise(i.wrapping_mul(77)) + 0.5).collect();
        let spreads: [(&str, &dyn Fn(u32) -> f32); 6] = [
            ("even", &noise),
            ("coarse", &|i| (noise(i) * 20.0).round() / 20.0),
            ("zero", &|_| 0.0),
            ("far out", &|i| if i % 4000 == 5 { 1e30 } else { noise(i) }),
            ("not a number", &|i| if i == 9 { f32::NAN } else { noise(i) }),
            ("denormal", &|i| f32::from_bits(i % 40)),
        ];
        for (name, value) in spreads {
            let deltas: Vec<f32> = (0..length as u32 * rows).map(value).collect();
            let (mut fast, mut exact) = (deltas.clone(), deltas.clone());
            with_bits(fast.len(), |bits| {
                choose_by_rank(&fast, &uniforms, ranking, bits);
                keep_bits(&mut fast, bits);
            });
            keep_by_order(&mut exact, &uniforms, ranking);
            // a zero may lose its sign
            assert!(fast.iter().zip(&exact).all(|(a, b)| a == b || a.to_bits() == b.to_bits()), "{name}");
            assert!(name == "zero" || exact.iter().filter(|d| **d != 0.0).count() > 500, "{name}");
        }
    }

    #[test]
    fn ranks_rise_with_the_magnitude_and_among_equal_ones_with_the_index() {
        let mut order = Order::default();
        for length in [0u32, 1, 7, 5000] {
            let magnitudes: Vec<(u32, u32)> = (0..length).map(|i| ((i * 0x9e37 % 997) << (i % 20), i)).collect();
            let mut expected = magnitudes.clone();
            expected.sort_unstable();
            order.sort(magnitudes.into_iter());
            assert_eq!(order.sorted, expected);
        }
    }
}
