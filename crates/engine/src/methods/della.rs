//! Task vectors with elements dropped at random, large ones more rarely: the probability rises with the magnitude's rank
//! in its row. Deep et al. 2024, "DELLA-Merging", arXiv:2406.11617.

use super::Default;
use super::task_vectors::{TaskVectorMethod, Trim};

pub static DELLA: TaskVectorMethod = TaskVectorMethod {
    name: "della",
    title: "DELLA (drop by rank) with TIES",
    formula: "p = density - epsilon + 2 epsilon rank/(n-1) in each row; d_i = w_i r_i m_i (x_i - base), m_i 1 with probability p; then as ties",
    source: "https://arxiv.org/abs/2406.11617",
    advice: "like dare_ties, kinder to large changes; density 0.5, epsilon below density and 1 - density",
    trim: Trim::Ranked,
    elects: true,
    normalize: true,
    rescales: true,
    consensus: false,
    weight: Default::Required,
};

pub static DELLA_LINEAR: TaskVectorMethod = TaskVectorMethod {
    name: "della_linear",
    title: "DELLA (drop by rank), added",
    formula: "p as for della; out = base + lambda (sum of w_i r_i m_i (x_i - base))",
    elects: false,
    normalize: false,
    ..DELLA
};
