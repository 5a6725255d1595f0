//! Plain loops compiled for the widest vectors the machine has, chosen once at run time; the few that no compiler makes of plain loops
//! are written for AVX-512 by hand, beside the loops for other machines.
//!
//! Invariant: every clone gives the same bits. Multiply-add is always `mul_add`, so that the fused and the unfused
//! machine round alike, and no clone reorders a sum.

mod between;
mod bits;
mod philox;
mod sums;

pub(crate) use between::{Side, between};
pub(crate) use bits::{BUCKETS, bits_below, bits_by_bounds, keep_bits};
pub(crate) use philox::{PHILOX_BLOCKS, philox};
pub(crate) use sums::{SUM_LANES, add_products, add_values};

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
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
    {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::Avx2
    } else {
        Level::Baseline
    }
}
