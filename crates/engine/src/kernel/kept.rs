//! Which elements of a tensor a mask keeps, found in one pass and used again in the next.

use std::sync::atomic::{AtomicU64, Ordering};

/// One bit for each element.
pub struct Kept {
    words: Vec<AtomicU64>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({} words)", self.words.len())
    }
}

impl Kept {
    /// Of so many elements, none yet.
    pub fn none(elements: u64) -> Kept {
        Kept { words: (0..elements.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Bytes that it takes for so many elements.
    pub fn bytes(elements: u64) -> u64 {
        elements.div_ceil(64) * 8
    }

    /// Keeps the elements from `at` on whose bits are set, `count` of them at most. Others may keep other elements at the
    /// same time.
    pub fn keep(&self, at: u64, count: usize, bits: &[u64]) {
        for (i, bits) in bits.iter().enumerate().take(count.div_ceil(64)) {
            let left = count - i * 64;
            let bits = if left < 64 { bits & ((1 << left) - 1) } else { *bits };
            let (word, shift) = Kept::place(at + i as u64 * 64);
            // tiles share a word at their ends
            self.words[word].fetch_or(bits << shift, Ordering::Relaxed);
            if shift > 0 && bits >> (64 - shift) != 0 {
                self.words[word + 1].fetch_or(bits >> (64 - shift), Ordering::Relaxed);
            }
        }
    }

    /// The bits of the elements from `at` on.
    pub fn bits(&self, at: u64, out: &mut [u64]) {
        let word = |i: usize| self.words.get(i).map_or(0, |word| word.load(Ordering::Relaxed));
        let (first, shift) = Kept::place(at);
        for (i, out) in out.iter_mut().enumerate() {
            let high = if shift > 0 { word(first + i + 1) << (64 - shift) } else { 0 };
            *out = word(first + i) >> shift | high;
        }
    }

    fn place(at: u64) -> (usize, u32) {
        ((at / 64) as usize, (at % 64) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_found_again_from_any_place() {
        let bit = |i: u64| i.wrapping_mul(0x9e37_79b9) >> 7 & 1;
        let kept = Kept::none(1000);
        for at in (0..1000).step_by(37) {
            let count = 37.min(1000 - at);
            // what lies beyond the count does not count
            let bits = (0..64).fold(0, |bits, i| bits | (if i < count { bit(at + i) } else { 1 }) << i);
            kept.keep(at, count as usize, &[bits]);
        }
        for at in [0, 1, 63, 64, 700, 937] {
            let mut out = [0; 2];
            kept.bits(at, &mut out);
            for i in 0..128.min(1000 - at) {
                assert_eq!(out[i as usize / 64] >> (i % 64) & 1, bit(at + i), "{at} + {i}");
            }
        }
    }
}
