//! Methods that see a tensor, or a row of it, as one vector with a length and a direction.

use super::{Merged, Task};

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn scaled(a: &[f64], factor: f64) -> Vec<f64> {
    a.iter().map(|a| a * factor).collect()
}

fn add(a: &mut [f64], b: &[f64], factor: f64) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

pub(super) fn slerp(task: &Task<'_>) -> Merged {
    let (a, b) = (task.x[task.base()], task.x[task.others()[0]]);
    let t = task.number("t");
    let length = |v: &[f64]| if norm(v) > 1e-8 { norm(v) } else { 1.0 };
    let cosine = (dot(a, b) / length(a) / length(b)).clamp(-1.0, 1.0);
    let (of_a, of_b) = if cosine.abs() > 0.9995 {
        (1.0 - t, t)
    } else {
        let angle = cosine.acos();
        (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
    };
    task.map(|e| of_a * a[e] + of_b * b[e])
}

pub(super) fn nuslerp(task: &Task<'_>) -> Merged {
    let others = task.others();
    let weight = |k: usize| task.of(others[k], "weight").unwrap();
    let sum = weight(0) + weight(1);
    let t = if sum.abs() < 1e-6 { 0.5 } else { weight(1) / sum };
    let origin = task.optional_base().map_or(vec![0.0; task.elements()], |b| task.x[b].to_vec());
    let from_origin = |i: usize| -> Vec<f64> { task.x[i].iter().zip(&origin).map(|(x, o)| x - o).collect() };
    let (a, b) = (from_origin(others[0]), from_origin(others[1]));
    let mut values = origin;
    for group in groups(task) {
        let pick = |v: &[f64]| -> Vec<f64> { group.iter().map(|e| v[*e]).collect() };
        let (va, vb) = (pick(&a), pick(&b));
        let cosine = (dot(&va, &vb) / norm(&va).max(1e-7) / norm(&vb).max(1e-7)).clamp(-1.0, 1.0);
        let (of_a, of_b) = if 1.0 - cosine * cosine <= 1e-16 {
            (1.0 - t, t)
        } else {
            let angle = cosine.acos();
            (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
        };
        for (k, e) in group.iter().enumerate() {
            values[*e] += of_a * va[k] + of_b * vb[k];
        }
    }
    Merged::decided(values)
}

/// Indices of the elements that make one vector together.
fn groups(task: &Task<'_>) -> Vec<Vec<usize>> {
    let n = task.elements();
    let shape = task.shape();
    if task.flag("nuslerp_flatten") {
        return vec![(0..n).collect()];
    }
    if task.flag("nuslerp_row_wise") && shape.len() > 1 {
        let columns = n / shape[0].max(1);
        return (0..columns).map(|c| (0..shape[0]).map(|r| r * columns + c).collect()).collect();
    }
    let (rows, columns) = task.rows();
    (0..rows).map(|r| (r * columns..(r + 1) * columns).collect()).collect()
}

pub(super) fn multislerp(task: &Task<'_>) -> Merged {
    let others = task.others();
    if others.len() == 1 {
        return Merged::decided(task.x[others[0]].to_vec());
    }
    let eps = task.number("eps");
    let mut weights: Vec<f64> = others.iter().map(|i| task.of(*i, "weight").unwrap()).collect();
    if task.flag("normalize_weights") {
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    let origin = task.optional_base().map_or(vec![0.0; task.elements()], |b| task.x[b].to_vec());
    let vectors: Vec<Vec<f64>> =
        others.iter().map(|i| task.x[*i].iter().zip(&origin).map(|(x, o)| x - o).collect()).collect();
    let units: Vec<Vec<f64>> = vectors.iter().map(|v| scaled(v, 1.0 / (norm(v) + eps))).collect();
    let mut mean = vec![0.0; task.elements()];
    units.iter().zip(&weights).for_each(|(u, w)| add(&mut mean, u, *w));
    let mut values = origin;
    if norm(&mean) < eps {
        vectors.iter().zip(&weights).for_each(|(v, w)| add(&mut values, v, *w));
        return Merged::decided(values);
    }
    let mean = scaled(&mean, 1.0 / norm(&mean));
    let mut tangent = vec![0.0; task.elements()];
    for (u, w) in units.iter().zip(&weights) {
        add(&mut tangent, u, *w);
        add(&mut tangent, &mean, -w * dot(u, &mean));
    }
    let angle = norm(&tangent) + eps;
    let length: f64 = vectors.iter().zip(&weights).map(|(v, w)| w * norm(v)).sum();
    add(&mut values, &mean, length * angle.cos());
    add(&mut values, &tangent, length * angle.sin() / angle);
    Merged::decided(values)
}

pub(super) fn karcher(task: &Task<'_>) -> Merged {
    if task.x.len() == 1 {
        return Merged::decided(task.x[0].to_vec());
    }
    let tol = task.number("tol");
    let norms: Vec<f64> = task.x.iter().map(|x| norm(x)).collect();
    let units: Vec<Vec<f64>> =
        task.x.iter().zip(&norms).filter(|(_, n)| **n > tol).map(|(x, n)| scaled(x, 1.0 / n)).collect();
    if units.is_empty() {
        return Merged::decided(vec![0.0; task.elements()]);
    }
    let share = 1.0 / units.len() as f64;
    let mut mean = vec![0.0; task.elements()];
    units.iter().for_each(|u| add(&mut mean, u, share));
    mean = if norm(&mean) < tol { units[0].clone() } else { scaled(&mean, 1.0 / norm(&mean)) };
    let mut near_tol = false;
    for _ in 0..task.number("max_iter") as usize {
        let mut tangent = vec![0.0; task.elements()];
        for u in &units {
            let cosine = dot(&mean, u).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle >= tol {
                add(&mut tangent, u, share * angle / angle.sin());
                add(&mut tangent, &mean, -share * angle / angle.sin() * cosine);
            }
        }
        let step = norm(&tangent);
        // whether such a step is the last is decided by rounding
        near_tol |= (step - tol).abs() < 0.05 * tol;
        if step < tol {
            break;
        }
        mean = scaled(&mean, step.cos());
        add(&mut mean, &tangent, step.sin() / step);
        let length = norm(&mean);
        if length > tol {
            mean = scaled(&mean, 1.0 / length);
        }
    }
    let merged = Merged::decided(scaled(&mean, norms.iter().sum::<f64>() / norms.len() as f64));
    Merged { unsure: if near_tol { tol } else { 0.0 }, ..merged }
}

pub(super) fn model_stock(task: &Task<'_>) -> Merged {
    let base = task.x[task.base()];
    let others = task.others();
    let n = others.len() as f64;
    let (rows, columns) = if task.flag("filter_wise") { task.rows() } else { (1, task.elements()) };
    let mut values = base.to_vec();
    for row in 0..rows {
        let span = row * columns..(row + 1) * columns;
        let deltas: Vec<Vec<f64>> =
            others.iter().map(|i| span.clone().map(|e| task.x[*i][e] - base[e]).collect()).collect();
        let mut cosines = Vec::new();
        for i in 0..deltas.len() {
            for j in i + 1..deltas.len() {
                let lengths = norm(&deltas[i]) * norm(&deltas[j]);
                cosines.push(if lengths > 0.0 {
                    (dot(&deltas[i], &deltas[j]) / lengths).clamp(-1.0, 1.0)
                } else {
                    0.0
                });
            }
        }
        let c = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let divisor = 1.0 + (n - 1.0) * c;
        let t = if divisor.abs() < 1e-6 { 0.0 } else { n * c / divisor };
        deltas.iter().for_each(|d| add(&mut values[span.clone()], d, t / n));
    }
    Merged::decided(values)
}
