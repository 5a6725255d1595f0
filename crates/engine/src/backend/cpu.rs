//! The CPU backend: spans in parallel on the current rayon pool, tiles that stay in the cache inside each span.
//!
//! Invariant: sums are taken per block and blocks are added in a fixed tree, counts are integers; so nothing depends on
//! threads, spans or tiles.

mod bracket;
mod select;
mod sums;
mod vectors;

use std::sync::Mutex;

use checkpoint::Dtype;
use rayon::prelude::*;

use super::{Backend, TensorInputs, TensorOutput};
use crate::ExecuteError;
use crate::convert;
use crate::kernel::{Kernel, TILE_MAX, Tile};
use crate::statistic::{Reduced, Statistic};

/// Elements whose sums are taken in one go; also the least span.
pub const BLOCK: u64 = 1 << 16;
/// Elements of a span at most: enough that a read is worth its call.
const SPAN_MAX: u64 = 1 << 17;

pub struct Cpu {
    /// Bytes that may be used, over all threads.
    memory: u64,
    threads: u64,
    span: u64,
    tile: usize,
    scratch: Mutex<Vec<Scratch>>,
}

/// Buffers of one thread, kept from span to span.
#[derive(Default)]
struct Scratch {
    raw: Vec<Vec<u8>>,
    out: Vec<u8>,
    values: Vec<Vec<f32>>,
    result: Vec<f32>,
}

/// How a tensor is walked through.
#[derive(Debug, Clone, Copy)]
struct Steps {
    /// Elements that must come together.
    unit: u64,
    /// A multiple of what must come together; sums are per block.
    block: u64,
    span: u64,
    tile: u64,
}

impl Cpu {
    /// A backend whose buffers stay within `memory` bytes for `threads` threads and tensors of up to `inputs` inputs.
    pub fn new(memory: u64, threads: usize, inputs: usize) -> Cpu {
        let bytes_per_element = (inputs as u64 + 1) * 4;
        let per_thread = memory / threads.max(1) as u64;
        let span = (per_thread / bytes_per_element / BLOCK * BLOCK).clamp(BLOCK, SPAN_MAX);
        Cpu { memory, threads: threads.max(1) as u64, span, tile: TILE_MAX, scratch: Mutex::default() }
    }

    /// The same with spans and tiles of a given length, to show that results do not depend on them.
    pub fn with_spans(blocks: u64, tile: usize) -> Cpu {
        assert!(blocks > 0 && (1..=TILE_MAX).contains(&tile));
        Cpu { memory: 1 << 28, threads: 1, span: blocks * BLOCK, tile, scratch: Mutex::default() }
    }

    /// Bytes that the buffers of one thread take for a tensor of `inputs` inputs.
    pub fn buffer_bytes(memory: u64, threads: usize, inputs: usize) -> u64 {
        let cpu = Cpu::new(memory, threads, inputs);
        cpu.span * (inputs as u64 + 1) * 4 + (inputs as u64 + 1) * TILE_MAX as u64 * 4
    }

    /// Units never straddle a tile, tiles never a block, blocks never a span.
    fn steps(&self, unit: u64) -> Steps {
        let whole = |length: u64, part: u64| (length / part * part).max(part);
        let block = whole(BLOCK, unit);
        Steps { unit, block, span: whole(self.span, block), tile: whole(self.tile as u64, unit) }
    }

    /// Runs `f` over all spans in parallel, each with buffers of its own, and gives the results in order.
    fn map_spans<T: Send>(
        &self,
        elements: u64,
        span: u64,
        f: impl Fn(std::ops::Range<u64>, &mut Scratch) -> Result<T, ExecuteError> + Sync,
    ) -> Result<Vec<T>, ExecuteError> {
        let spans = elements.div_ceil(span);
        let run = |i: u64| self.with_scratch(|scratch| f(i * span..((i + 1) * span).min(elements), scratch));
        match spans {
            0 | 1 => (0..spans).map(run).collect(),
            _ => (0..spans).into_par_iter().map(run).collect(),
        }
    }

    fn with_scratch<T>(&self, f: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.lock_scratch().pop().unwrap_or_default();
        let result = f(&mut scratch);
        self.lock_scratch().push(scratch);
        result
    }

    fn lock_scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().expect("no code panics while it holds the scratch list")
    }

    /// Reads a span of every input and gives it to `f` tile by tile, as f32.
    fn each_tile(
        &self,
        inputs: &dyn TensorInputs,
        span: std::ops::Range<u64>,
        steps: Steps,
        scratch: &mut Scratch,
        mut f: impl FnMut(&Tile<'_>),
    ) -> Result<(), ExecuteError> {
        scratch.read(inputs, span.clone(), steps.tile as usize)?;
        let Scratch { raw, values, .. } = scratch;
        let mut at = span.start;
        while at < span.end {
            // a tile never crosses a block, so that block sums see their elements in one order
            let block_end = (at / steps.block + 1) * steps.block;
            let end = (at + steps.tile).min(span.end).min(block_end);
            let tile = decode(inputs, raw, values, (at - span.start) as usize, (end - at) as usize);
            f(&Tile { inputs: &tile, at });
            at = end;
        }
        Ok(())
    }
}

impl Scratch {
    fn read(&mut self, inputs: &dyn TensorInputs, span: std::ops::Range<u64>, tile: usize) -> Result<(), ExecuteError> {
        self.raw.resize_with(inputs.count().max(self.raw.len()), Vec::new);
        self.values.resize_with(inputs.count().max(self.values.len()), Vec::new);
        let length = (span.end - span.start) as usize;
        for input in 0..inputs.count() {
            let bytes = length * width(inputs.dtype(input));
            // buffers only grow: what a former tensor left behind is overwritten
            if self.raw[input].len() < bytes {
                self.raw[input].resize(bytes, 0);
            }
            inputs.read(input, span.start, &mut self.raw[input][..bytes])?;
            if self.values[input].len() < tile {
                self.values[input].resize(tile, 0.0);
            }
        }
        Ok(())
    }
}

fn width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// Elements `from..from + length` of a span, converted.
fn decode<'a>(
    inputs: &dyn TensorInputs,
    raw: &[Vec<u8>],
    values: &'a mut [Vec<f32>],
    from: usize,
    length: usize,
) -> Vec<&'a [f32]> {
    let count = inputs.count();
    values[..count]
        .iter_mut()
        .enumerate()
        .map(|(input, values)| {
            let width = width(inputs.dtype(input));
            let bytes = &raw[input][from * width..(from + length) * width];
            convert::to_f32(inputs.dtype(input), bytes, &mut values[..length]);
            &values[..length]
        })
        .collect()
}

impl Backend for Cpu {
    fn reduce(&self, statistic: &Statistic, inputs: &dyn TensorInputs) -> Result<Reduced, ExecuteError> {
        match statistic {
            Statistic::Gram { origin } => self.gram(inputs, *origin).map(Reduced::Gram),
            Statistic::VectorGram { origin, vectors } => {
                self.vector_gram(inputs, *origin, *vectors).map(Reduced::VectorGram)
            }
            Statistic::Cuts { of, keep } => self.cuts(inputs, of, keep).map(Reduced::Cuts),
            Statistic::Sums { of } => self.sums(inputs, of.as_ref()).map(Reduced::Sums),
            Statistic::Norms { of } => self.norms(inputs, of).map(Reduced::Norms),
            Statistic::Rows { of, row } => self.rows(inputs, of, *row).map(Reduced::Rows),
        }
    }

    fn combine(
        &self,
        kernel: &dyn Kernel,
        inputs: &dyn TensorInputs,
        output: &dyn TensorOutput,
    ) -> Result<(), ExecuteError> {
        let steps = self.steps(kernel.unit());
        let dtype = output.dtype();
        self.map_spans(inputs.elements(), steps.span, |span, scratch| {
            let mut out = std::mem::take(&mut scratch.out);
            let mut result = std::mem::take(&mut scratch.result);
            let bytes = (span.end - span.start) as usize * width(dtype);
            if out.len() < bytes {
                out.resize(bytes, 0);
            }
            if result.len() < steps.tile as usize {
                result.resize(steps.tile as usize, 0.0);
            }
            let mut bad = None;
            self.each_tile(inputs, span.clone(), steps, scratch, |tile| {
                let result = &mut result[..tile.len()];
                kernel.combine(tile, result);
                bad = bad.or_else(|| convert::first_lost(dtype, result, tile.inputs).map(|i| tile.at + i as u64));
                let from = (tile.at - span.start) as usize * width(dtype);
                convert::from_f32(dtype, result, &mut out[from..from + tile.len() * width(dtype)]);
            })?;
            if let Some(element) = bad {
                output.not_finite(element)?;
            }
            output.write(span.start, &out[..bytes])?;
            scratch.out = out;
            scratch.result = result;
            Ok(())
        })
        .map(drop)
    }
}
