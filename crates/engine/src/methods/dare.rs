//! Task vectors with elements dropped at random and the rest scaled up, then added, or elected as TIES does.
//! Yu et al. 2023, "Language models are super Mario" (DARE), arXiv:2311.03099. The paper divides what is kept by its
//! probability (`rescale: expected`); mergekit, and the default here, keeps the L1 norm of the tensor.

use super::Default;
use super::task_vectors::{TaskVectorMethod, Trim};

pub static DARE_LINEAR: TaskVectorMethod = TaskVectorMethod {
    name: "dare_linear",
    title: "DARE (drop and rescale), added",
    formula: "out = base + lambda (sum of w_i r_i m_i (x_i - base)), m_i 1 with probability density, r_i the rescale",
    source: "https://arxiv.org/abs/2311.03099",
    advice: "many fine-tunes with small differences; density 0.1 to 0.5; a seed makes it repeatable",
    trim: Trim::Random,
    elects: false,
    normalize: false,
    rescales: true,
    consensus: false,
    weight: Default::Required,
};

pub static DARE_TIES: TaskVectorMethod = TaskVectorMethod {
    name: "dare_ties",
    title: "DARE with TIES",
    formula: "d_i = w_i r_i m_i (x_i - base); out = base + lambda (sum of d_i with the elected sign); with drop_rate, m_i is followed by a trim to density",
    source: "https://arxiv.org/abs/2311.03099",
    advice: "three or more fine-tunes that interfere; density about 0.5",
    trim: Trim::Random,
    elects: true,
    ..DARE_LINEAR
};
