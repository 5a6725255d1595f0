//! Where to begin: `t`, how many models at once, and what to do with the result.

use std::collections::BTreeSet;

use super::settings::plain;
use super::{Advice, Subject, figure};
use crate::check::base_of;
use crate::methods::Base;
use crate::slices::Slice;

/// How near to one of two models is as good as that model.
const T_EDGE: f64 = 0.05;

/// From here on models get in each other's way.
const MANY: usize = 3;

/// Methods that add or average all that models say, conflicting or not.
const TAKE_ALL: &[&str] = &["linear", "multislerp", "task_arithmetic", "dare_linear", "della_linear", "breadcrumbs"];

pub(super) fn t_at_edge(subject: &Subject<'_>) -> Vec<Advice> {
    each_t(subject, |points| {
        let t = figure(points[0]);
        let all = |holds: fn(&f64) -> bool| points.iter().all(holds);
        if points.iter().any(|t| !(0.0..=1.0).contains(t)) {
            return Some(
                "t lies outside 0 to 1, which goes beyond one of the models; begin between 0.3 and 0.5".into(),
            );
        }
        if all(|t| *t <= T_EDGE) {
            return Some(format!("at t = {t} the result is almost the base; begin between 0.3 and 0.5"));
        }
        all(|t| *t >= 1.0 - T_EDGE)
            .then(|| format!("at t = {t} the result is almost the other model; begin between 0.3 and 0.5"))
    })
}

pub(super) fn one_t_for_all(subject: &Subject<'_>) -> Vec<Advice> {
    each_t(subject, |points| match points {
        [t] if (T_EDGE..1.0 - T_EDGE).contains(t) => Some(format!(
            "every tensor that this is for has t = {0}; attention and MLP often want different values: compare with `t: [{{filter: self_attn, value: 0.3}}, {{filter: mlp, value: 0.7}}, {{value: {0}}}]`",
            figure(*t)
        )),
        _ => None,
    })
}

/// `t` of slerp, where no filter sets it; nearswap's is another thing.
fn each_t(subject: &Subject<'_>, look: impl Fn(&[f64]) -> Option<String>) -> Vec<Advice> {
    if subject.about.name != "slerp" {
        return Vec::new();
    }
    let advice = |slice: &Slice<'_>| {
        let t = plain(subject, slice, None, "t")?;
        Some(Advice { detail: look(&t.points)?, pointer: t.pointer })
    };
    subject.slices.iter().filter_map(advice).collect()
}

pub(super) fn many_models(subject: &Subject<'_>) -> Vec<Advice> {
    if !TAKE_ALL.contains(&subject.about.name) {
        return Vec::new();
    }
    let count = |slice: &Slice<'_>| {
        let is_base = subject.about.inputs.base != Base::Ordinary && base_of(subject.about, slice).is_some();
        slice.sources.len() - usize::from(is_base)
    };
    let Some(slice) = subject.slices.iter().max_by_key(|slice| count(slice)).filter(|s| count(s) >= MANY) else {
        return Vec::new();
    };
    let detail = format!(
        "{} models at once: compare with `ties` or `dare_ties`, which settle conflicts between them (none is best everywhere), and merge gradually, so that each step can be measured",
        count(slice)
    );
    vec![Advice { pointer: slice.pointer.clone(), detail }]
}

pub(super) fn evaluate(subject: &Subject<'_>) -> Vec<Advice> {
    let models: BTreeSet<_> = subject.slices.iter().flat_map(|s| &s.sources).map(|s| s.model).collect();
    if models.len() < 2 {
        return Vec::new();
    }
    let mut detail = "compare the result with each of its parents on several tasks before it is used; a merge can lose what they could do".to_owned();
    if subject.has("weight") {
        detail += "; where it did, take less of the others in the first and last layers, by a gradient such as `weight: [0.2, 0.5, 0.2]`";
    }
    vec![Advice { pointer: String::new(), detail }]
}
