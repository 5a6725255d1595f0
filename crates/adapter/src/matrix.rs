//! Dense matrices of f32, row by row, and the factorisations that adapters need.
//!
//! Invariant: everything here runs on the thread that calls it, so that no result depends on how many there are.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as sequence_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply_sequence,
};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Conj, Mat, MatMut, MatRef, Par};

use crate::AdapterError;

/// rows × columns, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f32>,
}

/// A = U diag(s) Vᵀ with the largest value first.
#[derive(Debug, Clone, PartialEq)]
pub struct Svd {
    pub u: Matrix,
    pub s: Vec<f32>,
    pub v: Matrix,
}

impl Matrix {
    pub fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix { rows, columns, values: vec![0.0; rows * columns] }
    }

    /// # Panics
    /// When there are not `rows * columns` values.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Matrix {
        assert_eq!(values.len(), rows * columns, "a matrix has a value for each row and column");
        Matrix { rows, columns, values }
    }

    pub fn transposed(&self) -> Matrix {
        let values = (0..self.columns).flat_map(|c| (0..self.rows).map(move |r| self.values[r * self.columns + c]));
        Matrix::new(self.columns, self.rows, values.collect())
    }

    /// The first `count` columns.
    pub fn first_columns(&self, count: usize) -> Matrix {
        let values = self.values.chunks(self.columns.max(1)).flat_map(|row| &row[..count]).copied().collect();
        Matrix::new(self.rows, count, values)
    }

    /// Each column times its factor.
    pub fn scale_columns(&mut self, factors: &[f32]) {
        for row in self.values.chunks_mut(self.columns.max(1)) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
        }
    }

    pub fn times(&self, right: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.rows, right.columns);
        multiply(self.view(), right.view(), &mut product.values);
        product
    }

    /// Rows `first..` of this times `right`: as many as `out` has room for.
    pub fn rows_times(&self, first: usize, right: &Matrix, out: &mut [f32]) {
        let rows = out.len() / right.columns;
        multiply(self.view().get(first..first + rows, ..), right.view(), out);
    }

    /// Columns `first..` of this, as rows, times `right`: as many as `out` has room for.
    pub fn columns_times(&self, first: usize, right: &Matrix, out: &mut [f32]) {
        let columns = out.len() / right.columns;
        multiply(self.view().get(.., first..first + columns).transpose(), right.view(), out);
    }

    fn view(&self) -> MatRef<'_, f32> {
        MatRef::from_row_major_slice(&self.values, self.rows, self.columns)
    }

    fn to_columns(&self) -> Mat<f32> {
        self.view().to_owned()
    }

    fn of(view: MatRef<'_, f32>) -> Matrix {
        let (rows, columns) = view.shape();
        let values = (0..rows).flat_map(|r| (0..columns).map(move |c| view[(r, c)])).collect();
        Matrix { rows, columns, values }
    }
}

fn multiply(left: MatRef<'_, f32>, right: MatRef<'_, f32>, out: &mut [f32]) {
    let out = MatMut::from_row_major_slice_mut(out, left.nrows(), right.ncols());
    faer::linalg::matmul::matmul(out, Accum::Replace, left, right, 1.0, Par::Seq);
}

/// A = Q R with orthonormal columns in Q; thin.
pub fn qr(a: &Matrix) -> (Matrix, Matrix) {
    let mut packed = a.to_columns();
    let (rows, columns) = packed.shape();
    let size = rows.min(columns);
    let block = recommended_block_size::<f32>(rows, columns);
    let mut coefficients = Mat::zeros(block, size);
    let scratch = qr_in_place_scratch::<f32>(rows, columns, block, Par::Seq, Default::default());
    qr_in_place(
        packed.as_mut(),
        coefficients.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    );
    let r = (0..size).flat_map(|r| (0..columns).map(move |c| (r, c)));
    let r = Matrix::new(size, columns, r.map(|(r, c)| if r <= c { packed[(r, c)] } else { 0.0 }).collect());
    let mut q = Mat::identity(rows, size);
    let scratch = sequence_scratch::<f32>(rows, block, size);
    apply_sequence(
        packed.get(.., ..size),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    (Matrix::of(q.as_ref()), r)
}

/// The thin decomposition of a matrix whose smaller side is small.
pub fn exact_svd(a: &Matrix) -> Result<Svd, AdapterError> {
    let a = a.to_columns();
    let (rows, columns) = a.shape();
    let size = rows.min(columns);
    let (mut u, mut s, mut v) = (Mat::zeros(rows, size), Diag::zeros(size), Mat::zeros(columns, size));
    let thin = ComputeSvdVectors::Thin;
    let scratch = svd_scratch::<f32>(rows, columns, thin, thin, Par::Seq, Default::default());
    svd(
        a.as_ref(),
        s.as_mut(),
        Some(u.as_mut()),
        Some(v.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|_| AdapterError::NoConvergence { rows, columns })?;
    let s = (0..size).map(|i| s.column_vector()[i]).collect();
    Ok(Svd { u: Matrix::of(u.as_ref()), s, v: Matrix::of(v.as_ref()) })
}
