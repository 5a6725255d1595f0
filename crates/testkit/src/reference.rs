//! Every method straight from its formula, in f64, one element after the other. This is the specification that the
//! engine is compared with; it shares no code with it.

mod spheres;
mod task_vectors;

use serde_json::Value;

/// What a method is given of one tensor, as the engine's plan tells it in JSON.
pub struct Task<'a> {
    pub method: &'a str,
    pub parameters: &'a Value,
    pub x: &'a [&'a [f64]],
    /// A uniform number for an input and an element.
    pub draws: &'a dyn Fn(usize, u64) -> f64,
}

/// A result, and how far each element is from having come out otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    pub values: Vec<f64>,
    /// The element's magnitude equals a cut that does not keep all of its equals, or lies within rounding of a threshold.
    pub ties: Vec<bool>,
    /// |sum of the votes| over sum of |votes| where signs are elected: near 0, rounding may turn the vote.
    pub margins: Vec<f64>,
    /// How far every element may move, relative to its inputs, because elements at a cut that weigh in it are undecided.
    pub unsure: f64,
}

impl Merged {
    fn decided(values: Vec<f64>) -> Merged {
        Merged { ties: vec![false; values.len()], margins: vec![1.0; values.len()], values, unsure: 0.0 }
    }
}

impl Task<'_> {
    fn base(&self) -> usize {
        self.parameters["base"].as_u64().expect("the method has a base") as usize
    }

    fn optional_base(&self) -> Option<usize> {
        self.parameters["base"].as_u64().map(|b| b as usize)
    }

    fn others(&self) -> Vec<usize> {
        (0..self.x.len()).filter(|i| Some(*i) != self.optional_base()).collect()
    }

    fn elements(&self) -> usize {
        self.x[0].len()
    }

    /// Rows and columns, columns the last dimension.
    fn rows(&self) -> (usize, usize) {
        let columns = self.shape().last().copied().unwrap_or(1).max(1);
        (self.elements() / columns, columns)
    }

    fn shape(&self) -> Vec<usize> {
        self.parameters["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect()
    }

    fn number(&self, name: &str) -> f64 {
        self.parameters["shared"][name].as_f64().unwrap_or_else(|| panic!("no number {name}"))
    }

    fn flag(&self, name: &str) -> bool {
        self.parameters["shared"][name] == true
    }

    fn word(&self, name: &str) -> &str {
        self.parameters["shared"][name].as_str().unwrap_or("")
    }

    fn of(&self, input: usize, name: &str) -> Option<f64> {
        self.parameters["each"][input][name].as_f64()
    }

    fn map(&self, f: impl Fn(usize) -> f64) -> Merged {
        Merged::decided((0..self.elements()).map(f).collect())
    }
}

/// One tensor merged.
///
/// # Panics
/// On a method that has no reference.
pub fn merge(task: &Task<'_>) -> Merged {
    match task.method {
        "linear" => linear(task),
        "passthrough" => task.map(|e| task.x[0][e] * task.of(0, "scale").unwrap_or(1.0)),
        "slerp" => spheres::slerp(task),
        "nuslerp" => spheres::nuslerp(task),
        "multislerp" => spheres::multislerp(task),
        "karcher" => spheres::karcher(task),
        "model_stock" => spheres::model_stock(task),
        "nearswap" => nearswap(task),
        "ram" => ram(task, false),
        "ramplus_tl" => ram(task, true),
        "sce" => sce(task),
        "arcee_fusion" => arcee_fusion(task),
        "pcb" => pcb(task),
        "wise_ft" => preset(task, |a| a),
        "expo" => preset(task, |a| 1.0 + a),
        "chat_vector" => preset(task, |a| a),
        "negation" => preset(task, |a| -a),
        _ => task_vectors::merge(task),
    }
}

fn linear(task: &Task<'_>) -> Merged {
    let weights: Vec<f64> = (0..task.x.len()).map(|i| task.of(i, "weight").unwrap()).collect();
    let divisor = if task.flag("normalize") { weights.iter().sum() } else { 1.0 };
    task.map(|e| task.x.iter().zip(&weights).map(|(x, w)| x[e] * w).sum::<f64>() / divisor)
}

fn preset(task: &Task<'_>, coefficient: fn(f64) -> f64) -> Merged {
    let base = task.x[task.base()];
    task.map(|e| {
        let moved = |i: &usize| coefficient(task.of(*i, "alpha").unwrap()) * (task.x[*i][e] - base[e]);
        base[e] + task.others().iter().map(moved).sum::<f64>()
    })
}

fn nearswap(task: &Task<'_>) -> Merged {
    let (a, b) = (task.x[task.base()], task.x[task.others()[0]]);
    let t = task.number("t");
    task.map(|e| {
        let w = (t / (a[e] - b[e]).abs().max(1e-6)).clamp(0.0, 1.0);
        w * b[e] + (1.0 - w) * a[e]
    })
}

fn ram(task: &Task<'_>, plus: bool) -> Merged {
    let base = task.x[task.base()];
    let others = task.others();
    let epsilon = f64::from(task.number("epsilon") as f32);
    let delta = |i: usize, e: usize| task.x[i][e] - base[e];
    let touches = |i: usize, e: usize| delta(i, e).abs() > epsilon;
    let count = |e: usize| others.iter().filter(|i| touches(**i, e)).count();
    let strength = |i: usize| {
        if !plus {
            return 1.0;
        }
        let of = |wanted: &dyn Fn(usize) -> bool| {
            (0..task.elements()).filter(|e| touches(i, *e) && wanted(count(*e))).count() as f64
        };
        let (shared, unique) = (of(&|n| n > 1), of(&|n| n == 1));
        1.0 + task.number("r") * (shared / unique.max(task.number("epsilon"))).clamp(0.0, task.number("alpha"))
    };
    let strengths: Vec<f64> = others.iter().map(|i| strength(*i)).collect();
    let mut merged = task.map(|e| {
        let n = count(e);
        let share = |(k, i): (usize, &usize)| match (touches(*i, e), n) {
            (false, _) => 0.0,
            (true, 1) => delta(*i, e) * strengths[k],
            (true, n) => delta(*i, e) / n as f64,
        };
        base[e] + others.iter().enumerate().map(share).sum::<f64>()
    });
    // a delta within rounding of epsilon can fall either side
    merged.ties = (0..task.elements())
        .map(|e| others.iter().any(|i| (delta(*i, e).abs() - epsilon).abs() < 1e-7 * base[e].abs().max(epsilon)))
        .collect();
    merged
}

fn sce(task: &Task<'_>) -> Merged {
    let base = task.x[task.base()];
    let others = task.others();
    let n = task.elements();
    let topk = task.number("select_topk");
    if others.is_empty() || topk <= 0.0 {
        return Merged::decided(base.to_vec());
    }
    let mut deltas: Vec<Vec<f64>> =
        others.iter().map(|i| (0..n).map(|e| f64::from((task.x[*i][e] - base[e]) as f32)).collect()).collect();
    let mut ties = vec![false; n];
    let mut unsure = 0.0;
    if topk < 1.0 {
        let count = others.len() as f64;
        let variance = |e: usize| {
            let mean = deltas.iter().map(|d| d[e]).sum::<f64>() / count;
            deltas.iter().map(|d| (d[e] - mean) * (d[e] - mean)).sum::<f64>() / count
        };
        let variances: Vec<f64> = (0..n).map(variance).collect();
        let keep = (variances.iter().filter(|v| **v as f32 != 0.0).count() as f64 * topk) as usize;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| variances[*b].total_cmp(&variances[*a]).then(a.cmp(b)));
        for e in &order[keep..] {
            deltas.iter_mut().for_each(|d| d[*e] = 0.0);
        }
        let cut = order[..keep].last().map_or(f64::INFINITY, |e| variances[*e]);
        ties = variances.iter().map(|v| (v - cut).abs() <= 1e-5 * cut).collect();
        unsure = ties.iter().filter(|t| **t).count() as f64 / keep.max(1) as f64;
    }
    let energy: Vec<f64> = deltas.iter().map(|d| d.iter().map(|v| v * v).sum::<f64>() / n as f64).collect();
    let sum: f64 = energy.iter().sum();
    let weights: Vec<f64> =
        energy.iter().map(|e| if sum < 1e-6 { 1.0 / others.len() as f64 } else { e / sum }).collect();
    let mut merged = Merged { ties, unsure, ..Merged::decided(base.to_vec()) };
    for e in 0..n {
        let votes: Vec<f64> = deltas.iter().map(|d| d[e]).collect();
        let mass: f64 = votes.iter().sum();
        let total: f64 = votes.iter().map(|v| v.abs()).sum();
        merged.margins[e] = if total > 0.0 { mass.abs() / total } else { 1.0 };
        let agrees = |v: f64| if mass >= 0.0 { v > 0.0 } else { v < 0.0 };
        let kept = || votes.iter().zip(&weights).filter(|(v, _)| agrees(**v));
        let divisor: f64 = kept().map(|(_, w)| w).sum();
        merged.values[e] += kept().map(|(v, w)| v * w).sum::<f64>() / divisor.max(1e-6);
    }
    merged
}

fn arcee_fusion(task: &Task<'_>) -> Merged {
    let (a, b) = (task.x[task.base()], task.x[task.others()[0]]);
    let (rows, columns) = task.rows();
    let softmax = |row: &[f64]| -> Vec<f64> {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
        row.iter().map(|x| (x - max).exp() / sum + 1e-8).collect()
    };
    let mut scores = Vec::with_capacity(a.len());
    // what rounding in f32 may do to a row's divergence, relative to it: its terms are far larger than their sum
    let mut unsure = Vec::with_capacity(rows);
    for row in 0..rows {
        let span = row * columns..(row + 1) * columns;
        let (p, q) = (softmax(&b[span.clone()]), softmax(&a[span.clone()]));
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let moved: f64 = p.iter().zip(&q).map(|(p, q)| p * ((p / q).ln().abs() + 1.0)).sum();
        unsure.push(4.0 * 2f64.powi(-24) * moved / divergence.abs().max(f64::MIN_POSITIVE));
        scores.extend(span.map(|e| (b[e] - a[e]).abs() * divergence));
    }
    let mut sorted = scores.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| sorted[(q * (sorted.len() - 1) as f64).floor() as usize];
    let threshold = at(0.5) + 1.5 * (at(0.75) - at(0.25));
    let mut merged = task.map(|e| if scores[e] >= threshold { b[e] } else { a[e] });
    let mut sorted = unsure.clone();
    sorted.sort_by(f64::total_cmp);
    let of_threshold = sorted[sorted.len() / 2];
    let near = |(e, s): (usize, &f64)| (s - threshold).abs() <= (unsure[e / columns] + of_threshold) * threshold.abs();
    merged.ties = scores.iter().enumerate().map(near).collect();
    merged
}

fn pcb(task: &Task<'_>) -> Merged {
    let base = task.x[task.base()];
    let others = task.others();
    let n = task.elements();
    let delta = |i: usize, e: usize| f64::from((task.x[i][e] - base[e]) as f32);
    let share = |name: &str| ((task.number(name) * n as f64) as usize).max(1).min(n);
    let sum = |e: usize| others.iter().map(|i| delta(*i, e)).sum::<f64>();
    let mut ties = vec![false; n];
    let scores: Vec<Vec<f64>> = others
        .iter()
        .map(|i| {
            let mut sizes: Vec<f64> = (0..n).map(|e| delta(*i, e).abs()).collect();
            sizes.sort_by(|a, b| b.total_cmp(a));
            let clamp = sizes[share("clamp") - 1];
            let score = |e: usize| {
                let size = if clamp > 0.0 { delta(*i, e).abs().min(clamp) / clamp } else { 0.0 };
                ((others.len() as f64 * size * size).exp() * (delta(*i, e) * sum(e)).tanh()).max(0.0)
            };
            let scores: Vec<f64> = (0..n).map(score).collect();
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
            let (best, cut) = (scores[order[0]], scores[order[share("density") - 1]]);
            ties.iter_mut().zip(&scores).for_each(|(tie, s)| *tie |= (s - cut).abs() <= 1e-4 * cut);
            let mut kept = vec![0.0; n];
            for e in &order[..share("density")] {
                kept[*e] = if best > 0.0 { scores[*e] / best } else { 0.0 };
            }
            kept
        })
        .collect();
    let mut merged = task.map(|e| {
        let divisor: f64 = scores.iter().map(|s| s[e]).sum();
        let weighted = |(s, i): (&Vec<f64>, &usize)| s[e] * task.of(*i, "weight").unwrap() * delta(*i, e);
        let total: f64 = scores.iter().zip(&others).map(weighted).sum();
        base[e] + task.number("lambda") * total / if divisor > 0.0 { divisor } else { 1.0 }
    });
    merged.ties = ties;
    merged
}

pub use task_vectors::{magnitude, outliers};
