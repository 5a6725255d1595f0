//! w + s (L R), one multiply-add after the other.
//!
//! An element's bits do not depend on which rows or columns are made together: its sum begins at 0 and runs over the rank
//! in order. For each element of rank r: r multiply-adds, and 4 bytes of R from the cache for four rows at once.

use crate::simd::simd_clones;

/// Columns whose sums are kept in the nearest cache.
const COLUMNS: usize = 512;
/// Rows that share what is read of the right factor.
const ROWS: usize = 4;

/// Which part of a product is wanted: some rows, and of each the columns `from..from + width`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub rank: usize,
    /// Columns of the right factor.
    pub columns: usize,
    pub from: usize,
    pub width: usize,
    pub scale: f32,
}

simd_clones! {
    /// `values` holds rows of `part.width`, `left` as many rows of the left factor.
    pub(super) fn add_product(left: &[f32], right: &[f32], part: Part, values: &mut [f32]) = add_product_body;
}

#[inline(always)]
fn add_product_body(left: &[f32], right: &[f32], part: Part, values: &mut [f32]) {
    let mut rows = values.chunks_exact_mut(part.width * ROWS);
    let mut row = 0;
    for four in &mut rows {
        add_rows::<ROWS>(&left[row * part.rank..], right, part, four);
        row += ROWS;
    }
    for one in rows.into_remainder().chunks_exact_mut(part.width) {
        add_rows::<1>(&left[row * part.rank..], right, part, one);
        row += 1;
    }
}

#[inline(always)]
fn add_rows<const N: usize>(left: &[f32], right: &[f32], part: Part, values: &mut [f32]) {
    let mut at = 0;
    while at < part.width {
        let width = COLUMNS.min(part.width - at);
        let mut sums = [[0.0; COLUMNS]; N];
        for k in 0..part.rank {
            let right = &right[k * part.columns + part.from + at..][..width];
            for (n, sums) in sums.iter_mut().enumerate() {
                let factor = left[n * part.rank + k];
                for (sum, r) in sums[..width].iter_mut().zip(right) {
                    *sum = factor.mul_add(*r, *sum);
                }
            }
        }
        for (n, sums) in sums.iter().enumerate() {
            let values = &mut values[n * part.width + at..][..width];
            for (value, sum) in values.iter_mut().zip(sums) {
                *value = part.scale.mul_add(*sum, *value);
            }
        }
        at += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Stream;

    fn numbers(name: &str, length: usize) -> Vec<f32> {
        let mut values = vec![0.0; length];
        Stream::new(7, name, 0).fill(0, &mut values);
        values.iter_mut().for_each(|v| *v -= 0.5);
        values
    }

    /// The specification: each element alone.
    fn element(left: &[f32], right: &[f32], part: Part, row: usize, column: usize, value: f32) -> f32 {
        let sum = (0..part.rank)
            .fold(0.0f32, |sum, k| left[row * part.rank + k].mul_add(right[k * part.columns + column], sum));
        part.scale.mul_add(sum, value)
    }

    #[test]
    fn any_rows_and_columns_give_the_bits_of_the_whole() {
        let (rows, columns, rank) = (11, 1100, 5);
        let (left, right) = (numbers("left", rows * rank), numbers("right", rank * columns));
        let start = numbers("start", rows * columns);
        for (first, count, from, width) in [(0, 11, 0, 1100), (3, 1, 17, 600), (2, 9, 0, 1100), (10, 1, 1099, 1)] {
            let part = Part { rank, columns, from, width, scale: 1.5 };
            let whole = |row: usize, column: usize| start[row * columns + column];
            let mut values: Vec<f32> =
                (first..first + count).flat_map(|row| (from..from + width).map(move |c| whole(row, c))).collect();
            add_product(&left[first * rank..], &right, part, &mut values);
            for (i, value) in values.iter().enumerate() {
                let (row, column) = (first + i / width, from + i % width);
                let expected = element(&left, &right, part, row, column, whole(row, column));
                assert_eq!(value.to_bits(), expected.to_bits(), "{row}, {column}");
            }
        }
    }
}
