//! bf16, f16 and f32 in memory to f32 values and back, rounding once to nearest, ties to even.
//!
//! Integer forms throughout: they vectorise, and they give the same bits on every CPU and GPU.

use checkpoint::Dtype;

use crate::simd::simd_clones;

/// Reads `out.len()` little-endian values of `dtype` from `bytes`.
///
/// # Panics
/// On a dtype that is not mergeable; plans refuse those.
pub fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::BF16 => bf16_to_f32(bytes, out),
        Dtype::F16 => f16_to_f32(bytes, out),
        Dtype::F32 => f32_to_f32(bytes, out),
        other => unreachable!("plans refuse dtype {other:?}"),
    }
}

/// Writes `values` as little-endian `dtype` into `bytes`.
///
/// # Panics
/// On a dtype that is not mergeable; plans refuse those.
pub fn from_f32(dtype: Dtype, values: &[f32], bytes: &mut [u8]) {
    match dtype {
        Dtype::BF16 => f32_to_bf16(values, bytes),
        Dtype::F16 => f32_to_f16(values, bytes),
        Dtype::F32 => f32_from_f32(values, bytes),
        other => unreachable!("plans refuse dtype {other:?}"),
    }
}

/// The first value that is not finite once written as `dtype`, though every input of it is.
pub fn first_lost(dtype: Dtype, values: &[f32], inputs: &[&[f32]]) -> Option<usize> {
    // least magnitude that rounds to infinity
    let limit = match dtype {
        Dtype::BF16 => 0x7f7f_8000,
        Dtype::F16 => 0x477f_f000,
        _ => 0x7f80_0000,
    };
    if !any_at_least(values, limit) {
        return None;
    }
    let lost = |i: &usize| values[*i].to_bits() & 0x7fff_ffff >= limit && inputs.iter().all(|x| x[*i].is_finite());
    (0..values.len()).find(lost)
}

simd_clones! { fn any_at_least(values: &[f32], limit: u32) -> bool = any_at_least_body; }

#[inline(always)]
fn any_at_least_body(values: &[f32], limit: u32) -> bool {
    values.iter().fold(0, |largest: u32, v| largest.max(v.to_bits() & 0x7fff_ffff)) >= limit
}

simd_clones! { fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) = bf16_to_f32_body; }
simd_clones! { fn f16_to_f32(bytes: &[u8], out: &mut [f32]) = f16_to_f32_body; }
simd_clones! { fn f32_to_f32(bytes: &[u8], out: &mut [f32]) = f32_to_f32_body; }
simd_clones! { fn f32_to_bf16(values: &[f32], bytes: &mut [u8]) = f32_to_bf16_body; }
simd_clones! { fn f32_to_f16(values: &[f32], bytes: &mut [u8]) = f32_to_f16_body; }
simd_clones! { fn f32_from_f32(values: &[f32], bytes: &mut [u8]) = f32_from_f32_body; }

#[inline(always)]
fn bf16_to_f32_body(bytes: &[u8], out: &mut [f32]) {
    for (pair, value) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
    }
}

#[inline(always)]
fn f16_to_f32_body(bytes: &[u8], out: &mut [f32]) {
    for (pair, value) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *value = f16_value(u16::from_le_bytes(*pair));
    }
}

#[inline(always)]
fn f32_to_f32_body(bytes: &[u8], out: &mut [f32]) {
    for (four, value) in bytes.as_chunks::<4>().0.iter().zip(out) {
        *value = f32::from_le_bytes(*four);
    }
}

#[inline(always)]
fn f32_to_bf16_body(values: &[f32], bytes: &mut [u8]) {
    for (value, pair) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *pair = bf16_bits(*value).to_le_bytes();
    }
}

#[inline(always)]
fn f32_to_f16_body(values: &[f32], bytes: &mut [u8]) {
    for (value, pair) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
        *pair = f16_bits(*value).to_le_bytes();
    }
}

#[inline(always)]
fn f32_from_f32_body(values: &[f32], bytes: &mut [u8]) {
    for (value, four) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
        *four = value.to_le_bytes();
    }
}

/// The exponent is rebiased by adding; infinities need it twice, and denormals are normalised by a subtraction.
#[inline(always)]
fn f16_value(half: u16) -> f32 {
    const EXPONENT: u32 = 0x7c00 << 13;
    let shifted = u32::from(half & 0x7fff) << 13;
    let exponent = shifted & EXPONENT;
    let normal = shifted + ((127 - 15) << 23);
    let infinite = normal + ((128 - 16) << 23);
    let denormal = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let magnitude = if exponent == EXPONENT {
        infinite
    } else if exponent == 0 {
        denormal
    } else {
        normal
    };
    f32::from_bits(magnitude | u32::from(half & 0x8000) << 16)
}

#[inline(always)]
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet_nan = bits >> 16 | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet_nan } else { rounded }) as u16
}

#[inline(always)]
fn f16_bits(value: f32) -> u16 {
    const DENORMAL_MAGIC: u32 = ((127 - 15) + (23 - 10) + 1) << 23;
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    // adding the magic number lets the FPU round the denormal to its place
    let denormal = (f32::from_bits(magnitude) + f32::from_bits(DENORMAL_MAGIC)).to_bits().wrapping_sub(DENORMAL_MAGIC);
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + odd) >> 13;
    let half = if magnitude >= 0x4780_0000 {
        special
    } else if magnitude < 0x3880_0000 {
        denormal
    } else {
        normal
    };
    (half | bits >> 16 & 0x8000) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_16_bit_values() -> Vec<u8> {
        (0..=u16::MAX).flat_map(u16::to_le_bytes).collect()
    }

    fn read(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / (dtype.bitsize() / 8)];
        to_f32(dtype, bytes, &mut out);
        out
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn every_16_bit_value_is_read_exactly_and_comes_back() {
        let bytes = all_16_bit_values();
        for dtype in [Dtype::BF16, Dtype::F16] {
            let values = read(dtype, &bytes);
            for (bits, value) in (0..=u16::MAX).zip(&values) {
                let expected = if dtype == Dtype::BF16 {
                    half::bf16::from_bits(bits).to_f32()
                } else {
                    half::f16::from_bits(bits).to_f32()
                };
                assert!(same(*value, expected), "{dtype:?} {bits:#x}: {value} against {expected}");
            }
            let mut back = vec![0; bytes.len()];
            from_f32(dtype, &values, &mut back);
            for (i, (a, b)) in bytes.chunks(2).zip(back.chunks(2)).enumerate() {
                assert!(a == b || values[i].is_nan(), "{dtype:?} {i:#x}");
            }
        }
    }

    /// Every upper half of an f32 with lower halves around each rounding boundary.
    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let lows = [0u32, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xf000, 0xffff];
        let values: Vec<f32> =
            (0..=u16::MAX).flat_map(|high| lows.map(|low| f32::from_bits(u32::from(high) << 16 | low))).collect();
        let mut bytes = vec![0; values.len() * 2];
        from_f32(Dtype::F16, &values, &mut bytes);
        for (value, pair) in values.iter().zip(bytes.as_chunks::<2>().0) {
            let (ours, theirs) = (half::f16::from_le_bytes(*pair), half::f16::from_f32(*value));
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "f16 of {value:e}: {ours} against {theirs}"
            );
        }
        from_f32(Dtype::BF16, &values, &mut bytes);
        for (value, pair) in values.iter().zip(bytes.as_chunks::<2>().0) {
            let (ours, theirs) = (half::bf16::from_le_bytes(*pair), half::bf16::from_f32(*value));
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "bf16 of {value:e}: {ours} against {theirs}"
            );
        }
    }
}
