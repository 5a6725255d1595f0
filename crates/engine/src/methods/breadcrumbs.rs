//! Task vectors without their smallest and their very largest elements.
//! Davari and Belilovsky 2023, "Model breadcrumbs", arXiv:2312.06795.

use super::Default;
use super::task_vectors::{TaskVectorMethod, Trim};

pub static BREADCRUMBS: TaskVectorMethod = TaskVectorMethod {
    name: "breadcrumbs",
    title: "Model breadcrumbs",
    formula: "of |x_i - base| in order, drop the gamma largest and keep density below them; out = base + lambda (sum of w_i kept)",
    source: "https://arxiv.org/abs/2312.06795",
    advice: "fine-tunes with outliers; density 0.85 to 0.95, gamma 0.01",
    trim: Trim::Outliers,
    elects: false,
    normalize: false,
    rescales: false,
    consensus: false,
    weight: Default::Required,
};

pub static BREADCRUMBS_TIES: TaskVectorMethod = TaskVectorMethod {
    name: "breadcrumbs_ties",
    title: "Model breadcrumbs with TIES",
    formula: "trim as for breadcrumbs; then a sign is elected as for ties",
    elects: true,
    ..BREADCRUMBS
};
