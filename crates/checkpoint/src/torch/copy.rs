//! A view of a storage, written out so that its elements stand one after the other.
//!
//! Memory is bounded whatever the view: a view without gaps is copied in pieces, any other in blocks of lines that lie
//! close together in the file.

use super::TorchTensor;
use crate::read_at::ReadAt;
use crate::{CheckpointError, bytes_of};

/// Bytes of one piece of a view without gaps.
const PIECE_BYTES: u64 = 4 << 20;
/// Bytes that are read at once for a line of a view with gaps.
const LINE_BYTES: u64 = 32 << 10;
/// Lines of one block.
const LINES: u64 = 256;

/// Takes bytes that belong at an offset from the tensor's first.
type Sink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), CheckpointError> + 'a;

impl TorchTensor {
    /// Gives every element to `sink` at its place; `name` is of the file, for messages.
    pub fn copy(&self, source: &dyn ReadAt, name: &str, sink: &mut Sink<'_>) -> Result<(), CheckpointError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let width = bytes_of(self.dtype, 1).expect("dtypes of torch fill whole bytes");
        let read =
            |start: u64, buffer: &mut [u8]| source.read_exact_at(buffer, start).map_err(CheckpointError::io(name));
        let axes = axes(self, width);
        match axes.as_slice() {
            [] => copy_pieces(self.start, width, &read, sink),
            [only] if only.from == width => copy_pieces(self.start, only.count * width, &read, sink),
            _ => copy_blocks(self, width, axes, &read, sink),
        }
    }
}

type Read<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), CheckpointError> + 'a;

/// One dimension: how many steps it has, and how many bytes apart they are in the source and in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    count: u64,
    from: u64,
    to: u64,
}

/// The dimensions that matter, the outermost first; neighbours that can be walked as one are one.
fn axes(tensor: &TorchTensor, width: u64) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut to = tensor.bytes;
    for (count, stride) in tensor.shape.iter().zip(&tensor.strides).filter(|(count, _)| **count > 1) {
        to /= count;
        let axis = Axis { count: *count, from: stride * width, to };
        match axes.last_mut() {
            Some(outer) if outer.from == axis.from * count => *outer = Axis { count: outer.count * count, ..axis },
            _ => axes.push(axis),
        }
    }
    axes
}

fn copy_pieces(start: u64, bytes: u64, read: &Read<'_>, sink: &mut Sink<'_>) -> Result<(), CheckpointError> {
    let mut buffer = vec![0; bytes.min(PIECE_BYTES) as usize];
    let mut at = 0;
    while at < bytes {
        let piece = &mut buffer[..(bytes - at).min(PIECE_BYTES) as usize];
        read(start + at, piece)?;
        sink(at, piece)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Takes the axis that is closest in the source and the axis that is closest in the result, and goes over the rest one
/// step at a time.
fn copy_blocks(
    tensor: &TorchTensor,
    width: u64,
    mut axes: Vec<Axis>,
    read: &Read<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), CheckpointError> {
    let row = axes.pop().expect("a view with gaps has an axis");
    let closest = axes.iter().enumerate().min_by_key(|(_, axis)| axis.from).map(|(at, _)| at);
    let other = closest.map_or(Axis { count: 1, from: 0, to: 0 }, |at| axes.remove(at));
    let mut block = Block { row, other, width, buffer: Vec::new(), line: Vec::new() };
    let mut steps = vec![0; axes.len()];
    loop {
        let from: u64 = steps.iter().zip(&axes).map(|(step, axis)| step * axis.from).sum();
        let to: u64 = steps.iter().zip(&axes).map(|(step, axis)| step * axis.to).sum();
        block.copy(tensor.start + from, to, read, sink)?;
        if !advance(&mut steps, &axes) {
            return Ok(());
        }
    }
}

/// Counts on, the last axis first; false when all steps were made.
fn advance(steps: &mut [u64], axes: &[Axis]) -> bool {
    for (step, axis) in steps.iter_mut().zip(axes).rev() {
        *step += 1;
        if *step < axis.count {
            return true;
        }
        *step = 0;
    }
    false
}

/// A plane of the tensor: `row` is the innermost axis of the result, `other` the closest of the rest in the source.
struct Block {
    row: Axis,
    other: Axis,
    width: u64,
    buffer: Vec<u8>,
    line: Vec<u8>,
}

impl Block {
    fn copy(&mut self, from: u64, to: u64, read: &Read<'_>, sink: &mut Sink<'_>) -> Result<(), CheckpointError> {
        let along_row = self.row.from <= self.other.from || self.other.count == 1;
        let line = |axis: &Axis| (LINE_BYTES / axis.from.max(self.width)).max(1);
        let (rows, columns) = if along_row { (LINES, line(&self.row)) } else { (line(&self.other), LINES) };
        for first_row in (0..self.other.count).step_by(rows as usize) {
            let rows = rows.min(self.other.count - first_row);
            for first in (0..self.row.count).step_by(columns as usize) {
                let columns = columns.min(self.row.count - first);
                let from = from + first_row * self.other.from + first * self.row.from;
                let to = to + first_row * self.other.to + first * self.row.to;
                self.fill(from, rows, columns, along_row, read)?;
                self.empty(to, rows, columns, sink)?;
            }
        }
        Ok(())
    }

    /// Reads a block line by line and puts each element where its row has it.
    fn fill(
        &mut self,
        from: u64,
        rows: u64,
        columns: u64,
        along_row: bool,
        read: &Read<'_>,
    ) -> Result<(), CheckpointError> {
        let width = self.width as usize;
        self.buffer.resize(rows as usize * columns as usize * width, 0);
        let (lines, count, across, along) =
            if along_row { (rows, columns, self.other, self.row) } else { (columns, rows, self.row, self.other) };
        self.line.resize(((count - 1) * along.from) as usize + width, 0);
        for line in 0..lines {
            read(from + line * across.from, &mut self.line)?;
            for step in 0..count {
                let (row, column) = if along_row { (line, step) } else { (step, line) };
                let target = (row * columns + column) as usize * width;
                let element = (step * along.from) as usize;
                self.buffer[target..target + width].copy_from_slice(&self.line[element..element + width]);
            }
        }
        Ok(())
    }

    fn empty(&self, to: u64, rows: u64, columns: u64, sink: &mut Sink<'_>) -> Result<(), CheckpointError> {
        let bytes = (columns * self.width) as usize;
        for (row, content) in (0..rows).zip(self.buffer.chunks_exact(bytes)) {
            sink(to + row * self.other.to, content)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    fn copied(tensor: &TorchTensor, source: &[u8]) -> Vec<u8> {
        let mut written = vec![None; tensor.bytes as usize];
        let mut sink = |offset: u64, bytes: &[u8]| {
            for (place, byte) in written[offset as usize..][..bytes.len()].iter_mut().zip(bytes) {
                assert_eq!(place.replace(*byte), None, "written twice");
            }
            Ok(())
        };
        tensor.copy(&source, "f", &mut sink).unwrap();
        written.into_iter().map(|byte| byte.expect("nothing is left out")).collect()
    }

    /// The specification: element by element, in the order of the result.
    fn naive(tensor: &TorchTensor, source: &[u8]) -> Vec<u8> {
        let width = bytes_of(tensor.dtype, 1).unwrap();
        let mut written = Vec::new();
        for element in 0..tensor.bytes / width {
            let mut rest = element;
            let mut at = tensor.start;
            for (count, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
                at += rest % count * stride * width;
                rest /= count;
            }
            written.extend(&source[at as usize..(at + width) as usize]);
        }
        written
    }

    fn tensor(dtype: Dtype, shape: &[u64], strides: &[u64]) -> TorchTensor {
        let bytes = bytes_of(dtype, shape.iter().product()).unwrap();
        TorchTensor { name: "t".into(), dtype, shape: shape.into(), strides: strides.into(), start: 8, bytes }
    }

    #[test]
    fn every_view_is_written_as_its_elements_are() {
        let source: Vec<u8> = (0..9_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let cases: &[(&[u64], &[u64])] = &[
            (&[], &[]),
            (&[0, 5], &[5, 1]),
            (&[7], &[1]),
            (&[7], &[3]),
            (&[1, 7, 1], &[99, 1, 99]),
            (&[3, 4], &[4, 1]),
            (&[4, 3], &[1, 4]),
            (&[2, 3, 4], &[1, 8, 2]),
            (&[2, 3, 4, 5], &[60, 1, 15, 3]),
            (&[3, 5], &[0, 1]),
            (&[3, 5], &[1, 0]),
            (&[3, 5], &[0, 0]),
            (&[4, 6], &[2, 1]),
            // more than one piece, more lines than a block has, lines longer than a block takes
            (&[1_100_000], &[1]),
            (&[700, 1000], &[1, 700]),
            (&[3, 500, 600], &[300_000, 1, 500]),
            (&[300, 40], &[7000, 100]),
            (&[40, 300], &[100, 7000]),
            (&[2, 9000], &[1, 100]),
            (&[20_000, 3], &[5, 1]),
        ];
        for (shape, strides) in cases {
            for dtype in [Dtype::U8, Dtype::BF16, Dtype::F32] {
                let tensor = tensor(dtype, shape, strides);
                assert!(copied(&tensor, &source) == naive(&tensor, &source), "{shape:?} {strides:?} {dtype:?}");
            }
        }
        let wide = tensor(Dtype::F64, &[70, 90], &[2, 140]);
        assert_eq!(copied(&wide, &source), naive(&wide, &source));
    }
}
