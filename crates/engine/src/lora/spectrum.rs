//! The difference of two matrices, cut at a rank or at a share of its energy.

use adapter::{AdapterError, Matrix, Operator, Svd, exact_svd, randomised_svd};
use rayon::prelude::*;

use crate::philox::Stream;

/// Columns of a sketch beyond the rank that is wanted.
const OVERSAMPLING: usize = 16;
/// Up to this side a matrix is decomposed exactly.
const EXACT_SIDE: usize = 256;
/// Rows or columns that are multiplied at once, so that bits do not depend on the number of threads.
const BLOCK: usize = 128;

/// The kept part of a spectrum.
#[derive(Debug)]
pub(crate) struct Cut {
    /// rows × rank, columns scaled by the roots of the values.
    pub left: Matrix,
    /// columns × rank, likewise.
    pub right: Matrix,
    /// The share of the squared sum that is kept.
    pub energy: f64,
}

/// Bytes that decomposing takes: the matrix, and thin ones a few times.
pub(crate) fn peak_bytes(rows: u64, columns: u64, rank: u64) -> u64 {
    let thin = rank.saturating_add(OVERSAMPLING as u64).max(EXACT_SIDE as u64).min(rows).min(columns);
    let thin = (rows.saturating_add(columns)).saturating_mul(thin).saturating_mul(6);
    rows.saturating_mul(columns).saturating_add(thin).saturating_mul(4)
}

/// The leading part of a matrix: at most `rank` values, and no more than hold `energy` of its squared sum.
pub(crate) fn cut(matrix: &Matrix, rank: usize, energy: Option<f64>, stream: &Stream) -> Result<Cut, AdapterError> {
    let total = squared_sum(&matrix.values);
    if total == 0.0 {
        let (left, right) = (Matrix::zeros(matrix.rows, 1), Matrix::zeros(matrix.columns, 1));
        return Ok(Cut { left, right, energy: 1.0 });
    }
    let Svd { u, s, v } = decompose(matrix, rank, stream)?;
    let squares: Vec<f64> = s.iter().take(rank).map(|s| f64::from(*s) * f64::from(*s)).collect();
    let rank = energy.map_or(squares.len(), |energy| enough(&squares, energy * total)).max(1);
    let roots: Vec<f32> = s[..rank].iter().map(|s| s.max(0.0).sqrt()).collect();
    let scaled = |m: &Matrix| {
        let mut m = m.first_columns(rank);
        m.scale_columns(&roots);
        m
    };
    let kept: f64 = squares[..rank].iter().sum();
    Ok(Cut { left: scaled(&u), right: scaled(&v), energy: (kept / total).min(1.0) })
}

fn decompose(matrix: &Matrix, rank: usize, stream: &Stream) -> Result<Svd, AdapterError> {
    let side = matrix.rows.min(matrix.columns);
    let width = rank + OVERSAMPLING;
    if side <= EXACT_SIDE || width >= side {
        return exact_svd(matrix);
    }
    randomised_svd(&Blocks(matrix), &Matrix::new(matrix.columns, width, normal(stream, matrix.columns * width)))
}

/// How many of the squares it takes to reach a sum; all, where they do not.
fn enough(squares: &[f64], wanted: f64) -> usize {
    let mut sum = 0.0;
    let found = squares.iter().position(|square| {
        sum += square;
        sum >= wanted
    });
    found.map_or(squares.len(), |at| at + 1)
}

/// Squares summed by blocks, the blocks in order.
fn squared_sum(values: &[f32]) -> f64 {
    let of_block = |block: &[f32]| block.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    values.par_chunks(1 << 16).map(of_block).collect::<Vec<f64>>().into_iter().sum()
}

/// Normally distributed numbers, by Box and Muller.
fn normal(stream: &Stream, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count.next_multiple_of(2)];
    stream.fill(0, &mut values);
    for pair in values.as_chunks_mut::<2>().0 {
        // 1 - u lies in (0, 1]
        let radius = (-2.0 * libm::log(f64::from(1.0 - pair[0]))).sqrt();
        let angle = std::f64::consts::TAU * f64::from(pair[1]);
        *pair = [(radius * libm::cos(angle)) as f32, (radius * libm::sin(angle)) as f32];
    }
    values.truncate(count);
    values
}

/// A matrix multiplied block by block, on all threads.
struct Blocks<'a>(&'a Matrix);

impl Operator for Blocks<'_> {
    fn times(&self, x: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.0.rows, x.columns);
        let blocks = product.values.par_chunks_mut(BLOCK * x.columns).enumerate();
        blocks.for_each(|(i, out)| self.0.rows_times(i * BLOCK, x, out));
        product
    }

    fn transposed_times(&self, y: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.0.columns, y.columns);
        let blocks = product.values.par_chunks_mut(BLOCK * y.columns).enumerate();
        blocks.for_each(|(i, out)| self.0.columns_times(i * BLOCK, y, out));
        product
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn falling(rows: usize, columns: usize) -> Matrix {
        let mut matrix = Matrix::new(rows, columns, normal(&Stream::new(1, "m", 0), rows * columns));
        let factors: Vec<f32> = (0..columns).map(|c| 0.97f32.powi(c as i32)).collect();
        matrix.scale_columns(&factors);
        matrix
    }

    #[test]
    fn the_energy_that_is_told_is_what_the_product_holds() {
        for matrix in [falling(300, 290), falling(40, 30)] {
            let cut = cut(&matrix, 12, None, &Stream::new(5, "x", 0)).unwrap();
            let product = cut.left.times(&cut.right.transposed());
            let missing: Vec<f32> = matrix.values.iter().zip(&product.values).map(|(a, b)| a - b).collect();
            let held = 1.0 - squared_sum(&missing) / squared_sum(&matrix.values);
            assert_eq!(cut.left.columns, 12);
            assert!((held - cut.energy).abs() < 1e-3, "{held} {}", cut.energy);
        }
    }

    #[test]
    fn no_more_values_are_kept_than_hold_the_energy() {
        let matrix = falling(300, 290);
        let stream = Stream::new(5, "x", 0);
        let enough = cut(&matrix, 200, Some(0.8), &stream).unwrap();
        assert!(enough.energy >= 0.8 && enough.left.columns < 100, "{} {}", enough.energy, enough.left.columns);
        let less = cut(&matrix, enough.left.columns - 1, None, &stream).unwrap();
        assert!(less.energy < 0.8 + 1e-3, "{}", less.energy);
        assert!(cut(&matrix, 3, Some(0.8), &stream).unwrap().left.columns == 3);
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let matrix = falling(700, 300);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cut(&matrix, 10, None, &Stream::new(5, "x", 0)).unwrap())
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one.left, three.left);
        assert_eq!(one.right, three.right);
    }

    #[test]
    fn no_difference_is_a_product_of_nothing() {
        let cut = cut(&Matrix::zeros(3, 4), 2, None, &Stream::new(5, "x", 0)).unwrap();
        assert_eq!((cut.left.columns, cut.energy), (1, 1.0));
    }
}
