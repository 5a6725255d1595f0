//! Methods that add trimmed task vectors to a base.

use super::{Merged, Task};

/// A trimmed task vector, and which of its elements sat at a cut.
struct Trimmed {
    weight: f64,
    kept: Vec<f64>,
    ties: Vec<bool>,
}

pub(super) fn merge(task: &Task<'_>) -> Merged {
    let base = task.x[task.base()];
    let n = task.elements();
    let others = task.others();
    let vectors: Vec<Trimmed> = others.iter().map(|i| trim(task, *i)).collect();
    let elects = matches!(task.method, "ties" | "dare_ties" | "della" | "breadcrumbs_ties" | "consensus_ties");
    let mut merged = Merged::decided(Vec::with_capacity(n));
    merged.ties = vec![false; n];
    merged.margins = vec![1.0; n];
    let scale = task.number("lambda") * lines(task);
    for (e, start) in base.iter().enumerate() {
        let votes: Vec<(f64, f64)> = vectors.iter().map(|v| (v.weight, v.kept[e] * v.weight)).collect();
        merged.ties[e] = vectors.iter().any(|v| v.ties[e]);
        let mut sum = if elects {
            merged.margins[e] = margin(&votes, task.word("sign_method") == "count");
            elected(&votes, task.flag("normalize"), task.word("sign_method") == "count")
        } else {
            summed(&votes, task.flag("normalize"))
        };
        if task.method.starts_with("consensus_") {
            let lambda = task.number("mask_lambda");
            let parts: Vec<f64> =
                others.iter().zip(&vectors).map(|(i, v)| v.weight * (task.x[*i][e] - start)).collect();
            let agreeing = parts.iter().filter(|d| d.abs() > lambda * (sum - **d).abs()).count();
            merged.ties[e] |= parts.iter().any(|d| (d.abs() - lambda * (sum - d).abs()).abs() < 1e-5 * d.abs());
            sum = if agreeing as f64 >= task.number("consensus_min") { sum } else { 0.0 };
        }
        merged.values.push(start + scale * sum);
    }
    merged
}

fn lines(task: &Task<'_>) -> f64 {
    let shared = &task.parameters["shared"];
    match (shared["lines_alpha"].as_f64(), shared["lines_beta"].as_f64()) {
        (None, None) => 1.0,
        (alpha, beta) => alpha.unwrap_or(1.0) + beta.unwrap_or(0.0) * task.parameters["depth"].as_f64().unwrap_or(0.0),
    }
}

fn trim(task: &Task<'_>, input: usize) -> Trimmed {
    let base = task.x[task.base()];
    let delta: Vec<f64> = task.x[input].iter().zip(base).map(|(x, b)| x - b).collect();
    let n = delta.len();
    let density = task.of(input, "density").unwrap_or(1.0);
    let mut ties = vec![false; n];
    let mut kept = delta.clone();
    match task.method {
        "ties" | "consensus_ties" => (kept, ties) = magnitude(&delta, density),
        "breadcrumbs" | "breadcrumbs_ties" => {
            (kept, ties) = outliers(&delta, density, task.of(input, "gamma").unwrap())
        }
        "dare_linear" | "dare_ties" => {
            let keep = task.of(input, "drop_rate").map_or(density, |drop| 1.0 - drop);
            drop_randomly(task, input, &mut kept, &|_| keep);
            if keep > 0.0 && keep < 1.0 && task.word("rescale") == "expected" {
                kept.iter_mut().for_each(|d| *d /= f64::from(keep as f32));
            }
        }
        "della" | "della_linear" if density < 1.0 => {
            let probabilities = rank_probabilities(task, &delta, density, task.of(input, "epsilon").unwrap());
            drop_randomly(task, input, &mut kept, &|e| probabilities[e]);
            if task.word("rescale") == "expected" {
                kept.iter_mut().zip(&probabilities).for_each(|(d, p)| *d /= p);
            }
        }
        _ => {}
    }
    if task.word("rescale") == "l1" {
        let l1 = |v: &[f64]| v.iter().map(|d| d.abs()).sum::<f64>();
        let (all, left) = (l1(&delta), l1(&kept));
        if all >= 1e-7 && left >= 1e-7 {
            kept.iter_mut().for_each(|d| *d *= all / left);
        }
    }
    if task.of(input, "drop_rate").is_some() {
        (kept, ties) = magnitude(&kept, density);
    }
    Trimmed { weight: task.of(input, "weight").unwrap(), kept, ties }
}

fn drop_randomly(task: &Task<'_>, input: usize, kept: &mut [f64], probability: &dyn Fn(usize) -> f64) {
    for (e, d) in kept.iter_mut().enumerate() {
        let p = probability(e);
        let stays = p >= 1.0 || (p > 0.0 && (task.draws)(input, e as u64) < f64::from(p as f32));
        *d = if stays { *d } else { 0.0 };
    }
}

/// Rank within its row (a vector is one row; further dimensions are ranked along the second), ties by index.
fn rank_probabilities(task: &Task<'_>, delta: &[f64], density: f64, epsilon: f64) -> Vec<f64> {
    let shape = task.shape();
    let (length, stride) = if shape.len() < 2 { (delta.len(), 1) } else { (shape[1], shape[2..].iter().product()) };
    let mut probabilities = vec![0.0; delta.len()];
    for start in (0..delta.len()).step_by((length * stride).max(1)) {
        for column in 0..stride {
            let index = |i: usize| start + i * stride + column;
            let mut order: Vec<usize> = (0..length).collect();
            order.sort_by(|a, b| {
                (delta[index(*a)] as f32).abs().total_cmp(&(delta[index(*b)] as f32).abs()).then(a.cmp(b))
            });
            for (rank, i) in order.into_iter().enumerate() {
                let place = if length > 1 { rank as f64 / (length - 1) as f64 } else { 0.5 };
                probabilities[index(i)] = density - epsilon + 2.0 * epsilon * place;
            }
        }
    }
    probabilities
}

fn summed(votes: &[(f64, f64)], normalize: bool) -> f64 {
    let sum: f64 = votes.iter().map(|(_, d)| d).sum();
    let weights: f64 = votes.iter().map(|(w, _)| w).sum();
    if normalize && weights.abs() >= 1e-8 { sum / weights } else { sum }
}

fn ballot(votes: &[(f64, f64)], by_count: bool) -> f64 {
    votes.iter().map(|(_, d)| if by_count && *d != 0.0 { d.signum() } else { *d }).sum()
}

fn elected(votes: &[(f64, f64)], normalize: bool, by_count: bool) -> f64 {
    let mass = ballot(votes, by_count);
    let agrees = |d: f64| if mass >= 0.0 { d > 0.0 } else { d < 0.0 };
    let sum: f64 = votes.iter().filter(|(_, d)| agrees(*d)).map(|(_, d)| d).sum();
    let weights: f64 = votes.iter().filter(|(_, d)| agrees(*d)).map(|(w, _)| w).sum();
    if normalize && weights != 0.0 { sum / weights } else { sum }
}

fn margin(votes: &[(f64, f64)], by_count: bool) -> f64 {
    let total: f64 = votes.iter().map(|(_, d)| d.abs()).sum();
    if total > 0.0 && !by_count { ballot(votes, false).abs() / total } else { 1.0 }
}

/// In order of magnitude as f32, which is what deltas are held in; largest first, ties by index.
fn by_magnitude(delta: &[f64]) -> Vec<usize> {
    let size = |e: usize| (delta[e] as f32).abs();
    let mut order: Vec<usize> = (0..delta.len()).collect();
    order.sort_by(|a, b| size(*b).total_cmp(&size(*a)).then(a.cmp(b)));
    order
}

/// Elements whose magnitude equals that at a cut of `keep` when the cut splits a group of equals.
fn at_cut(delta: &[f64], order: &[usize], keep: usize) -> Vec<bool> {
    let size = |e: usize| (delta[e] as f32).abs();
    let split = keep > 0 && keep < order.len() && size(order[keep]) == size(order[keep - 1]);
    (0..delta.len()).map(|e| split && size(e) == size(order[keep])).collect()
}

/// Keeps the `density` largest magnitudes, and says which elements tie at the cut.
pub fn magnitude(delta: &[f64], density: f64) -> (Vec<f64>, Vec<bool>) {
    let n = delta.len();
    if density >= 1.0 {
        return (delta.to_vec(), vec![false; n]);
    }
    if density <= 0.0 || n == 0 {
        return (vec![0.0; n], vec![false; n]);
    }
    let keep = ((density * n as f64) as usize).max(1);
    let order = by_magnitude(delta);
    let mut kept = vec![0.0; n];
    order[..keep].iter().for_each(|e| kept[*e] = delta[*e]);
    (kept, at_cut(delta, &order, keep))
}

/// Keeps `density` of the magnitudes below the `gamma` largest; fewer are outliers where both do not fit.
pub fn outliers(delta: &[f64], density: f64, gamma: f64) -> (Vec<f64>, Vec<bool>) {
    let n = delta.len();
    if density >= 1.0 {
        return (delta.to_vec(), vec![false; n]);
    }
    let target = (density.max(0.0) * n as f64) as usize;
    let top = ((gamma * n as f64) as usize).min(n - target);
    let order = by_magnitude(delta);
    let mut kept = vec![0.0; n];
    order[top..top + target].iter().for_each(|e| kept[*e] = delta[*e]);
    let (inner, outer) = (at_cut(delta, &order, top), at_cut(delta, &order, top + target));
    (kept, inner.iter().zip(outer).map(|(a, b)| *a || b).collect())
}
