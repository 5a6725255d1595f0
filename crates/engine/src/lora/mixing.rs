//! Adapters of one module merged with each other, without the module's weight.
//!
//! The ways and their meaning are those of PEFT's `add_weighted_adapter`: a factor A is weighted by the root of
//! |weight · scale| with the weight's sign, B by the root alone, so that a product keeps weight and sign. Core space:
//! Panariello et al. 2025, <https://arxiv.org/abs/2509.17786>.

use adapter::{AdapterError, Matrix, Svd, exact_svd, qr};

use crate::philox::Stream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mixing {
    /// Factors added, each side for itself: not the sum of the products.
    Linear,
    /// Factors side by side: exactly the sum of the products.
    Cat,
    /// The sum of the products, cut at a rank.
    Svd,
    Ties,
    DareLinear,
    DareTies,
    MagnitudePrune,
    /// Products merged as small matrices between bases that all of them share.
    CoreSpace,
}

/// One adapter's share in a module.
#[derive(Debug)]
pub(crate) struct Part {
    /// rank × inputs
    pub a: Matrix,
    /// outputs × rank
    pub b: Matrix,
    pub weight: f64,
    pub scale: f64,
    /// The part of the elements that is kept, where the way drops some.
    pub density: f64,
}

/// What the recipe sets for a module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Rank of the result, where the way chooses it.
    pub rank: usize,
    pub majority: Majority,
    pub core: Core,
}

/// Which sign an element of TIES takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Majority {
    /// Of the sum of the values.
    Total,
    /// That more of them have.
    Frequency,
}

/// How the small matrices of the core space are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    Sum,
    Ties,
    /// The directions of the sum, all of their mean length (Iso-C, <https://arxiv.org/abs/2502.04959>).
    Iso,
}

/// Random numbers for the factor A or B of an input.
pub(crate) type Draws<'a> = dyn Fn(Side, usize) -> Stream + Sync + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

/// The factors A and B of the result, whose scale is 1.
pub(crate) fn mix(
    mixing: Mixing,
    parts: &[Part],
    options: Options,
    draws: &Draws<'_>,
) -> Result<(Matrix, Matrix), AdapterError> {
    match mixing {
        Mixing::Cat => Ok(side_by_side(parts)),
        Mixing::Svd => {
            let (left, right) = (qr(&beside(parts)).0, qr(&above(parts)).0);
            let sum = sum(&cores(parts, &left, &right), &weights(parts));
            lift(&sum, &left, &right, options.rank)
        }
        Mixing::CoreSpace => {
            let (left, right) = (basis(&beside(parts))?, basis(&above(parts))?);
            let core = merge_cores(cores(parts, &left, &right), parts, options)?;
            lift(&core, &left, &right, options.rank)
        }
        Mixing::Linear | Mixing::Ties | Mixing::DareLinear | Mixing::DareTies | Mixing::MagnitudePrune => {
            let factor = |side: Side| {
                let of = |part: &Part| if side == Side::A { part.a.clone() } else { part.b.clone() };
                let kept =
                    parts.iter().enumerate().map(|(i, part)| keep(mixing, of(part), part.density, &draws(side, i)));
                let weights: Vec<f64> = parts.iter().map(|part| part.root(side)).collect();
                let kept: Vec<Matrix> = kept.collect();
                if matches!(mixing, Mixing::Ties | Mixing::DareTies) {
                    ties(&kept, &weights, options.majority)
                } else {
                    sum(&kept, &weights)
                }
            };
            Ok((factor(Side::A), factor(Side::B)))
        }
    }
}

impl Part {
    fn product_weight(&self) -> f64 {
        self.weight * self.scale
    }

    fn root(&self, side: Side) -> f64 {
        let root = self.product_weight().abs().sqrt();
        if side == Side::A && self.product_weight() < 0.0 { -root } else { root }
    }
}

fn weights(parts: &[Part]) -> Vec<f64> {
    parts.iter().map(Part::product_weight).collect()
}

/// Sums in f64, rounded once.
fn sum(matrices: &[Matrix], weights: &[f64]) -> Matrix {
    let first = &matrices[0];
    let element = |e: usize| matrices.iter().zip(weights).map(|(m, w)| f64::from(m.values[e]) * w).sum::<f64>() as f32;
    Matrix::new(first.rows, first.columns, (0..first.values.len()).map(element).collect())
}

/// The mean of those weighted values whose sign is the majority's. A majority of 0 counts as plus.
fn ties(matrices: &[Matrix], weights: &[f64], majority: Majority) -> Matrix {
    let element = |e: usize| {
        let values = || matrices.iter().map(|m| f64::from(m.values[e]));
        let vote: f64 = match majority {
            Majority::Total => values().sum(),
            Majority::Frequency => values().filter(|v| *v != 0.0).map(f64::signum).sum(),
        };
        let agrees = |value: &f64| if vote >= 0.0 { *value > 0.0 } else { *value < 0.0 };
        let chosen = values().zip(weights).filter(|(value, _)| agrees(value));
        let (total, count) = chosen.fold((0.0, 0u32), |(total, count), (v, w)| (total + v * w, count + 1));
        (total / f64::from(count.max(1))) as f32
    };
    let first = &matrices[0];
    Matrix::new(first.rows, first.columns, (0..first.values.len()).map(element).collect())
}

fn keep(mixing: Mixing, matrix: Matrix, density: f64, stream: &Stream) -> Matrix {
    match mixing {
        Mixing::Ties | Mixing::MagnitudePrune => largest(matrix, density),
        Mixing::DareLinear | Mixing::DareTies => drawn(matrix, density, stream),
        Mixing::Linear | Mixing::Cat | Mixing::Svd | Mixing::CoreSpace => matrix,
    }
}

/// The part of the elements that is largest by magnitude; of equal ones those with the lowest index.
fn largest(mut matrix: Matrix, density: f64) -> Matrix {
    let count = (density * matrix.values.len() as f64) as usize;
    if count < matrix.values.len() {
        let mut order: Vec<usize> = (0..matrix.values.len()).collect();
        let magnitude = |e: &usize| matrix.values[*e].abs();
        order.select_nth_unstable_by(count, |a, b| magnitude(b).total_cmp(&magnitude(a)).then(a.cmp(b)));
        order[count..].iter().for_each(|e| matrix.values[*e] = 0.0);
    }
    matrix
}

/// Elements drawn with a probability, and raised so that the mean stays.
fn drawn(mut matrix: Matrix, density: f64, stream: &Stream) -> Matrix {
    let mut uniform = vec![0.0; matrix.values.len()];
    stream.fill(0, &mut uniform);
    for (value, u) in matrix.values.iter_mut().zip(uniform) {
        *value = if f64::from(u) < density { (f64::from(*value) / density) as f32 } else { 0.0 };
    }
    matrix
}

/// [w₁s₁A₁; w₂s₂A₂; ...] and [B₁ B₂ ...].
fn side_by_side(parts: &[Part]) -> (Matrix, Matrix) {
    let weighted = |part: &Part| {
        let weight = part.product_weight();
        part.a.values.iter().map(move |v| (f64::from(*v) * weight) as f32).collect::<Vec<f32>>()
    };
    let values: Vec<f32> = parts.iter().flat_map(weighted).collect();
    let columns = parts[0].a.columns;
    (Matrix::new(values.len() / columns, columns, values), beside(parts))
}

/// All B side by side.
fn beside(parts: &[Part]) -> Matrix {
    let rows = parts[0].b.rows;
    let row =
        |r: usize| parts.iter().flat_map(move |part| part.b.values[r * part.b.columns..][..part.b.columns].iter());
    let columns = parts.iter().map(|part| part.b.columns).sum();
    Matrix::new(rows, columns, (0..rows).flat_map(row).copied().collect())
}

/// All A side by side, turned.
fn above(parts: &[Part]) -> Matrix {
    let columns = parts[0].a.columns;
    let values: Vec<f32> = parts.iter().flat_map(|part| part.a.values.iter().copied()).collect();
    Matrix::new(values.len() / columns, columns, values).transposed()
}

/// Orthonormal columns that span a matrix, along its principal directions.
fn basis(matrix: &Matrix) -> Result<Matrix, AdapterError> {
    let (q, r) = qr(matrix);
    Ok(q.times(&exact_svd(&r)?.u))
}

/// Each product between two bases: small, and nothing is lost where the bases span all factors.
fn cores(parts: &[Part], left: &Matrix, right: &Matrix) -> Vec<Matrix> {
    let left = left.transposed();
    parts.iter().map(|part| left.times(&part.b).times(&part.a.times(right))).collect()
}

fn merge_cores(cores: Vec<Matrix>, parts: &[Part], options: Options) -> Result<Matrix, AdapterError> {
    match options.core {
        Core::Sum => Ok(sum(&cores, &weights(parts))),
        Core::Ties => {
            let kept: Vec<Matrix> =
                cores.into_iter().zip(parts).map(|(core, part)| largest(core, part.density)).collect();
            Ok(ties(&kept, &weights(parts), options.majority))
        }
        Core::Iso => {
            let Svd { u, s, v } = exact_svd(&sum(&cores, &weights(parts)))?;
            let mean = s.iter().map(|s| f64::from(*s)).sum::<f64>() / s.len().max(1) as f64;
            let mut u = u;
            u.scale_columns(&vec![mean as f32; s.len()]);
            Ok(u.times(&v.transposed()))
        }
    }
}

/// The product L core Rᵀ as factors of at most a rank.
fn lift(core: &Matrix, left: &Matrix, right: &Matrix, rank: usize) -> Result<(Matrix, Matrix), AdapterError> {
    let Svd { u, s, v } = exact_svd(core)?;
    let rank = rank.min(s.len());
    let roots: Vec<f32> = s[..rank].iter().map(|s| s.max(0.0).sqrt()).collect();
    let side = |basis: &Matrix, vectors: &Matrix| {
        let mut vectors = vectors.first_columns(rank);
        vectors.scale_columns(&roots);
        basis.times(&vectors)
    };
    Ok((side(right, &v).transposed(), side(left, &u)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(name: &str, rows: usize, columns: usize) -> Matrix {
        let mut values = vec![0.0; rows * columns];
        Stream::new(11, name, 0).fill(0, &mut values);
        values.iter_mut().for_each(|v| *v -= 0.5);
        Matrix::new(rows, columns, values)
    }

    fn parts(weights: &[f64], ranks: &[usize], density: f64) -> Vec<Part> {
        let part = |(i, (weight, rank)): (usize, (&f64, &usize))| Part {
            a: numbers(&format!("a{i}"), *rank, 9),
            b: numbers(&format!("b{i}"), 7, *rank),
            weight: *weight,
            scale: 1.5,
            density,
        };
        weights.iter().zip(ranks).enumerate().map(part).collect()
    }

    fn options(rank: usize, core: Core) -> Options {
        Options { rank, majority: Majority::Total, core }
    }

    fn run(mixing: Mixing, parts: &[Part], options: Options) -> Matrix {
        let (a, b) = mix(mixing, parts, options, &|_, i| Stream::new(3, "x", i as u32)).unwrap();
        b.times(&a)
    }

    /// Σ w s B A in f64.
    fn exact(parts: &[Part]) -> Matrix {
        let products: Vec<Matrix> = parts.iter().map(|part| part.b.times(&part.a)).collect();
        sum(&products, &weights(parts))
    }

    fn assert_near(found: &Matrix, expected: &Matrix, tolerance: f32) {
        assert_eq!((found.rows, found.columns), (expected.rows, expected.columns));
        for (found, expected) in found.values.iter().zip(&expected.values) {
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        }
    }

    #[test]
    fn cat_svd_and_core_space_of_all_ranks_are_the_sum_of_the_products() {
        let parts = parts(&[0.7, -0.4], &[2, 3], 1.0);
        for (mixing, core) in [(Mixing::Cat, Core::Sum), (Mixing::Svd, Core::Sum), (Mixing::CoreSpace, Core::Sum)] {
            assert_near(&run(mixing, &parts, options(5, core)), &exact(&parts), 2e-6);
        }
    }

    #[test]
    fn a_cut_sum_is_the_nearest_of_its_rank() {
        let parts = parts(&[0.7, -0.4], &[2, 3], 1.0);
        let Svd { u, s, v } = exact_svd(&exact(&parts)).unwrap();
        let mut u = u.first_columns(2);
        u.scale_columns(&s);
        assert_near(&run(Mixing::Svd, &parts, options(2, Core::Sum)), &u.times(&v.first_columns(2).transposed()), 2e-6);
    }

    #[test]
    fn linear_is_one_adapters_product_with_its_weight_and_sign() {
        for weight in [0.6, -0.6] {
            let parts = parts(&[weight], &[3], 1.0);
            assert_near(&run(Mixing::Linear, &parts, options(3, Core::Sum)), &exact(&parts), 1e-6);
            assert_near(&run(Mixing::DareLinear, &parts, options(3, Core::Sum)), &exact(&parts), 1e-6);
            assert_near(&run(Mixing::Ties, &parts, options(3, Core::Sum)), &exact(&parts), 1e-6);
        }
    }

    #[test]
    fn ties_keeps_the_largest_and_the_majority() {
        let row = |values: &[f32]| Matrix::new(1, values.len(), values.to_vec());
        assert_eq!(largest(row(&[1.0, -3.0, 2.0, 2.0, 0.5]), 0.5), row(&[0.0, -3.0, 2.0, 0.0, 0.0]));
        let matrices = [row(&[1.0, -4.0, 0.0, 2.0]), row(&[3.0, 1.0, 0.0, -2.0]), row(&[-2.0, 1.0, 5.0, 0.0])];
        let total = ties(&matrices, &[1.0, 0.5, 1.0], Majority::Total);
        assert_eq!(total, row(&[1.25, -4.0, 5.0, 2.0]));
        let frequency = ties(&matrices, &[1.0, 0.5, 1.0], Majority::Frequency);
        assert_eq!(frequency, row(&[1.25, 0.75, 5.0, 2.0]));
    }

    #[test]
    fn drawn_elements_keep_the_mean() {
        let matrix = Matrix::new(100, 100, vec![1.0; 10_000]);
        let drawn = drawn(matrix, 0.25, &Stream::new(1, "x", 0));
        let mean = drawn.values.iter().sum::<f32>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.1, "{mean}");
        assert!(drawn.values.iter().all(|v| *v == 0.0 || *v == 4.0));
    }

    #[test]
    fn iso_makes_all_directions_equally_long() {
        let parts = parts(&[0.7, 0.4], &[2, 3], 1.0);
        let merged = run(Mixing::CoreSpace, &parts, options(5, Core::Iso));
        let spectrum = exact_svd(&merged).unwrap().s;
        let mean = exact_svd(&exact(&parts)).unwrap().s.iter().sum::<f32>() / 5.0;
        assert!(spectrum[..5].iter().all(|s| (s - mean).abs() < 1e-4 * mean), "{spectrum:?} {mean}");
    }
}
