//! How much of a task vector is kept.

use super::settings::{is_set, plain};
use super::{Advice, Subject, figure};
use crate::check::base_of;
use crate::methods::{Default, Scope};
use crate::slices::{Slice, SliceSource};

/// Below this little is left of what was learned.
const DENSITY_LOW: f64 = 0.1;
const DROP_RATE_HIGH: f64 = 0.99;

const WHERE_TO_BEGIN: &str = "begin at 0.8, try 0.5, and go back to 0.9 where quality is lost";

pub(super) fn at_edge(subject: &Subject<'_>) -> Vec<Advice> {
    let density = subject.about.parameters.iter().find(|p| p.name == "density");
    let Some(density) = density.filter(|p| p.scope == Scope::EachInputButBase) else { return Vec::new() };
    // outliers are dropped at any density
    let may_be_whole = subject.has("gamma");
    let keeps_all = density.default == Default::Number(1.0) && !may_be_whole;
    let of_slice = |slice: &Slice<'_>| -> Vec<Advice> {
        let base = base_of(subject.about, slice);
        let others = slice.sources.iter().enumerate().filter(|(i, _)| Some(*i) != base);
        others
            .filter_map(|(_, source)| {
                low(subject, slice, source)
                    .or_else(|| if may_be_whole { None } else { whole(subject, slice, source) })
                    .or_else(|| if keeps_all { unset(subject, slice, source) } else { None })
            })
            .collect()
    };
    subject.slices.iter().flat_map(of_slice).collect()
}

fn low(subject: &Subject<'_>, slice: &Slice<'_>, source: &SliceSource<'_>) -> Option<Advice> {
    if let Some(rate) = plain(subject, slice, Some(source), "drop_rate")
        && rate.points.iter().all(|p| *p >= DROP_RATE_HIGH)
    {
        let detail = format!(
            "a drop_rate of {} leaves almost nothing of what the model learned; 0.5 to 0.9 is usual",
            figure(rate.points[0])
        );
        return Some(Advice { pointer: rate.pointer, detail });
    }
    let density = plain(subject, slice, Some(source), "density")?;
    density.points.iter().all(|p| *p < DENSITY_LOW).then(|| Advice {
        detail: format!(
            "a density of {} keeps so little that most of what the model learned is lost; {WHERE_TO_BEGIN}",
            figure(density.points[0])
        ),
        pointer: density.pointer,
    })
}

fn whole(subject: &Subject<'_>, slice: &Slice<'_>, source: &SliceSource<'_>) -> Option<Advice> {
    let density = plain(subject, slice, Some(source), "density")?;
    let drops_first = is_set(subject, slice, Some(source), "drop_rate");
    (!drops_first && density.points.iter().all(|p| *p >= 1.0)).then(|| Advice {
        pointer: density.pointer,
        detail: format!("a density of 1 drops nothing of this model; {WHERE_TO_BEGIN}"),
    })
}

fn unset(subject: &Subject<'_>, slice: &Slice<'_>, source: &SliceSource<'_>) -> Option<Advice> {
    let decides = |name| is_set(subject, slice, Some(source), name);
    (!decides("density") && !decides("drop_rate")).then(|| Advice {
        pointer: source.pointer.clone(),
        detail: format!(
            "no `density` is set, and without one {} drops nothing of this model; {WHERE_TO_BEGIN}",
            subject.about.name
        ),
    })
}
