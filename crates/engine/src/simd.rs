//! Plain loops compiled for the widest vectors the machine has, chosen once at run time; the few that no compiler makes of plain loops
//! are written for AVX-512 by hand, beside the loops for other machines.
//!
//! Invariant: every clone gives the same bits. Multiply-add is always `mul_add`, so that the fused and the unfused
//! machine round alike, and no clone reorders a sum.

/// Stamps one `#[inline(always)]` body into clones for AVX-512, AVX2 with FMA and the baseline, and a function that
/// picks among them. On other architectures (NEON has FMA in its baseline) there is one clone.
macro_rules! simd_clones {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` has seen that this CPU has every feature the clone was compiled for.
                    $crate::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Baseline => {}
                }
            }
            $body($($arg),*)
        }
    };
}

pub(crate) use simd_clones;

/// Lanes of a sum in f64: as many as four of the widest vectors hold, so that an addition need not wait for the one before.
pub(crate) const SUM_LANES: usize = 32;

/// Adds the product of each pair to its lane.
pub(crate) fn add_products(a: &[[f64; SUM_LANES]], b: &[[f64; SUM_LANES]], sums: &mut [f64; SUM_LANES]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` has seen that this CPU has every feature that the function was compiled for.
        return unsafe { add_products_avx512(a, b, sums) };
    }
    add_products_plain(a, b, sums);
}

/// Adds each value to its lane.
pub(crate) fn add_values(values: &[[f32; SUM_LANES]], sums: &mut [f64; SUM_LANES]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: as above.
        return unsafe { add_values_avx512(values, sums) };
    }
    add_values_plain(values, sums);
}

simd_clones! {
    fn add_products_plain(
        a: &[[f64; SUM_LANES]], b: &[[f64; SUM_LANES]], sums: &mut [f64; SUM_LANES],
    ) = add_products_body;
}
simd_clones! { fn add_values_plain(values: &[[f32; SUM_LANES]], sums: &mut [f64; SUM_LANES]) = add_values_body; }

#[inline(always)]
fn add_products_body(a: &[[f64; SUM_LANES]], b: &[[f64; SUM_LANES]], sums: &mut [f64; SUM_LANES]) {
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
}

#[inline(always)]
fn add_values_body(values: &[[f32; SUM_LANES]], sums: &mut [f64; SUM_LANES]) {
    for values in values {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += f64::from(*value);
        }
    }
}

/// By hand, since the compiler keeps 32 sums on the stack.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_products_avx512(a: &[[f64; SUM_LANES]], b: &[[f64; SUM_LANES]], sums: &mut [f64; SUM_LANES]) {
    use std::arch::x86_64::*;
    // SAFETY: each address has eight numbers of 64 bits from it on, and the instructions ask for no alignment.
    unsafe {
        let eight = |numbers: &[f64; SUM_LANES], which: usize| _mm512_loadu_pd(numbers[which * 8..][..8].as_ptr());
        let mut lanes: [__m512d; 4] = std::array::from_fn(|which| eight(sums, which));
        for (a, b) in a.iter().zip(b) {
            for (which, lanes) in lanes.iter_mut().enumerate() {
                *lanes = _mm512_fmadd_pd(eight(a, which), eight(b, which), *lanes);
            }
        }
        for (which, lanes) in lanes.into_iter().enumerate() {
            _mm512_storeu_pd(sums[which * 8..][..8].as_mut_ptr(), lanes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_values_avx512(values: &[[f32; SUM_LANES]], sums: &mut [f64; SUM_LANES]) {
    use std::arch::x86_64::*;
    // SAFETY: each address has eight numbers from it on, and the instructions ask for no alignment.
    unsafe {
        let mut lanes: [__m512d; 4] = std::array::from_fn(|which| _mm512_loadu_pd(sums[which * 8..][..8].as_ptr()));
        for values in values {
            for (which, lanes) in lanes.iter_mut().enumerate() {
                let eight = _mm256_loadu_ps(values[which * 8..][..8].as_ptr());
                *lanes = _mm512_add_pd(_mm512_cvtps_pd(eight), *lanes);
            }
        }
        for (which, lanes) in lanes.into_iter().enumerate() {
            _mm512_storeu_pd(sums[which * 8..][..8].as_mut_ptr(), lanes);
        }
    }
}

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

#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Avx512,
    Avx2,
    Baseline,
}

/// The widest level of this CPU; the standard library caches what CPUID said.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn level() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("fma")
    {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::Avx2
    } else {
        Level::Baseline
    }
}

/// Blocks of Philox that are drawn together by [`philox_avx512`].
pub(crate) const PHILOX_BLOCKS: usize = 32;

/// Fills each group with the words of so many blocks of Philox4x32-10, from block `first` on, as [`crate::philox`] has them,
/// made uniform; `false`, and nothing done, where the machine has no such vectors.
pub(crate) fn philox(out: &mut [[f32; 4 * PHILOX_BLOCKS]], first: u64, model: u32, key: [u32; 2]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` has seen that this CPU has every feature that the function was compiled for.
        unsafe { philox_avx512(out, first, model, key) };
        return true;
    }
    let _ = (out, first, model, key);
    false
}

/// A word of eight blocks stands in the lower halves of eight lanes of 64 bits, as the multiplication takes it; the upper
/// halves count for nothing. Four such groups are under way at once, since each round waits for the one before.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn philox_avx512(out: &mut [[f32; 4 * PHILOX_BLOCKS]], first: u64, model: u32, key: [u32; 2]) {
    use std::arch::x86_64::*;

    use crate::philox::{MULTIPLIERS, WEYL};
    const GROUPS: usize = PHILOX_BLOCKS / 8;
    let [m0, m1] = MULTIPLIERS.map(|m| _mm512_set1_epi64(i64::from(m)));
    let low = _mm512_set1_epi64(0xffff_ffff);
    let lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    let (front, back) = (_mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15));
    let unit = _mm512_set1_ps(1.0 / (1u32 << 24) as f32);
    for (i, out) in out.iter_mut().enumerate() {
        let block = |group: usize| {
            let block = first.wrapping_add((i * PHILOX_BLOCKS + group * 8) as u64);
            _mm512_add_epi64(_mm512_set1_epi64(block as i64), lanes)
        };
        let mut a: [__m512i; GROUPS] = std::array::from_fn(block);
        let mut b = a.map(|block| _mm512_srli_epi64::<32>(block));
        let mut c = [_mm512_set1_epi64(i64::from(model)); GROUPS];
        let mut d = [_mm512_setzero_si512(); GROUPS];
        for round in 0..10u32 {
            let key = |which: usize| key[which].wrapping_add(WEYL[which].wrapping_mul(round));
            let [k0, k1] = [0, 1].map(|which| _mm512_set1_epi64(i64::from(key(which))));
            for group in 0..GROUPS {
                let (p, q) = (_mm512_mul_epu32(a[group], m0), _mm512_mul_epu32(c[group], m1));
                a[group] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64::<32>(q), b[group]), k0);
                c[group] = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64::<32>(p), d[group]), k1);
                b[group] = q;
                d[group] = p;
            }
        }
        let (sixteens, _) = out.as_chunks_mut::<16>();
        for (group, halves) in sixteens.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let pair = |x, y| _mm512_or_si512(_mm512_and_si512(x, low), _mm512_slli_epi64::<32>(y));
            let (ab, cd) = (pair(a[group], b[group]), pair(c[group], d[group]));
            for (half, order) in halves.iter_mut().zip([front, back]) {
                let words = _mm512_srli_epi32::<8>(_mm512_permutex2var_epi64(ab, order, cd));
                // SAFETY: both are sixteen lanes of 32 bits, and the instruction asks for no alignment.
                unsafe { _mm512_storeu_ps(half.as_mut_ptr(), _mm512_mul_ps(_mm512_cvtepi32_ps(words), unit)) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_the_same_by_every_way() {
        let number = |i: usize| f64::from(i as u32).sin();
        let a: Vec<[f64; SUM_LANES]> = (0..5).map(|i| std::array::from_fn(|j| number(i * 100 + j))).collect();
        let b: Vec<[f64; SUM_LANES]> = (0..5).map(|i| std::array::from_fn(|j| number(i * 77 + 3 * j) * 1e3)).collect();
        let values: Vec<[f32; SUM_LANES]> = a.iter().map(|a| a.map(|a| a as f32)).collect();
        let start: [f64; SUM_LANES] = std::array::from_fn(number);
        let (mut wide, mut plain) = (start, start);
        add_products(&a, &b, &mut wide);
        add_products_body(&a, &b, &mut plain);
        assert_eq!(wide, plain);
        add_values(&values, &mut wide);
        add_values_body(&values, &mut plain);
        assert_eq!(wide, plain);
        assert_ne!(wide, start);
    }

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
