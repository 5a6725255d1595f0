//! One bit for each element: which of them are kept. Element i is bit i % 64 of word i / 64.

#[cfg(target_arch = "x86_64")]
use super::{Level, level};

/// Sets the bits of the values below `limit`, and clears the others.
pub(crate) fn bits_below(values: &[f32], limit: f32, bits: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` has seen that this CPU has every feature that the function was compiled for.
        return unsafe { bits_below_avx512(values, limit, bits) };
    }
    bits_below_plain(values, limit, bits);
}

fn bits_below_plain(values: &[f32], limit: f32, bits: &mut [u64]) {
    for (values, word) in values.chunks(64).zip(bits) {
        *word = values.iter().enumerate().fold(0, |word, (i, value)| word | u64::from(*value < limit) << i);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn bits_below_avx512(values: &[f32], limit: f32, bits: &mut [u64]) {
    use std::arch::x86_64::*;
    let limits = _mm512_set1_ps(limit);
    let (whole, rest) = values.as_chunks::<64>();
    let (words, last) = bits.split_at_mut(whole.len());
    for (values, word) in whole.iter().zip(words) {
        *word = 0;
        for (i, sixteen) in values.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: both are sixteen lanes of 32 bits, and the instruction asks for no alignment.
            let lanes = unsafe { _mm512_loadu_ps(sixteen.as_ptr()) };
            *word |= u64::from(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(lanes, limits)) << (16 * i);
        }
    }
    bits_below_plain(rest, limit, last);
}

/// Sets the values whose bit is not set to 0.
pub(crate) fn keep_bits(values: &mut [f32], bits: &[u64]) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` has seen that this CPU has every feature that the function was compiled for.
        return unsafe { keep_bits_avx512(values, bits) };
    }
    keep_bits_plain(values, bits);
}

fn keep_bits_plain(values: &mut [f32], bits: &[u64]) {
    for (values, word) in values.chunks_mut(64).zip(bits) {
        for (i, value) in values.iter_mut().enumerate() {
            let mask = ((word >> i & 1) as u32).wrapping_neg();
            *value = f32::from_bits(value.to_bits() & mask);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn keep_bits_avx512(values: &mut [f32], bits: &[u64]) {
    use std::arch::x86_64::*;
    let (whole, rest) = values.as_chunks_mut::<64>();
    let (words, last) = bits.split_at(whole.len());
    for (values, word) in whole.iter_mut().zip(words) {
        for (i, sixteen) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            // SAFETY: both are sixteen lanes of 32 bits, and the instructions ask for no alignment.
            unsafe {
                let kept = _mm512_maskz_loadu_ps((word >> (16 * i)) as u16, sixteen.as_ptr());
                _mm512_storeu_ps(sixteen.as_mut_ptr(), kept);
            }
        }
    }
    keep_bits_plain(rest, last);
}

/// Buckets that [`bits_by_bounds`] tells apart.
pub(crate) const BUCKETS: usize = 1 << 11;

/// Sets the bit of each element whose number lies below the lower bound of its bucket, clears the others, and appends to
/// `undecided` the indices of those whose number lies only below the bound of the next bucket.
pub(crate) fn bits_by_bounds(
    buckets: &[u16],
    numbers: &[f32],
    bounds: &[f32; BUCKETS + 1],
    bits: &mut [u64],
    undecided: &mut Vec<u32>,
) {
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: `level` has seen that this CPU has every feature that the function was compiled for.
        return unsafe { bits_by_bounds_avx512(buckets, numbers, bounds, bits, undecided) };
    }
    bits_by_bounds_plain(buckets, numbers, bounds, bits, undecided);
}

fn bits_by_bounds_plain(
    buckets: &[u16],
    numbers: &[f32],
    bounds: &[f32; BUCKETS + 1],
    bits: &mut [u64],
    undecided: &mut Vec<u32>,
) {
    let words = buckets.chunks(64).zip(numbers.chunks(64)).zip(bits);
    for (which, ((buckets, numbers), word)) in words.enumerate() {
        *word = 0;
        for (i, (bucket, number)) in buckets.iter().zip(numbers).enumerate() {
            let bucket = usize::from(*bucket) % BUCKETS;
            let is_kept = *number < bounds[bucket];
            *word |= u64::from(is_kept) << i;
            if !is_kept && *number < bounds[bucket + 1] {
                undecided.push((which * 64 + i) as u32);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn bits_by_bounds_avx512(
    buckets: &[u16],
    numbers: &[f32],
    bounds: &[f32; BUCKETS + 1],
    bits: &mut [u64],
    undecided: &mut Vec<u32>,
) {
    use std::arch::x86_64::*;
    let (whole, rest) = buckets.as_chunks::<64>();
    let (whole_numbers, rest_numbers) = numbers.split_at(whole.len() * 64);
    let (words, last) = bits.split_at_mut(whole.len());
    let in_range = _mm512_set1_epi32(BUCKETS as i32 - 1);
    let mut lanes = [0u32; 16];
    let sixteens = whole.as_flattened().as_chunks::<16>().0.iter().zip(whole_numbers.as_chunks::<16>().0);
    for (which, (buckets, numbers)) in sixteens.enumerate() {
        // SAFETY: the first two have sixteen lanes of 16 and of 32 bits, an index is below BUCKETS, and the instructions
        // ask for no alignment.
        let (numbers, low, high) = unsafe {
            let index = _mm512_cvtepu16_epi32(_mm256_loadu_si256(buckets.as_ptr().cast()));
            let index = _mm512_and_si512(index, in_range);
            let low = _mm512_i32gather_ps::<4>(index, bounds.as_ptr());
            let high = _mm512_i32gather_ps::<4>(index, bounds[1..].as_ptr());
            (_mm512_loadu_ps(numbers.as_ptr()), low, high)
        };
        let kept = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(numbers, low);
        let open = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(numbers, high) & !kept;
        let word = &mut words[which / 4];
        *word = if which % 4 == 0 { 0 } else { *word } | u64::from(kept) << (16 * (which % 4));
        if open != 0 {
            let first = _mm512_set1_epi32(which as i32 * 16);
            let index =
                _mm512_add_epi32(first, _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
            // SAFETY: sixteen lanes of 32 bits, and the instruction asks for no alignment.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(open, index)) };
            undecided.extend_from_slice(&lanes[..open.count_ones() as usize]);
        }
    }
    let from = undecided.len();
    bits_by_bounds_plain(rest, rest_numbers, bounds, last, undecided);
    undecided[from..].iter_mut().for_each(|i| *i += whole.len() as u32 * 64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f32 {
        f32::from_bits(0x3f80_0000 | (i as u32).wrapping_mul(0x9e37_79b9) >> 9) - 1.0
    }

    #[test]
    fn bits_are_the_same_by_every_way() {
        for length in [0, 1, 63, 64, 65, 500, 1024] {
            let values: Vec<f32> = (0..length).map(noise).collect();
            let words = length.div_ceil(64);
            let (mut wide, mut plain) = (vec![u64::MAX; words], vec![0; words]);
            bits_below(&values, 0.3, &mut wide);
            bits_below_plain(&values, 0.3, &mut plain);
            assert_eq!(wide, plain);
            let set: u32 = wide.iter().map(|word| word.count_ones()).sum();
            assert_eq!(set as usize, values.iter().filter(|value| **value < 0.3).count());

            let (mut kept, mut by_plain) = (values.clone(), values.clone());
            keep_bits(&mut kept, &wide);
            keep_bits_plain(&mut by_plain, &wide);
            assert_eq!(kept, by_plain);
            assert!(kept.iter().zip(&values).all(|(kept, value)| *kept == if *value < 0.3 { *value } else { 0.0 }));

            let buckets: Vec<u16> = (0..length).map(|i| (noise(i * 7) * BUCKETS as f32) as u16).collect();
            let bounds: [f32; BUCKETS + 1] = std::array::from_fn(|i| i as f32 / BUCKETS as f32);
            let (mut open, mut open_plain) = (Vec::new(), Vec::new());
            wide.fill(u64::MAX);
            bits_by_bounds(&buckets, &values, &bounds, &mut wide, &mut open);
            bits_by_bounds_plain(&buckets, &values, &bounds, &mut plain, &mut open_plain);
            assert_eq!((wide, open), (plain, open_plain));
        }
    }
}
