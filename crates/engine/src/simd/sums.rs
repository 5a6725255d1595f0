//! Sums in f64.

use super::simd_clones;
#[cfg(target_arch = "x86_64")]
use super::{Level, level};

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
}
