//! Consensus merging: of a merged task vector, only what several tasks find important (TALL masks).
//! Wang et al. 2024, "Localizing task information for improved model merging and compression", arXiv:2405.07813.

use super::Default;
use super::task_vectors::{TaskVectorMethod, Trim};

pub static CONSENSUS_TASK_ARITHMETIC: TaskVectorMethod = TaskVectorMethod {
    name: "consensus_task_arithmetic",
    title: "Consensus task arithmetic (TALL masks)",
    formula: "v = sum of w_i d_i; task i finds an element important when |w_i d_i| > mask_lambda |v - w_i d_i|; out = base + lambda v where consensus_min tasks do",
    source: "https://arxiv.org/abs/2405.07813",
    advice: "many task vectors: drops what serves one task alone and what serves none",
    trim: Trim::All,
    elects: false,
    normalize: false,
    rescales: false,
    consensus: true,
    weight: Default::Number(1.0),
};

pub static CONSENSUS_TIES: TaskVectorMethod = TaskVectorMethod {
    name: "consensus_ties",
    title: "Consensus TIES (TALL masks)",
    formula: "v as merged by ties; then as for consensus_task_arithmetic",
    trim: Trim::Magnitude(20),
    elects: true,
    normalize: true,
    ..CONSENSUS_TASK_ARITHMETIC
};
