//! Philox, many blocks at once.

#[cfg(target_arch = "x86_64")]
use super::{Level, level};

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
