//! Magnitudes between two bounds.

use super::simd_clones;
#[cfg(target_arch = "x86_64")]
use super::{Level, level};

/// How many magnitudes lie above an interval, and at its two ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Side {
    pub above: u32,
    pub high: u32,
    pub low: u32,
}

/// Appends the magnitudes strictly between two to `inside`, in their order, as bits.
pub(crate) fn between(values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) -> Side {
    let side = sides(values, low, high);
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` has seen that this CPU has every feature that the function was compiled for.
        unsafe { between_avx512(values, low, high, inside) };
        return side;
    }
    between_plain(values, low, high, inside);
    side
}

simd_clones! { fn sides(values: &[f32], low: u32, high: u32) -> Side = sides_body; }

#[inline(always)]
fn sides_body(values: &[f32], low: u32, high: u32) -> Side {
    values.iter().fold(Side::default(), |side, value| {
        let bits = value.to_bits() & 0x7fff_ffff;
        Side {
            above: side.above + u32::from(bits > high),
            high: side.high + u32::from(bits == high),
            low: side.low + u32::from(bits == low),
        }
    })
}

/// Every magnitude is written, and the next one over it unless it is inside: no branch can be guessed wrong.
fn between_plain(values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) {
    let start = inside.len();
    inside.resize(start + values.len() + 1, 0);
    let mut end = start;
    for value in values {
        let bits = value.to_bits() & 0x7fff_ffff;
        inside[end] = bits;
        end += usize::from(bits > low && bits < high);
    }
    inside.truncate(end);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn between_avx512(values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) {
    use std::arch::x86_64::*;
    let (whole, rest) = values.as_chunks::<16>();
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    // unsigned, since an end may lie above every magnitude
    let (low_lanes, high_lanes) = (_mm512_set1_epi32(low as i32), _mm512_set1_epi32(high as i32));
    let mut lanes = [0u32; 16];
    for sixteen in whole {
        // SAFETY: both are sixteen lanes of 32 bits, and the instructions ask for no alignment.
        let bits = unsafe { _mm512_loadu_si512(sixteen.as_ptr().cast()) };
        let bits = _mm512_and_si512(bits, magnitude);
        let mask = _mm512_cmpgt_epu32_mask(bits, low_lanes) & _mm512_cmplt_epu32_mask(bits, high_lanes);
        if mask != 0 {
            let packed = _mm512_maskz_compress_epi32(mask, bits);
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), packed) };
            inside.extend_from_slice(&lanes[..mask.count_ones() as usize]);
        }
    }
    between_plain(rest, low, high, inside);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_is_the_same_by_every_way() {
        let values: Vec<f32> = (0..1000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        for (low, high) in [(0, u32::MAX), (0x3000_0000, 0x5000_0000), (values[7].to_bits() & 0x7fff_ffff, 0x7f80_0000)]
        {
            let bits = || values.iter().map(|value| value.to_bits() & 0x7fff_ffff);
            let expected: Vec<u32> = bits().filter(|bits| *bits > low && *bits < high).collect();
            let mut inside = vec![5];
            let side = between(&values, low, high, &mut inside);
            assert_eq!(inside[1..], expected);
            let count = |of: &dyn Fn(u32) -> bool| bits().filter(|bits| of(*bits)).count() as u32;
            let sides = Side { above: count(&|b| b > high), high: count(&|b| b == high), low: count(&|b| b == low) };
            assert_eq!(side, sides);
            let mut plain = vec![5];
            between_plain(&values, low, high, &mut plain);
            assert_eq!(plain, inside);
        }
    }
}
