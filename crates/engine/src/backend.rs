//! Where kernels run. A backend knows two operations, and sees tensors only as spans of raw bytes.

pub mod cpu;

use checkpoint::Dtype;

use crate::ExecuteError;
use crate::kernel::Kernel;
use crate::statistic::{Reduced, Statistic};

pub trait Backend: Sync {
    /// Reduces all elements of the inputs to a statistic, in a fixed tree whose shape depends on the tensor alone.
    fn reduce(&self, statistic: &Statistic, inputs: &dyn TensorInputs) -> Result<Reduced, ExecuteError>;

    /// Makes every output element.
    fn combine(
        &self,
        kernel: &dyn Kernel,
        inputs: &dyn TensorInputs,
        output: &dyn TensorOutput,
    ) -> Result<(), ExecuteError>;
}

/// The inputs of one tensor task, all of the same shape.
pub trait TensorInputs: Sync {
    fn count(&self) -> usize;
    fn elements(&self) -> u64;
    fn dtype(&self, input: usize) -> Dtype;
    /// Fills `buffer` with the little-endian values of `input` from element `at` on.
    fn read(&self, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError>;
}

/// The place of one output tensor.
pub trait TensorOutput: Sync {
    fn dtype(&self) -> Dtype;
    /// Writes little-endian values from element `at` on.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ExecuteError>;
    /// Told of an element that is NaN or infinite though all of its inputs are finite; an error stops the merge.
    fn not_finite(&self, element: u64) -> Result<(), ExecuteError>;
}
