//! Exact cuts in one pass: a sample brackets the magnitude that is sought, and only what lies inside is kept to be looked at.
//!
//! Invariant: the sample decides how fast a cut is found, never what it is. What the bracket does not hold is counted, so
//! that a bracket which misses is noticed.

use rayon::prelude::*;

use super::select::{Search, Selection, magnitude};
use super::{ExecuteError, Steps};
use crate::simd::{Side, between};
use crate::statistic::Cut;

/// Elements of a sample at least and at most; between them one in so many.
const SAMPLE_MIN: u64 = 1 << 16;
const SAMPLE_MAX: u64 = 1 << 22;
const SAMPLE_EACH: u64 = 1 << 8;
/// Elements of a sample that lie side by side.
const SAMPLE_RUN: u64 = 1 << 8;
/// The share of the memory that what lies inside brackets may take.
const MEMORY_SHARE: u64 = 4;

/// Magnitudes strictly between the two are inside.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    low: u32,
    high: u32,
    /// The share of the elements that is expected inside.
    share: f64,
}

/// What one span holds of a search.
#[derive(Debug, Clone, Default)]
struct Held {
    /// First element of the span.
    start: u64,
    above: u64,
    high: u64,
    low: u64,
    inside: Vec<u32>,
}

impl Selection<'_> {
    /// The cuts of those searches whose bracket holds them. `None` for the others, and for those that would take too much
    /// memory.
    pub(super) fn bracketed(&self, searches: &[Search]) -> Result<Vec<Option<Cut>>, ExecuteError> {
        let brackets = self.brackets(searches)?;
        // each thread may be at a tensor of its own
        let room = self.cpu.memory / MEMORY_SHARE / self.cpu.threads;
        let bytes = |bracket: &Bracket| (bracket.share * (self.inputs.elements() * 4) as f64) as u64;
        let mut cuts = vec![None; searches.len()];
        let mut group: Vec<usize> = Vec::new();
        let mut used = 0;
        // as many in a pass as there is room for
        for (which, bracket) in brackets.iter().enumerate().filter(|(_, bracket)| bytes(bracket) <= room) {
            if used + bytes(bracket) > room {
                self.bracketed_together(searches, &brackets, &group, &mut cuts)?;
                (used, group) = (0, Vec::new());
            }
            used += bytes(bracket);
            group.push(which);
        }
        self.bracketed_together(searches, &brackets, &group, &mut cuts)?;
        Ok(cuts)
    }

    /// The cuts of a group of searches, in one pass.
    fn bracketed_together(
        &self,
        searches: &[Search],
        brackets: &[Bracket],
        group: &[usize],
        cuts: &mut [Option<Cut>],
    ) -> Result<(), ExecuteError> {
        if group.is_empty() {
            return Ok(());
        }
        let spans = self.cpu.map_spans(self.inputs.elements(), self.steps.span, |span, scratch| {
            let mut held = vec![Held { start: span.start, ..Held::default() }; group.len()];
            self.cpu.each_tile(self.inputs, span, self.steps, scratch, |tile| {
                let wanted = |kernel| group.iter().any(|which| searches[*which].kernel == kernel);
                self.each_kernel(tile, wanted, |kernel, values| {
                    let of_kernel = group.iter().zip(&mut held).filter(|(which, _)| searches[**which].kernel == kernel);
                    of_kernel.for_each(|(which, held)| held.take(values, brackets[*which]));
                });
            })?;
            Ok(held)
        })?;
        let mut of_search: Vec<Vec<Held>> = vec![Vec::with_capacity(spans.len()); group.len()];
        for span in spans {
            of_search.iter_mut().zip(span).for_each(|(all, held)| all.push(held));
        }
        for (which, held) in group.iter().zip(of_search) {
            cuts[*which] = self.resolve(searches[*which], brackets[*which], &held)?;
        }
        Ok(())
    }

    /// Where the sample says that the magnitudes lie, with room for its error.
    fn brackets(&self, searches: &[Search]) -> Result<Vec<Bracket>, ExecuteError> {
        let elements = self.inputs.elements();
        let wanted = (elements / SAMPLE_EACH).clamp(SAMPLE_MIN, SAMPLE_MAX);
        if elements <= 4 * wanted {
            return Ok(vec![Bracket { low: 0, high: u32::MAX, share: 1.0 }; searches.len()]);
        }
        let run = SAMPLE_RUN.div_ceil(self.steps.unit) * self.steps.unit;
        let runs = wanted.div_ceil(run);
        // runs begin at a unit, evenly over the tensor
        let stride = ((elements - run) / runs.max(1)).max(1);
        // not at even steps, which would meet the same columns in every row
        let place = |i: u64| (stride * i + scattered(i) % stride) / self.steps.unit * self.steps.unit;
        let steps = Steps { tile: run, ..self.steps };
        let sample = |i: u64| -> Result<Vec<Vec<u32>>, ExecuteError> {
            let mut magnitudes = vec![Vec::new(); self.of.len()];
            self.cpu.with_scratch(|scratch| {
                self.cpu.each_tile(self.inputs, place(i)..place(i) + run, steps, scratch, |tile| {
                    self.each_kernel(
                        tile,
                        |_| true,
                        |kernel, values| {
                            magnitudes[kernel].extend(values.iter().map(|value| magnitude(*value)));
                        },
                    );
                })
            })?;
            Ok(magnitudes)
        };
        let runs: Vec<Vec<Vec<u32>>> = (0..runs).into_par_iter().map(sample).collect::<Result<_, _>>()?;
        let mut of_kernel: Vec<Vec<u32>> = vec![Vec::new(); self.of.len()];
        for run in runs {
            of_kernel.iter_mut().zip(run).for_each(|(all, some)| all.extend(some));
        }
        of_kernel.iter_mut().for_each(|all| all.sort_unstable_by(|a, b| b.cmp(a)));
        Ok(searches.iter().map(|search| bracket(&of_kernel[search.kernel], search.kept, elements)).collect())
    }

    fn resolve(&self, search: Search, bracket: Bracket, held: &[Held]) -> Result<Option<Cut>, ExecuteError> {
        let sum = |of: fn(&Held) -> u64| held.iter().map(of).sum::<u64>();
        let (above, high, low) = (sum(|h| h.above), sum(|h| h.high), sum(|h| h.low));
        let inside = sum(|h| h.inside.len() as u64);
        let Some(kept) = search.kept.checked_sub(above).filter(|kept| *kept > 0) else { return Ok(None) };
        if kept <= high {
            let counts = held.iter().map(|h| (h.start, h.high));
            return self.cut(search, bracket.high, kept, high, counts).map(Some);
        }
        let kept = kept - high;
        if kept <= inside {
            let mut all: Vec<u32> = held.iter().flat_map(|h| &h.inside).copied().collect();
            let place = (kept - 1) as usize;
            let (larger, threshold, _) = all.select_nth_unstable_by(place, |a, b| b.cmp(a));
            let threshold = *threshold;
            let kept = kept - larger.iter().filter(|bits| **bits > threshold).count() as u64;
            let equal = |h: &Held| h.inside.iter().filter(|bits| **bits == threshold).count() as u64;
            let counts: Vec<(u64, u64)> = held.iter().map(|h| (h.start, equal(h))).collect();
            let equal = counts.iter().map(|(_, count)| count).sum();
            return self.cut(search, threshold, kept, equal, counts.into_iter()).map(Some);
        }
        let kept = kept - inside;
        if kept <= low {
            let counts = held.iter().map(|h| (h.start, h.low));
            return self.cut(search, bracket.low, kept, low, counts).map(Some);
        }
        Ok(None)
    }

    /// Of `equal` magnitudes at the threshold the first `kept` are kept; `counts` says how many each span has.
    fn cut(
        &self,
        search: Search,
        threshold: u32,
        kept: u64,
        equal: u64,
        counts: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Cut, ExecuteError> {
        if kept == equal {
            return Ok(Cut { threshold, equal_end: u64::MAX });
        }
        let mut left = kept;
        for (start, count) in counts {
            if count >= left {
                let equal_end = self.nth_equal(&Search { threshold, ..search }, start, left)?;
                return Ok(Cut { threshold, equal_end });
            }
            left -= count;
        }
        unreachable!("the spans hold {equal} equal magnitudes, and {kept} are kept")
    }
}

/// A number that looks random and is the same in every run.
fn scattered(i: u64) -> u64 {
    let mixed = (i ^ i >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// Around the `kept`-th largest of `elements`, from a sample in falling order.
fn bracket(sample: &[u32], kept: u64, elements: u64) -> Bracket {
    let size = sample.len() as f64;
    let share = kept as f64 / elements as f64;
    // six standard errors of a rank; twice that, because neighbours are alike
    let room = 12.0 * (size * share * (1.0 - share)).sqrt() + 16.0;
    let (first, last) = (share * size - room, share * size + room);
    let high = if first < 0.0 { u32::MAX } else { sample[first as usize] };
    let low = sample.get(last as usize).copied().unwrap_or(0);
    Bracket { low, high, share: (last.min(size) - first.max(0.0)) / size }
}

impl Held {
    fn take(&mut self, values: &[f32], bracket: Bracket) {
        if bracket.high == u32::MAX && bracket.low == 0 {
            // zeros are counted, since there may be many
            self.low += values.iter().filter(|value| magnitude(**value) == 0).count() as u64;
            self.inside.extend(values.iter().map(|value| magnitude(*value)).filter(|bits| *bits > 0));
            return;
        }
        let Side { above, high, low } = between(values, bracket.low, bracket.high, &mut self.inside);
        self.above += u64::from(above);
        self.high += u64::from(high);
        self.low += if bracket.low == bracket.high { 0 } else { u64::from(low) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracket_holds_the_rank_that_is_sought_and_little_else() {
        let sample: Vec<u32> = (0..1 << 16).rev().collect();
        let bracket = bracket(&sample, 500_000, 1_000_000);
        assert!(bracket.low < 32_768 && 32_768 < bracket.high && bracket.high - bracket.low < 4_000, "{bracket:?}");
        let few = super::bracket(&sample, 3, 1_000_000);
        assert!(few.high == u32::MAX && few.low > 65_000, "{few:?}");
        let nearly_all = super::bracket(&sample, 999_999, 1_000_000);
        assert!(nearly_all.low == 0 && nearly_all.high < 500, "{nearly_all:?}");
    }
}
