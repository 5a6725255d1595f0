//! The largest singular values of a matrix that is known by its products only.
//! Halko, Martinsson and Tropp 2011, "Finding structure with randomness", <https://arxiv.org/abs/0909.4061>,
//! algorithms 4.4 and 5.1.

use crate::matrix::{Matrix, Svd, exact_svd, qr};
use crate::{AdapterError, limits};

/// A large matrix as its products with thin ones.
pub trait Operator {
    /// A X
    fn times(&self, x: &Matrix) -> Matrix;
    /// Aᵀ Y
    fn transposed_times(&self, y: &Matrix) -> Matrix;
}

/// The leading singular triplets, as many as `sketch` has columns: random numbers, a row for each column of A.
/// Two power iterations, orthonormalised in between, make small values fall away.
pub fn randomised_svd(a: &dyn Operator, sketch: &Matrix) -> Result<Svd, AdapterError> {
    let mut q = qr(&a.times(sketch)).0;
    for _ in 0..limits::POWER_ITERATIONS {
        let z = qr(&a.transposed_times(&q)).0;
        q = qr(&a.times(&z)).0;
    }
    // (Qᵀ A)ᵀ = V S Wᵀ, so A is near Q W S Vᵀ
    let Svd { u: v, s, v: w } = exact_svd(&a.transposed_times(&q))?;
    Ok(Svd { u: q.times(&w), s, v })
}

impl Operator for Matrix {
    fn times(&self, x: &Matrix) -> Matrix {
        Matrix::times(self, x)
    }

    fn transposed_times(&self, y: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.columns, y.columns);
        self.columns_times(0, y, &mut product.values);
        product
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random: a linear congruence.
    fn numbers(rows: usize, columns: usize, mut seed: u64) -> Matrix {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        Matrix::new(rows, columns, (0..rows * columns).map(|_| next()).collect())
    }

    fn rebuilt(svd: &Svd) -> Matrix {
        let mut u = svd.u.clone();
        u.scale_columns(&svd.s);
        u.times(&svd.v.transposed())
    }

    fn distance(a: &Matrix, b: &Matrix) -> f64 {
        let norm = |m: &[f32]| m.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let difference: Vec<f32> = a.values.iter().zip(&b.values).map(|(a, b)| a - b).collect();
        norm(&difference) / norm(&a.values)
    }

    fn assert_orthonormal(q: &Matrix) {
        let gram = q.transposed().times(q);
        for (i, value) in gram.values.iter().enumerate() {
            let expected = if i / gram.columns == i % gram.columns { 1.0 } else { 0.0 };
            assert!((value - expected).abs() < 1e-5, "{value} at {i}");
        }
    }

    #[test]
    fn factorisations_rebuild_the_matrix() {
        for (rows, columns) in [(40, 7), (7, 40), (16, 16), (1, 5), (5, 1)] {
            let a = numbers(rows, columns, 3);
            let (q, r) = qr(&a);
            assert_orthonormal(&q);
            assert!(distance(&a, &q.times(&r)) < 1e-6);
            let svd = exact_svd(&a).unwrap();
            assert_orthonormal(&svd.u);
            assert_orthonormal(&svd.v);
            assert!(svd.s.is_sorted_by(|a, b| a >= b));
            assert!(distance(&a, &rebuilt(&svd)) < 2e-6);
        }
    }

    #[test]
    fn a_matrix_of_low_rank_is_found_whole() {
        let a = numbers(120, 6, 1).times(&numbers(6, 90, 2));
        let svd = randomised_svd(&a, &numbers(90, 10, 9)).unwrap();
        assert!(distance(&a, &rebuilt(&svd)) < 1e-5);
        assert!(svd.s[6..].iter().all(|s| *s < 1e-4 * svd.s[0]));
    }

    #[test]
    fn the_leading_values_of_a_full_matrix_are_near_the_exact_ones() {
        let mut a = numbers(120, 90, 5);
        let falling: Vec<f32> = (0..90).map(|c| 0.9f32.powi(c)).collect();
        a.scale_columns(&falling);
        let exact = exact_svd(&a).unwrap();
        let found = randomised_svd(&a, &numbers(90, 20, 9)).unwrap();
        for i in 0..10 {
            assert!((found.s[i] - exact.s[i]).abs() < 1e-3 * exact.s[i], "{i}: {} {}", found.s[i], exact.s[i]);
        }
    }
}
