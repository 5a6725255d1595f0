//! Exact cuts: by a bracket, or where that fails by radix selection on the bits of magnitudes: two histograms, and for equal
//! magnitudes the index at which the count is reached. Reads the inputs once, or two to three times; never sorts.

use std::sync::Arc;

use super::{Cpu, ExecuteError, Scratch, Steps, TensorInputs, Tile};
use crate::kernel::{Kernel, with_buffer};
use crate::statistic::Cut;

/// Bins of the first histogram: the upper 15 bits of the magnitude.
const HIGH_BINS: usize = 1 << 15;
/// Bins of the second: the lower 16 bits, within the bin that holds the cut.
const LOW_BINS: usize = 1 << 16;

/// A cut being found.
#[derive(Clone, Copy)]
pub(super) struct Search {
    /// Which of the counts asked for.
    pub wanted: usize,
    /// Which kernel's magnitudes.
    pub kernel: usize,
    pub high: u32,
    pub threshold: u32,
    /// How many are kept of the magnitudes that agree with the bits fixed so far; in the end, of the equal ones.
    pub kept: u64,
    pub equal: u64,
}

impl Cpu {
    pub(super) fn cuts(
        &self,
        inputs: &dyn TensorInputs,
        of: &[Arc<dyn Kernel>],
        keep: &[(usize, u64)],
    ) -> Result<Vec<Cut>, ExecuteError> {
        let selection =
            Selection { cpu: self, inputs, of, steps: self.steps(of.iter().map(|k| k.unit()).max().unwrap_or(1)) };
        let mut cuts = Vec::with_capacity(keep.len());
        let mut searches = Vec::new();
        for (wanted, (kernel, count)) in keep.iter().enumerate() {
            cuts.push(match count {
                0 => Cut::KEEP_NOTHING,
                count if *count > inputs.elements() => Cut::KEEP_ALL,
                count => {
                    searches.push(Search { wanted, kernel: *kernel, high: 0, threshold: 0, kept: *count, equal: 0 });
                    Cut::KEEP_ALL
                }
            });
        }
        if !searches.is_empty() {
            let found = selection.bracketed(&searches)?;
            let mut found = found.into_iter();
            searches.retain(|search| match found.next().flatten() {
                Some(cut) => {
                    cuts[search.wanted] = cut;
                    false
                }
                None => true,
            });
        }
        if !searches.is_empty() {
            selection.search_high(&mut searches)?;
            selection.search_low(&mut searches)?;
        }
        for search in searches {
            cuts[search.wanted] = Cut { threshold: search.threshold, equal_end: selection.equal_end(&search)? };
        }
        Ok(cuts)
    }
}

pub(super) struct Selection<'a> {
    pub cpu: &'a Cpu,
    pub inputs: &'a dyn TensorInputs,
    pub of: &'a [Arc<dyn Kernel>],
    pub steps: Steps,
}

impl Selection<'_> {
    fn search_high(&self, searches: &mut [Search]) -> Result<(), ExecuteError> {
        let histograms = self.histograms(searches, HIGH_BINS, |bits, _| Some(bits >> 16))?;
        for (search, histogram) in searches.iter_mut().zip(histograms) {
            let (bin, above) = bin_of(&histogram, search.kept);
            search.high = bin;
            search.kept -= above;
        }
        Ok(())
    }

    fn search_low(&self, searches: &mut [Search]) -> Result<(), ExecuteError> {
        let within = |bits: u32, search: &Search| (bits >> 16 == search.high).then_some(bits & 0xffff);
        let histograms = self.histograms(searches, LOW_BINS, within)?;
        for (search, histogram) in searches.iter_mut().zip(histograms) {
            let (bin, above) = bin_of(&histogram, search.kept);
            search.threshold = search.high << 16 | bin;
            search.kept -= above;
            search.equal = histogram[bin as usize];
        }
        Ok(())
    }

    /// One histogram for each search. Counts are integers, so the order in which spans are added does not matter.
    fn histograms(
        &self,
        searches: &[Search],
        bins: usize,
        bin: impl Fn(u32, &Search) -> Option<u32> + Sync,
    ) -> Result<Vec<Vec<u64>>, ExecuteError> {
        let totals = std::sync::Mutex::new(vec![vec![0u64; bins]; searches.len()]);
        self.cpu.map_spans(self.inputs.elements(), self.steps.span, |span, scratch| {
            // a span has fewer elements than a u32 counts
            let mut counts = vec![vec![0u32; bins]; searches.len()];
            self.cpu.each_tile(self.inputs, span, self.steps, scratch, |tile| {
                let wanted = |kernel| searches.iter().any(|search| search.kernel == kernel);
                self.each_kernel(tile, wanted, |kernel, values| {
                    for (search, counts) in searches.iter().zip(&mut counts).filter(|(s, _)| s.kernel == kernel) {
                        for bin in values.iter().filter_map(|v| bin(magnitude(*v), search)) {
                            counts[bin as usize] += 1;
                        }
                    }
                });
            })?;
            let mut totals = totals.lock().expect("adding integers does not panic");
            for (total, counts) in totals.iter_mut().flatten().zip(counts.iter().flatten()) {
                *total += u64::from(*counts);
            }
            Ok(())
        })?;
        Ok(totals.into_inner().expect("adding integers does not panic"))
    }

    /// What each of the wanted kernels makes of a tile.
    pub(super) fn each_kernel(
        &self,
        tile: &Tile<'_>,
        wanted: impl Fn(usize) -> bool,
        mut f: impl FnMut(usize, &[f32]),
    ) {
        with_buffer(tile.len(), |values| {
            for (kernel, of) in self.of.iter().enumerate().filter(|(kernel, _)| wanted(*kernel)) {
                of.combine(tile, values);
                f(kernel, values);
            }
        });
    }

    /// Index just past the last equal magnitude that is kept.
    fn equal_end(&self, search: &Search) -> Result<u64, ExecuteError> {
        if search.kept == search.equal {
            return Ok(u64::MAX);
        }
        let block = self.steps.block;
        let spans = self.cpu.map_spans(self.inputs.elements(), self.steps.span, |span, scratch| {
            let mut counts = vec![0u64; (span.end - span.start).div_ceil(block) as usize];
            let start = span.start;
            self.each_equal(span, search, scratch, |at| counts[((at - start) / block) as usize] += 1)?;
            Ok(counts)
        })?;
        let mut left = search.kept;
        for (index, count) in spans.into_iter().flatten().enumerate() {
            if count >= left {
                return self.nth_equal(search, index as u64 * block, left);
            }
            left -= count;
        }
        unreachable!("the histogram counted {} equal magnitudes", search.equal)
    }

    /// Index just past the `nth` equal magnitude of the span that begins at `start`.
    pub(super) fn nth_equal(&self, search: &Search, start: u64, nth: u64) -> Result<u64, ExecuteError> {
        let span = start..(start + self.steps.span).min(self.inputs.elements());
        let (mut seen, mut end) = (0, span.end);
        self.each_equal(span, search, &mut Scratch::default(), |at| {
            seen += 1;
            if seen == nth {
                end = at + 1;
            }
        })?;
        Ok(end)
    }

    fn each_equal(
        &self,
        span: std::ops::Range<u64>,
        search: &Search,
        scratch: &mut Scratch,
        mut f: impl FnMut(u64),
    ) -> Result<(), ExecuteError> {
        self.cpu.each_tile(self.inputs, span, self.steps, scratch, |tile| {
            with_buffer(tile.len(), |values| {
                self.of[search.kernel].combine(tile, values);
                for (i, _) in values.iter().enumerate().filter(|(_, v)| magnitude(**v) == search.threshold) {
                    f(tile.at + i as u64);
                }
            });
        })
    }
}

#[inline(always)]
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// The bin that holds the `count`-th largest, and how many lie in the bins above it.
fn bin_of(histogram: &[u64], count: u64) -> (u32, u64) {
    let mut above = 0;
    for (bin, n) in histogram.iter().enumerate().rev() {
        if above + n >= count {
            return (bin as u32, above);
        }
        above += n;
    }
    unreachable!("fewer elements than are to be kept")
}
