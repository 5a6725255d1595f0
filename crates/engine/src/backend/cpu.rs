//! The CPU backend: spans in parallel on the current rayon pool, tiles that stay in the cache inside each span.
//!
//! Invariant: sums are taken per block of [`BLOCK`] elements and blocks are added in a fixed tree, counts are integers;
//! so nothing depends on threads, spans or tiles.

use std::sync::Mutex;

use checkpoint::Dtype;
use rayon::prelude::*;

use super::{Backend, TensorInputs, TensorOutput};
use crate::ExecuteError;
use crate::convert;
use crate::kernel::{Kernel, TILE_MAX, Tile};
use crate::statistic::{Cut, Gram, L1, Reduced, Statistic};

mod select;
mod sums;

/// Elements whose sums are taken in one go; also the least span.
pub const BLOCK: u64 = 1 << 16;
/// Elements of a span at most: enough that a read is worth its call.
const SPAN_MAX: u64 = 1 << 20;

pub struct Cpu {
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

impl Cpu {
    /// A backend whose buffers stay within `memory` bytes for `threads` threads and tensors of up to `inputs` inputs.
    pub fn new(memory: u64, threads: usize, inputs: usize) -> Cpu {
        let bytes_per_element = (inputs as u64 + 1) * 4;
        let per_thread = memory / threads.max(1) as u64;
        let span = (per_thread / bytes_per_element / BLOCK * BLOCK).clamp(BLOCK, SPAN_MAX);
        Cpu { span, tile: TILE_MAX, scratch: Mutex::default() }
    }

    /// The same with spans and tiles of a given length, to show that results do not depend on them.
    pub fn with_spans(blocks: u64, tile: usize) -> Cpu {
        assert!(blocks > 0 && (1..=TILE_MAX).contains(&tile));
        Cpu { span: blocks * BLOCK, tile, scratch: Mutex::default() }
    }

    /// Bytes that the buffers of one thread take for a tensor of `inputs` inputs.
    pub fn buffer_bytes(memory: u64, threads: usize, inputs: usize) -> u64 {
        let cpu = Cpu::new(memory, threads, inputs);
        cpu.span * (inputs as u64 + 1) * 4 + (inputs as u64 + 1) * TILE_MAX as u64 * 4
    }

    /// Runs `f` over all spans in parallel, each with buffers of its own, and gives the results in order.
    fn map_spans<T: Send>(
        &self,
        elements: u64,
        f: impl Fn(std::ops::Range<u64>, &mut Scratch) -> Result<T, ExecuteError> + Sync,
    ) -> Result<Vec<T>, ExecuteError> {
        let spans = elements.div_ceil(self.span);
        let run = |i: u64| {
            let mut scratch = self.lock_scratch().pop().unwrap_or_default();
            let result = f(i * self.span..((i + 1) * self.span).min(elements), &mut scratch);
            self.lock_scratch().push(scratch);
            result
        };
        match spans {
            0 | 1 => (0..spans).map(run).collect(),
            _ => (0..spans).into_par_iter().map(run).collect(),
        }
    }

    fn lock_scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().expect("no code panics while it holds the scratch list")
    }

    /// Reads a span of every input and gives it to `f` tile by tile, as f32.
    fn each_tile(
        &self,
        inputs: &dyn TensorInputs,
        span: std::ops::Range<u64>,
        scratch: &mut Scratch,
        mut f: impl FnMut(u64, &[&[f32]]),
    ) -> Result<(), ExecuteError> {
        scratch.read(inputs, span.clone(), self.tile)?;
        let Scratch { raw, values, .. } = scratch;
        let mut at = span.start;
        while at < span.end {
            // a tile never crosses a block, so that block sums see their elements in one order
            let block_end = (at / BLOCK + 1) * BLOCK;
            let end = (at + self.tile as u64).min(span.end).min(block_end);
            let tile = decode(inputs, raw, values, (at - span.start) as usize, (end - at) as usize);
            f(at, &tile);
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
            self.values[input].resize(tile, 0.0);
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
            Statistic::Gram => self.gram(inputs).map(Reduced::Gram),
            Statistic::Cuts { origin, keep } => self.cuts(inputs, *origin, keep).map(Reduced::Cuts),
            Statistic::L1 { origin, cuts } => self.l1(inputs, *origin, cuts).map(Reduced::L1),
        }
    }

    fn combine(
        &self,
        kernel: &dyn Kernel,
        inputs: &dyn TensorInputs,
        output: &dyn TensorOutput,
    ) -> Result<(), ExecuteError> {
        self.map_spans(inputs.elements(), |span, scratch| {
            let width = width(output.dtype());
            let mut out = std::mem::take(&mut scratch.out);
            let mut result = std::mem::take(&mut scratch.result);
            let bytes = (span.end - span.start) as usize * width;
            if out.len() < bytes {
                out.resize(bytes, 0);
            }
            result.resize(self.tile, 0.0);
            self.each_tile(inputs, span.clone(), scratch, |at, tile| {
                let result = &mut result[..tile[0].len()];
                kernel.combine(&Tile { inputs: tile, at }, result);
                let from = (at - span.start) as usize * width;
                convert::from_f32(output.dtype(), result, &mut out[from..from + result.len() * width]);
            })?;
            output.write(span.start, &out[..bytes])?;
            scratch.out = out;
            scratch.result = result;
            Ok(())
        })
        .map(drop)
    }
}
