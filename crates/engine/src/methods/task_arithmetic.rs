//! Task vectors added: `out = base + lambda * sum of w_i (x_i - base)`.
//! Ilharco et al. 2022, "Editing models with task arithmetic", arXiv:2212.04089.

use super::Default;
use super::task_vectors::{TaskVectorMethod, Trim};

pub static TASK_ARITHMETIC: TaskVectorMethod = TaskVectorMethod {
    name: "task_arithmetic",
    title: "Task arithmetic",
    formula: "out = base + lambda (sum of w_i (x_i - base)); with normalize, the sum over the sum of w_i",
    source: "https://arxiv.org/abs/2212.04089",
    advice: "several fine-tunes of one base, each good at something else; weights of 0.3 to 0.6 for three, less for more",
    trim: Trim::All,
    elects: false,
    normalize: false,
    rescales: false,
    consensus: false,
    weight: Default::Required,
};
