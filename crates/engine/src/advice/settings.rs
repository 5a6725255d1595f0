//! Parameters as far as they can be known without a tensor: set plainly, not by a filter.

use recipe::{Setting, Value};

use super::Subject;
use crate::methods::Default;
use crate::parameters;
use crate::slices::{Slice, SliceSource};

/// A plain number or gradient, and where it is set.
pub(super) struct Plain {
    pub pointer: String,
    /// The number, or every point of the gradient.
    pub points: Vec<f64>,
}

/// What a parameter is set to for one source; `None` where nothing sets it, or a filter or a word does.
pub(super) fn plain(
    subject: &Subject<'_>,
    slice: &Slice<'_>,
    source: Option<&SliceSource<'_>>,
    name: &str,
) -> Option<Plain> {
    let (owner, setting) = nearest(subject, slice, source, name)?;
    if matches!(setting, Setting::Conditional(_)) {
        return None;
    }
    let points: Option<Vec<f64>> = setting.scalars().map(|scalar| scalar.number()).collect();
    Some(Plain { pointer: format!("{owner}/parameters/{name}"), points: points? })
}

pub(super) fn is_set(subject: &Subject<'_>, slice: &Slice<'_>, source: Option<&SliceSource<'_>>, name: &str) -> bool {
    nearest(subject, slice, source, name).is_some()
}

/// A switch of the whole slice, by its default where it is not set; `None` where a filter decides.
pub(super) fn switch(subject: &Subject<'_>, slice: &Slice<'_>, name: &str) -> Option<bool> {
    let Some((_, setting)) = nearest(subject, slice, None, name) else {
        let parameter = subject.about.parameters.iter().find(|p| p.name == name)?;
        return if let Default::Boolean(b) = parameter.default { Some(b) } else { None };
    };
    match setting {
        Setting::Plain(Value::Scalar(scalar)) => scalar.boolean(),
        _ => None,
    }
}

/// Values of a parameter at the first, the middle and the last layer, for each of some sources.
pub(super) fn along(
    subject: &Subject<'_>,
    slice: &Slice<'_>,
    sources: &[&SliceSource<'_>],
    name: &str,
) -> Option<[Vec<f64>; 3]> {
    let at = |t: f64| -> Option<Vec<f64>> {
        sources.iter().map(|source| number_at(subject, slice, source, name, t)).collect()
    };
    Some([at(0.0)?, at(0.5)?, at(1.0)?])
}

fn number_at(subject: &Subject<'_>, slice: &Slice<'_>, source: &SliceSource<'_>, name: &str, t: f64) -> Option<f64> {
    match nearest(subject, slice, Some(source), name) {
        Some((_, setting @ Setting::Plain(_))) => setting.at("", t)?.number(),
        Some((_, Setting::Conditional(_))) => None,
        None => match subject.about.parameters.iter().find(|p| p.name == name)?.default {
            Default::Number(n) | Default::WhenSetNowhere(n) => Some(n),
            _ => None,
        },
    }
}

fn nearest<'a>(
    subject: &'a Subject<'_>,
    slice: &'a Slice<'_>,
    source: Option<&'a SliceSource<'_>>,
    name: &str,
) -> Option<(&'a str, &'a Setting)> {
    parameters::levels(subject.recipe, slice, source)
        .find_map(|(owner, parameters)| Some((owner, parameters.get(name)?)))
}
