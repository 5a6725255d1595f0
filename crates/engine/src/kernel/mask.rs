//! Masks: which elements of a task vector are kept.

use std::sync::Arc;

use super::with_buffer;
use crate::philox::Stream;
use crate::simd::simd_clones;
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
            Mask::Cut { .. } | Mask::Band { .. } | Mask::Random { .. } | Mask::Scale(_) => 1,
        }
    }

    /// Sets what is dropped to 0; the first delta is element `at` of its tensor.
    pub fn apply(&self, at: u64, deltas: &mut [f32]) {
        match self {
            Mask::Cut { cut, offset } => keep_above(deltas, cut.from(offset + at)),
            Mask::Band { outer, inner } => keep_between(deltas, outer.from(at), inner.from(at)),
            Mask::Random { draws, keep } => with_buffer(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                keep_below(deltas, uniforms, *keep);
            }),
            Mask::Ranked { draws, ranking } => with_buffer(deltas.len(), |uniforms| {
                draws.fill(at, uniforms);
                keep_by_rank(deltas, uniforms, *ranking);
            }),
            Mask::Scale(factor) => scale(deltas, *factor),
        }
    }
}

fn keep_by_rank(deltas: &mut [f32], uniforms: &[f32], ranking: Ranking) {
    let (length, stride) = (ranking.length as usize, ranking.stride as usize);
    if stride == 1 && !ranking.unbiased && length > 1 {
        let mut buckets = Buckets::default();
        for (deltas, uniforms) in deltas.chunks_exact_mut(length).zip(uniforms.chunks_exact(length)) {
            if !buckets.keep(deltas, uniforms, ranking) {
                keep_by_order(deltas, uniforms, ranking);
            }
        }
        return;
    }
    keep_by_order(deltas, uniforms, ranking);
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

const BUCKETS: usize = 1 << 11;

/// Ranks as far as they decide: an element's bucket bounds its rank, and so its probability, and the number drawn is seldom
/// within these bounds.
struct Buckets {
    of: Vec<u16>,
    counts: Vec<u32>,
    starts: Vec<u32>,
    /// Probabilities of the lowest and the highest rank of each bucket.
    lowest: Vec<f32>,
    highest: Vec<f32>,
    kept: Vec<f32>,
    undecided: Vec<u32>,
    /// Elements by bucket, and where the next of each goes.
    members: Vec<u32>,
    next: Vec<u32>,
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets {
            of: Vec::new(),
            counts: vec![0; BUCKETS],
            starts: vec![0; BUCKETS],
            lowest: vec![0.0; BUCKETS],
            highest: vec![0.0; BUCKETS],
            kept: Vec::new(),
            undecided: Vec::new(),
            members: Vec::new(),
            next: vec![0; BUCKETS],
        }
    }
}

impl Buckets {
    /// The same as [`keep_by_order`] on one row; `false`, and nothing done, where the magnitudes do not spread over buckets.
    fn keep(&mut self, deltas: &mut [f32], uniforms: &[f32], ranking: Ranking) -> bool {
        let scale = (BUCKETS - 1) as f32 / largest(deltas);
        if !scale.is_finite() || scale <= 0.0 {
            return false;
        }
        self.of.resize(deltas.len(), 0);
        place(deltas, scale, &mut self.of);
        self.counts.fill(0);
        for bucket in &self.of {
            self.counts[usize::from(*bucket)] += 1;
        }
        let mut start = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            self.starts[bucket] = start;
            start += count;
        }
        bounds(&self.starts, &self.counts, ranking, &mut self.lowest, &mut self.highest);
        self.kept.resize(deltas.len(), 0.0);
        self.undecided.resize(deltas.len() + 1, 0);
        let mut count = 0;
        for (i, ((delta, uniform), bucket)) in deltas.iter().zip(uniforms).zip(&self.of).enumerate() {
            let bucket = usize::from(*bucket);
            let (is_kept, may_be) = (*uniform < self.lowest[bucket], *uniform < self.highest[bucket]);
            // no branch: which way a number falls cannot be guessed
            self.kept[i] = f32::from_bits(delta.to_bits() & u32::from(is_kept).wrapping_neg());
            self.undecided[count] = i as u32;
            count += usize::from(!is_kept & may_be);
        }
        self.undecided.truncate(count);
        if !self.undecided.is_empty() {
            self.decide(deltas, uniforms, ranking);
        }
        deltas.copy_from_slice(&self.kept);
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
                self.kept[i] = f32::from_bits(deltas[i].to_bits() & u32::from(is_kept).wrapping_neg());
            }
        }
    }
}

simd_clones! { fn largest(deltas: &[f32]) -> f32 = largest_body; }
simd_clones! { fn place(deltas: &[f32], scale: f32, of: &mut [u16]) = place_body; }
simd_clones! {
    fn bounds(
        starts: &[u32], counts: &[u32], ranking: Ranking, lowest: &mut [f32], highest: &mut [f32],
    ) = bounds_body;
}

/// The bits of the largest magnitude: NaN counts as larger than all.
#[inline(always)]
fn largest_body(deltas: &[f32]) -> f32 {
    f32::from_bits(deltas.iter().fold(0, |largest, delta| largest.max(delta.to_bits() & 0x7fff_ffff)))
}

#[inline(always)]
fn place_body(deltas: &[f32], scale: f32, of: &mut [u16]) {
    for (delta, of) in deltas.iter().zip(of) {
        *of = ((delta.abs() * scale) as u32).min(BUCKETS as u32 - 1) as u16;
    }
}

#[inline(always)]
fn bounds_body(starts: &[u32], counts: &[u32], ranking: Ranking, lowest: &mut [f32], highest: &mut [f32]) {
    for (((start, count), lowest), highest) in starts.iter().zip(counts).zip(lowest).zip(highest) {
        *lowest = ranking.probability(*start as usize);
        *highest = ranking.probability((start + count).saturating_sub(1) as usize);
    }
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
simd_clones! { fn keep_below(deltas: &mut [f32], uniforms: &[f32], keep: f32) = keep_below_body; }
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
fn keep_below_body(deltas: &mut [f32], uniforms: &[f32], keep: f32) {
    for (d, u) in deltas.iter_mut().zip(uniforms) {
        *d = if *u < keep { *d } else { 0.0 };
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
        let (length, rows) = (700, 3);
        let ranking = Ranking { length, stride: 1, lowest: 0.3, spread: 0.4, unbiased: false };
        let noise = |i: u32| f32::from_bits(0x3f80_0000 | i.wrapping_mul(0x9e37_79b9) >> 9) - 1.5;
        let uniforms: Vec<f32> = (0..length as u32 * rows).map(|i| noise(i.wrapping_mul(77)) + 0.5).collect();
        let spreads: [(&str, &dyn Fn(u32) -> f32); 6] = [
            ("even", &noise),
            ("coarse", &|i| (noise(i) * 20.0).round() / 20.0),
            ("zero", &|_| 0.0),
            ("far out", &|i| if i % 350 == 5 { 1e30 } else { noise(i) }),
            ("not a number", &|i| if i == 9 { f32::NAN } else { noise(i) }),
            ("denormal", &|i| f32::from_bits(i % 40)),
        ];
        for (name, value) in spreads {
            let deltas: Vec<f32> = (0..length as u32 * rows).map(value).collect();
            let (mut fast, mut exact) = (deltas.clone(), deltas.clone());
            keep_by_rank(&mut fast, &uniforms, ranking);
            keep_by_order(&mut exact, &uniforms, ranking);
            assert!(fast.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
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
