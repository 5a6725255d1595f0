//! Task vectors trimmed to their largest magnitudes, a sign elected per element by the sum of what is left, and what
//! agrees with it averaged. Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708.

use super::Default;
use super::task_vectors::{TaskVectorMethod, Trim};

pub static TIES: TaskVectorMethod = TaskVectorMethod {
    name: "ties",
    title: "TIES (trim, elect sign, disjoint merge)",
    formula: "d_i = w_i trim(x_i - base, density); s = sign(sum of d_i), 0 counts as plus; out = base + lambda (sum of d_i with sign s) / (sum of w_i with sign s)",
    source: "https://arxiv.org/abs/2306.01708",
    advice: "fine-tunes that pull in opposite directions; density 0.5 to 0.8 is safe, 0.1 to 0.3 aggressive",
    trim: Trim::Magnitude(100),
    elects: true,
    normalize: true,
    rescales: false,
    consensus: false,
    weight: Default::Required,
};
