//! Exponential and logarithm of many numbers at once, the same bits on every machine.

use crate::simd::simd_clones;

/// log2(e), and ln 2 in two parts, of which the first has zeros enough that its products are exact.
const LOG2_E: f64 = std::f64::consts::LOG2_E;
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Adding and taking away this number rounds to a whole one.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Below this the exponential of a double is 0 or a denormal, which is 0 here.
const LEAST: f64 = -708.0;

/// 1/2!, 1/3!, ..., 1/13!: more than the terms that a double shows for an argument of at most ln 2 / 2.
const EXP: [f64; 12] = [
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
    1.0 / 39_916_800.0,
    1.0 / 479_001_600.0,
    1.0 / 6_227_020_800.0,
];

/// e^x for x up to 709, within 2 units in the last place; 0 below -708.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    let shifted = x.mul_add(LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(-LN_2_LOW, whole.mul_add(-LN_2_HIGH, x));
    let mut sum = EXP[11];
    for coefficient in EXP[..11].iter().rev() {
        sum = sum.mul_add(rest, *coefficient);
    }
    let value = (sum * rest).mul_add(rest, rest) + 1.0;
    // the whole number stands in the lowest bits of what it was rounded in
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < LEAST { 0.0 } else { value * scale }
}

/// The natural logarithm of a positive, finite number that is no denormal, within 1e-15 or 2 units in the last place.
#[inline(always)]
pub(crate) fn log(x: f64) -> f64 {
    // a mantissa from sqrt(1/2) to sqrt(2), and the power of two that goes with it
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    let bits = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = (bits as i64 >> 52) as f64;
    let mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff).wrapping_add(SQRT_HALF));
    // log m = 2 atanh s
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 1.0 / 23.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        sum = square.mul_add(sum, 1.0 / odd);
    }
    let tail = 2.0 * s * square * sum;
    exponent.mul_add(LN_2_HIGH, exponent.mul_add(LN_2_LOW, tail) + 2.0 * s)
}

simd_clones! {
    /// `out = exp(x - shift)`; gives their sum, taken in eight lanes.
    pub(crate) fn exp_below(x: &[f32], shift: f64, out: &mut [f64]) -> f64 = exp_below_body;
}

#[inline(always)]
fn exp_below_body(x: &[f32], shift: f64, out: &mut [f64]) -> f64 {
    for (out, x) in out.iter_mut().zip(x) {
        *out = exp(f64::from(*x) - shift);
    }
    let (eights, rest) = out[..x.len()].as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for eight in eights {
        for (lane, value) in lanes.iter_mut().zip(eight) {
            *lane += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + rest.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(count: u32, low: f64, high: f64) -> impl Iterator<Item = f64> {
        (0..=count).map(move |i| low + (high - low) * f64::from(i) / f64::from(count))
    }

    #[test]
    fn both_are_those_of_the_library_within_what_is_promised() {
        for x in spread(100_000, -707.9, 80.0) {
            let (found, expected) = (exp(x), libm::exp(x));
            assert!((found - expected).abs() <= 4.0 * f64::EPSILON * expected, "exp({x}) = {found}, not {expected}");
        }
        for x in spread(100_000, -600.0, 600.0).map(libm::exp).chain(spread(100_000, 0.5, 2.0)) {
            let (found, expected) = (log(x), libm::log(x));
            let room = 2.0 * f64::EPSILON * expected.abs() + 1e-15;
            assert!((found - expected).abs() <= room, "log({x}) = {found}, not {expected}");
        }
        assert_eq!((exp(0.0), exp(-800.0), exp(f64::NEG_INFINITY), log(1.0)), (1.0, 0.0, 0.0, 0.0));
    }
}
