//! Exact cuts by radix selection on the bits of |x - origin|: two histograms, and for equal magnitudes the index at
//! which the count is reached. Reads the inputs two to three times, never sorts.

use super::{BLOCK, Cpu, Cut, ExecuteError, Scratch, TensorInputs};

/// Bins of the first histogram: the upper 15 bits of the magnitude.
const HIGH_BINS: usize = 1 << 15;
/// Bins of the second: the lower 16 bits, within the bin that holds the cut.
const LOW_BINS: usize = 1 << 16;

/// A cut being found for one input.
#[derive(Clone, Copy)]
struct Search {
    input: usize,
    high: u32,
    threshold: u32,
    /// How many are kept of the magnitudes that agree with the bits fixed so far; in the end, of the equal ones.
    kept: u64,
    equal: u64,
}

impl Cpu {
    pub(super) fn cuts(
        &self,
        inputs: &dyn TensorInputs,
        origin: usize,
        keep: &[Option<u64>],
    ) -> Result<Vec<Option<Cut>>, ExecuteError> {
        let mut cuts: Vec<Option<Cut>> = vec![None; inputs.count()];
        let mut searches = Vec::new();
        for (input, keep) in keep.iter().enumerate() {
            match keep {
                None => {}
                Some(0) => cuts[input] = Some(Cut::KEEP_NOTHING),
                Some(count) if *count >= inputs.elements() => cuts[input] = Some(Cut::KEEP_ALL),
                Some(count) => searches.push(Search { input, high: 0, threshold: 0, kept: *count, equal: 0 }),
            }
        }
        if !searches.is_empty() {
            self.search_high(inputs, origin, &mut searches)?;
            self.search_low(inputs, origin, &mut searches)?;
        }
        for search in searches {
            let equal_end = self.equal_end(inputs, origin, &search)?;
            cuts[search.input] = Some(Cut { threshold: search.threshold, equal_end });
        }
        Ok(cuts)
    }

    fn search_high(
        &self,
        inputs: &dyn TensorInputs,
        origin: usize,
        searches: &mut [Search],
    ) -> Result<(), ExecuteError> {
        let histograms = self.histograms(inputs, origin, searches, HIGH_BINS, |bits, _| Some(bits >> 16))?;
        for (search, histogram) in searches.iter_mut().zip(histograms) {
            let (bin, above) = bin_of(&histogram, search.kept);
            search.high = bin;
            search.kept -= above;
        }
        Ok(())
    }

    fn search_low(
        &self,
        inputs: &dyn TensorInputs,
        origin: usize,
        searches: &mut [Search],
    ) -> Result<(), ExecuteError> {
        let within = |bits: u32, search: &Search| (bits >> 16 == search.high).then_some(bits & 0xffff);
        let histograms = self.histograms(inputs, origin, searches, LOW_BINS, within)?;
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
        inputs: &dyn TensorInputs,
        origin: usize,
        searches: &[Search],
        bins: usize,
        bin: impl Fn(u32, &Search) -> Option<u32> + Sync,
    ) -> Result<Vec<Vec<u64>>, ExecuteError> {
        let totals = std::sync::Mutex::new(vec![vec![0u64; bins]; searches.len()]);
        self.map_spans(inputs.elements(), |span, scratch| {
            // a span has fewer elements than a u32 counts
            let mut counts = vec![vec![0u32; bins]; searches.len()];
            self.each_tile(inputs, span, scratch, |_, tile| {
                for (search, counts) in searches.iter().zip(&mut counts) {
                    for (x, origin) in tile[search.input].iter().zip(tile[origin]) {
                        if let Some(bin) = bin(magnitude(*x, *origin), search) {
                            counts[bin as usize] += 1;
                        }
                    }
                }
            })?;
            let mut totals = totals.lock().expect("adding integers does not panic");
            for (total, counts) in totals.iter_mut().flatten().zip(counts.iter().flatten()) {
                *total += u64::from(*counts);
            }
            Ok(())
        })?;
        Ok(totals.into_inner().expect("adding integers does not panic"))
    }

    /// Index just past the last equal magnitude that is kept.
    fn equal_end(&self, inputs: &dyn TensorInputs, origin: usize, search: &Search) -> Result<u64, ExecuteError> {
        if search.kept == search.equal {
            return Ok(u64::MAX);
        }
        let spans = self.map_spans(inputs.elements(), |span, scratch| {
            let mut counts = vec![0u64; (span.end - span.start).div_ceil(BLOCK) as usize];
            let start = span.start;
            self.each_tile(inputs, span, scratch, |at, tile| {
                let equal = equal_indices(tile, origin, search).count();
                counts[((at - start) / BLOCK) as usize] += equal as u64;
            })?;
            Ok(counts)
        })?;
        let mut left = search.kept;
        for (block, count) in spans.into_iter().flatten().enumerate() {
            if count >= left {
                return self.nth_equal(inputs, origin, search, block as u64, left);
            }
            left -= count;
        }
        unreachable!("the histogram counted {} equal magnitudes", search.equal)
    }

    /// Index just past the `nth` equal magnitude of one block.
    fn nth_equal(
        &self,
        inputs: &dyn TensorInputs,
        origin: usize,
        search: &Search,
        block: u64,
        nth: u64,
    ) -> Result<u64, ExecuteError> {
        let span = block * BLOCK..((block + 1) * BLOCK).min(inputs.elements());
        let mut seen = 0;
        let mut end = span.end;
        self.each_tile(inputs, span, &mut Scratch::default(), |at, tile| {
            for i in equal_indices(tile, origin, search) {
                seen += 1;
                if seen == nth {
                    end = at + i as u64 + 1;
                }
            }
        })?;
        Ok(end)
    }
}

fn equal_indices<'a>(tile: &'a [&'a [f32]], origin: usize, search: &'a Search) -> impl Iterator<Item = usize> + 'a {
    let pairs = tile[search.input].iter().zip(tile[origin]).enumerate();
    pairs.filter(|(_, (x, origin))| magnitude(**x, **origin) == search.threshold).map(|(i, _)| i)
}

#[inline(always)]
fn magnitude(x: f32, origin: f32) -> u32 {
    (x - origin).to_bits() & 0x7fff_ffff
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
