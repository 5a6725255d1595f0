//! Weights: shares of an average, factors of task vectors.

use super::settings::{along, plain, switch};
use super::{Advice, Subject, figure, list};
use crate::check::base_of;
use crate::methods::{Base, Scope};
use crate::slices::{Slice, SliceSource};

/// Weights written as thirds to two digits sum to 0.99.
const SUM_TOLERANCE: f64 = 0.02;

/// A share above which the other models hardly count.
const ONE_SIDED_SHARE: f64 = 0.949;

/// Task vectors of one base share much of what was learned: two of weight 0.8 are well, three of weight 1 are not.
const ADDED_WEIGHT_MAX: f64 = 2.0;

/// Averages whose weights are no shares.
pub(super) fn do_not_sum(subject: &Subject<'_>) -> Vec<Advice> {
    if subject.about.inputs.base != Base::Ordinary || !subject.has("weight") {
        return Vec::new();
    }
    each_slice(subject, |slice, [first, middle, last]| {
        let normalized = switch(subject, slice, "normalize")?;
        let off = [first, middle, last].into_iter().find(|w| (sum(w) - 1.0).abs() > SUM_TOLERANCE)?;
        let total = sum(off);
        if first != last || first != middle {
            let then =
                if normalized { "`normalize` divides by that" } else { "`normalize` is off, so values grow by that" };
            return Some(format!(
                "the weights sum to {} at the first layer and to {} at the last, and {then}: let them sum to 1 everywhere",
                figure(sum(first)),
                figure(sum(last))
            ));
        }
        let equal = off.windows(2).all(|pair| pair[0] == pair[1]);
        if total == 0.0 || (normalized && equal) {
            return None;
        }
        Some(if normalized {
            format!(
                "the weights sum to {}; `normalize` divides by that, so they mean the shares {}: let them sum to 1 to see what is merged",
                figure(total),
                list(off.iter().map(|w| w / total))
            )
        } else {
            format!(
                "the weights sum to {} and `normalize` is off, so every value comes out {0} times what the models have: let them sum to 1",
                figure(total)
            )
        })
    })
}

/// 0.95 and 0.05: one model with a little noise.
pub(super) fn one_sided(subject: &Subject<'_>) -> Vec<Advice> {
    each_slice(subject, |_, along| {
        let first = &along[0];
        let is_one_sided = |w: &Vec<f64>| w.iter().all(|w| *w > 0.0) && largest(w) / sum(w) >= ONE_SIDED_SHARE;
        if first.len() < 2 || !along.iter().all(is_one_sided) {
            return None;
        }
        Some(format!(
            "weights of {} leave all but one model almost without effect; begin between 0.3 and 0.7",
            list(first.iter().copied())
        ))
    })
}

/// A model that is read for nothing.
pub(super) fn zero(subject: &Subject<'_>) -> Vec<Advice> {
    if !subject.has("weight") {
        return Vec::new();
    }
    let of_slice = |slice| weighted(subject, slice).into_iter().map(move |source| (slice, source));
    subject
        .slices
        .iter()
        .flat_map(of_slice)
        .filter_map(|(slice, source)| {
            let weight = plain(subject, slice, Some(source), "weight")?;
            weight.points.iter().all(|w| *w == 0.0).then(|| Advice {
                pointer: weight.pointer,
                detail: "a weight of 0 gives this model no part in the merge, though it is read; remove the model, or give it a weight from 0.3 on".into(),
            })
        })
        .collect()
}

/// Whole task vectors added until the model answers nothing.
pub(super) fn too_much(subject: &Subject<'_>) -> Vec<Advice> {
    if subject.about.inputs.base != Base::Required || !subject.has("lambda") || !subject.has("normalize") {
        return Vec::new();
    }
    each_slice(subject, |slice, along| {
        if switch(subject, slice, "normalize")? {
            return None;
        }
        let lambda = plain(subject, slice, None, "lambda").map_or(1.0, |lambda| largest(&lambda.points));
        let added = |w: &Vec<f64>| w.iter().map(|w| w.abs()).sum::<f64>() * lambda.abs();
        let most = along.iter().map(added).fold(0.0, f64::max);
        (most > ADDED_WEIGHT_MAX).then(|| {
            format!(
                "task vectors are added with a total weight of {}; fine-tunes share much of what they learned, so this overshoots: begin with 0.3 to 0.5 each, or set `normalize: true`",
                figure(most)
            )
        })
    })
}

/// One piece of advice for each slice whose weights are known at three depths, put at the slice.
fn each_slice(subject: &Subject<'_>, look: impl Fn(&Slice<'_>, &[Vec<f64>; 3]) -> Option<String>) -> Vec<Advice> {
    if !subject.has("weight") {
        return Vec::new();
    }
    let advice = |slice: &Slice<'_>| {
        let weights = along(subject, slice, &weighted(subject, slice), "weight")?;
        Some(Advice { pointer: slice.pointer.clone(), detail: look(slice, &weights)? })
    };
    subject.slices.iter().filter_map(advice).collect()
}

/// The sources that have a weight: all, or all but the base.
fn weighted<'a>(subject: &Subject<'_>, slice: &'a Slice<'a>) -> Vec<&'a SliceSource<'a>> {
    let of_base = subject.about.parameters.iter().any(|p| p.name == "weight" && p.scope == Scope::EachInput);
    let base = base_of(subject.about, slice).filter(|_| !of_base);
    slice.sources.iter().enumerate().filter(|(i, _)| Some(*i) != base).map(|(_, source)| source).collect()
}

fn sum(weights: &[f64]) -> f64 {
    weights.iter().sum()
}

fn largest(weights: &[f64]) -> f64 {
    weights.iter().copied().fold(f64::MIN, f64::max)
}
