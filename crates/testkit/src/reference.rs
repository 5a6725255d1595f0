//! Every method straight from its formula, in f64, one element after the other. This is the specification that the
//! engine is compared with; it shares no code with it.

/// Inputs of one tensor and what a method needs to know.
pub struct Inputs<'a> {
    pub x: Vec<&'a [f64]>,
    pub base: Option<usize>,
}

/// A result, and how far each element is from having come out otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    pub values: Vec<f64>,
    /// The element's magnitude equals a cut that does not keep all of its equals.
    pub ties: Vec<bool>,
    /// |sum of the votes| over sum of |votes| where signs are elected: near 0, rounding may turn the vote.
    pub margins: Vec<f64>,
}

impl Merged {
    fn decided(values: Vec<f64>) -> Merged {
        Merged { ties: vec![false; values.len()], margins: vec![1.0; values.len()], values }
    }
}

pub fn linear(inputs: &Inputs<'_>, weights: &[f64], normalize: bool) -> Merged {
    let divisor = if normalize { weights.iter().sum() } else { 1.0 };
    let n = inputs.x[0].len();
    Merged::decided(
        (0..n).map(|e| inputs.x.iter().zip(weights).map(|(x, w)| x[e] * w).sum::<f64>() / divisor).collect(),
    )
}

pub fn slerp(inputs: &Inputs<'_>, t: f64) -> Merged {
    let base = inputs.base.unwrap();
    let (a, b) = (inputs.x[base], inputs.x[1 - base]);
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let length = |v: &[f64]| if norm(v) > 1e-8 { norm(v) } else { 1.0 };
    let cosine = (a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / length(a) / length(b)).clamp(-1.0, 1.0);
    let (of_a, of_b) = if cosine.abs() > 0.9995 {
        (1.0 - t, t)
    } else {
        let angle = cosine.acos();
        (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
    };
    Merged::decided(a.iter().zip(b).map(|(a, b)| of_a * a + of_b * b).collect())
}

pub fn passthrough(inputs: &Inputs<'_>, scale: Option<f64>) -> Merged {
    Merged::decided(inputs.x[0].iter().map(|x| x * scale.unwrap_or(1.0)).collect())
}

/// Parameters of the task-vector family; `weights` and `densities` by input, those of the base unused.
pub struct TaskVectors {
    pub weights: Vec<f64>,
    pub densities: Vec<f64>,
    pub elects: bool,
    pub normalize: bool,
    pub rescale: bool,
    pub lambda: f64,
}

pub fn task_vectors(inputs: &Inputs<'_>, parameters: &TaskVectors) -> Merged {
    let base = inputs.base.unwrap();
    let n = inputs.x[base].len();
    let (mut ties, mut margins) = (vec![false; n], vec![1.0; n]);
    let mut weighted = Vec::new();
    for (i, x) in inputs.x.iter().enumerate().filter(|(i, _)| *i != base) {
        let delta: Vec<f64> = x.iter().zip(inputs.x[base]).map(|(x, b)| x - b).collect();
        let (mut kept, tied) = magnitude(&delta, parameters.densities[i]);
        ties.iter_mut().zip(tied).for_each(|(t, tied)| *t |= tied);
        if parameters.rescale {
            rescale_l1(&delta, &mut kept);
        }
        weighted
            .push((parameters.weights[i], kept.into_iter().map(|d| d * parameters.weights[i]).collect::<Vec<f64>>()));
    }
    let mut values = Vec::with_capacity(n);
    for e in 0..n {
        let votes: Vec<(f64, f64)> = weighted.iter().map(|(w, d)| (*w, d[e])).collect();
        let mixed = if parameters.elects {
            margins[e] = margin(&votes);
            elected(&votes, parameters.normalize)
        } else {
            summed(&votes, parameters.normalize)
        };
        values.push(inputs.x[base][e] + parameters.lambda * mixed);
    }
    Merged { values, ties, margins }
}

fn summed(votes: &[(f64, f64)], normalize: bool) -> f64 {
    let sum: f64 = votes.iter().map(|(_, d)| d).sum();
    let weights: f64 = votes.iter().map(|(w, _)| w).sum();
    if normalize && weights.abs() >= 1e-8 { sum / weights } else { sum }
}

fn elected(votes: &[(f64, f64)], normalize: bool) -> f64 {
    let mass: f64 = votes.iter().map(|(_, d)| d).sum();
    let agrees = |d: f64| if mass >= 0.0 { d > 0.0 } else { d < 0.0 };
    let sum: f64 = votes.iter().filter(|(_, d)| agrees(*d)).map(|(_, d)| d).sum();
    let weights: f64 = votes.iter().filter(|(_, d)| agrees(*d)).map(|(w, _)| w).sum();
    if normalize && weights != 0.0 { sum / weights } else { sum }
}

fn margin(votes: &[(f64, f64)]) -> f64 {
    let mass: f64 = votes.iter().map(|(_, d)| d).sum();
    let total: f64 = votes.iter().map(|(_, d)| d.abs()).sum();
    if total > 0.0 { mass.abs() / total } else { 1.0 }
}

/// Keeps the `density` largest magnitudes. Ties are every element of the cut's magnitude, when not all of them are kept;
/// magnitudes are compared as f32, which is what deltas are held in.
pub fn magnitude(delta: &[f64], density: f64) -> (Vec<f64>, Vec<bool>) {
    let n = delta.len();
    if density >= 1.0 {
        return (delta.to_vec(), vec![false; n]);
    }
    if density <= 0.0 {
        return (vec![0.0; n], vec![false; n]);
    }
    let size = |e: usize| (delta[e] as f32).abs();
    let keep = ((density * n as f64) as usize).max(1).min(n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| size(*b).total_cmp(&size(*a)).then(a.cmp(b)));
    let mut kept = vec![0.0; n];
    for e in &order[..keep] {
        kept[*e] = delta[*e];
    }
    let cut = order.get(keep - 1).map(|e| size(*e));
    let split = keep < n && keep > 0 && Some(size(order[keep])) == cut;
    (kept, (0..n).map(|e| split && Some(size(e)) == cut).collect())
}

fn rescale_l1(delta: &[f64], kept: &mut [f64]) {
    let l1 = |v: &[f64]| v.iter().map(|d| d.abs()).sum::<f64>();
    let (all, left) = (l1(delta), l1(kept));
    if all >= 1e-7 && left >= 1e-7 {
        kept.iter_mut().for_each(|d| *d *= all / left);
    }
}
