//! Philox4x32-10, a counter-based generator: any element's number can be drawn alone, on any machine, in any order.
//! Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", <https://doi.org/10.1145/2063384.2063405>.

use crate::simd::{PHILOX_BLOCKS, philox, simd_clones};

pub(crate) const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
pub(crate) const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Blocks that are drawn together, a lane each.
const LANES: usize = PHILOX_BLOCKS;

/// Four numbers of 32 bits for a counter and a key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Uniform numbers for the elements of one tensor, a stream for each model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    model: u32,
}

impl Stream {
    /// Keyed by the seed and the tensor's name; tensors of one seed share nothing.
    pub fn new(seed: u64, tensor: &str, model: u32) -> Stream {
        let digest = checkpoint::digest_bytes(tensor.as_bytes());
        let word = |i: usize| u32::from_str_radix(&digest[8 * i..8 * i + 8], 16).unwrap_or(0);
        let [a, b, ..] = philox4x32([word(0), word(1), word(2), word(3)], [seed as u32, (seed >> 32) as u32]);
        Stream { key: [a, b], model }
    }

    /// The number of element `index`, in 0..1, a multiple of 2^-24.
    pub fn uniform(&self, index: u64) -> f32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// The numbers of elements from `at` on.
    pub fn fill(&self, at: u64, out: &mut [f32]) {
        let mut i = 0;
        while i < out.len() && !(at + i as u64).is_multiple_of(4) {
            out[i] = self.uniform(at + i as u64);
            i += 1;
        }
        let (whole, rest) = out[i..].as_chunks_mut::<{ 4 * LANES }>();
        let first = (at + i as u64) / 4;
        if !philox(whole, first, self.model, self.key) {
            fill_blocks(whole, first, self.model, self.key);
        }
        let from = i + 4 * LANES * whole.len();
        for (j, value) in rest.iter_mut().enumerate() {
            *value = self.uniform(at + (from + j) as u64);
        }
    }

    #[inline(always)]
    fn block(&self, block: u64) -> [f32; 4] {
        philox4x32([block as u32, (block >> 32) as u32, self.model, 0], self.key).map(uniform)
    }
}

#[inline(always)]
fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

simd_clones! { fn fill_blocks(out: &mut [[f32; 4 * LANES]], first: u64, model: u32, key: [u32; 2]) = fill_blocks_body; }

/// The same numbers as [`Stream::block`] gives, with the words of many blocks side by side: each in a lane of 64 bits, of
/// which the upper half counts for nothing, as the multiplier of vectors has it.
#[inline(always)]
fn fill_blocks_body(out: &mut [[f32; 4 * LANES]], first: u64, model: u32, key: [u32; 2]) {
    const LOW: u64 = 0xffff_ffff;
    for (i, out) in out.iter_mut().enumerate() {
        let block = first + (i * LANES) as u64;
        let mut words = [[0; LANES], [0; LANES], [u64::from(model); LANES], [0; LANES]];
        words[0] = std::array::from_fn(|lane| block + lane as u64);
        words[1] = std::array::from_fn(|lane| (block + lane as u64) >> 32);
        let mut key = key;
        for _ in 0..10 {
            let [a, b, c, d] = words;
            for lane in 0..LANES {
                let first = (a[lane] & LOW) * u64::from(MULTIPLIERS[0]);
                let second = (c[lane] & LOW) * u64::from(MULTIPLIERS[1]);
                words[0][lane] = second >> 32 ^ b[lane] ^ u64::from(key[0]);
                words[1][lane] = second;
                words[2][lane] = first >> 32 ^ d[lane] ^ u64::from(key[1]);
                words[3][lane] = first;
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        for (lane, four) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *four = words.map(|word| uniform(word[lane] as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that the authors publish with Random123.
    #[test]
    fn known_answers_hold() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn any_element_is_drawn_alone_as_in_the_stream() {
        let stream = Stream::new(42, "a.weight", 1);
        let mut all = vec![0.0; 303];
        stream.fill(0, &mut all);
        for (index, value) in all.iter().enumerate() {
            assert_eq!(stream.uniform(index as u64), *value);
        }
        // past 32 bits of a block's number, and by the loops that machines without wide vectors run
        let far = (1u64 << 34) - 64;
        let mut there = [[0.0; 4 * LANES]];
        fill_blocks(&mut there, far / 4, 1, stream.key);
        let mut same = [0.0; 4 * LANES];
        stream.fill(far, &mut same);
        assert_eq!(there[0], same);
        for (i, value) in same.iter().enumerate() {
            assert_eq!(stream.uniform(far + i as u64), *value);
        }
        for at in [0usize, 1, 5, 50] {
            let mut part = vec![0.0; 203];
            stream.fill(at as u64, &mut part);
            assert_eq!(part, all[at..at + 203]);
        }
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        let other = Stream::new(42, "b.weight", 1).uniform(0);
        assert!(other != all[0] && Stream::new(42, "a.weight", 2).uniform(0) != all[0]);
    }
}
