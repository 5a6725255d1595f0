//! Kernels on inputs in memory, in bytes of inputs and output per second, beside a copy of as many bytes.

use std::hint::black_box;

use checkpoint::Dtype;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::ExecuteError;
use engine::backend::cpu::Cpu;
use engine::backend::{Backend, TensorInputs, TensorOutput};
use engine::convert;
use engine::kernel::{ElectedSum, Election, Kernel, Mask, TaskVector, TaskVectorSum, WeightedSum};
use engine::statistic::{Cut, Statistic};

/// Elements of a tensor: a square matrix of 2048.
const ELEMENTS: usize = 1 << 22;

/// Tensors of bf16 in memory.
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn of(inputs: usize) -> Memory {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as f32 / 1e9 - 0.008
        };
        let mut tensor = || {
            let values: Vec<f32> = (0..ELEMENTS).map(|_| next()).collect();
            let mut bytes = vec![0; 2 * ELEMENTS];
            convert::from_f32(Dtype::BF16, &values, &mut bytes);
            bytes
        };
        Memory((0..inputs).map(|_| tensor()).collect())
    }
}

impl TensorInputs for Memory {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> u64 {
        ELEMENTS as u64
    }

    fn dtype(&self, _: usize) -> Dtype {
        Dtype::BF16
    }

    fn read(&self, input: usize, at: u64, buffer: &mut [u8]) -> Result<(), ExecuteError> {
        let start = 2 * at as usize;
        buffer.copy_from_slice(&self.0[input][start..start + buffer.len()]);
        Ok(())
    }
}

/// An output that goes no further than its buffer.
struct Nowhere;

impl TensorOutput for Nowhere {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn write(&self, _: u64, bytes: &[u8]) -> Result<(), ExecuteError> {
        black_box(bytes);
        Ok(())
    }

    fn not_finite(&self, _: u64) -> Result<(), ExecuteError> {
        Ok(())
    }
}

/// Three task vectors, cut at half of a typical magnitude where `trimmed`.
fn vectors(trimmed: bool) -> Vec<TaskVector> {
    let cut = Cut { threshold: 0.004f32.to_bits(), equal_end: 0 };
    let masks = || if trimmed { vec![Mask::Cut { cut, offset: 0 }] } else { Vec::new() };
    (1..4).map(|input| TaskVector { masks: masks(), ..TaskVector::plain(input, 0, 0.4) }).collect()
}

fn combine(c: &mut Criterion) {
    let sum = WeightedSum { coefficients: vec![0.4, 0.6], divisor: Some(1.0) };
    let tasks = TaskVectorSum { base: 0, vectors: vectors(false), divisor: None, scale: 1.0 };
    let elected = ElectedSum { base: 0, vectors: vectors(true), election: Election::Mass, normalize: true, scale: 1.0 };
    let kernels: [(&str, &dyn Kernel, usize); 3] =
        [("weighted sum", &sum, 2), ("task vectors", &tasks, 4), ("trimmed and elected", &elected, 4)];
    let mut group = c.benchmark_group("combine");
    let cpu = Cpu::new(1 << 28, 1, 4);
    for (name, kernel, inputs) in kernels {
        let memory = Memory::of(inputs);
        group.throughput(Throughput::Bytes(2 * ELEMENTS as u64 * (inputs as u64 + 1)));
        group.bench_function(BenchmarkId::new(name, inputs), |b| b.iter(|| cpu.combine(kernel, &memory, &Nowhere)));
    }
    group.finish();
}

fn reduce(c: &mut Criterion) {
    let memory = Memory::of(4);
    let cpu = Cpu::new(1 << 28, 1, 4);
    let of =
        || vectors(false).into_iter().map(|v| std::sync::Arc::new(v) as std::sync::Arc<dyn Kernel>).collect::<Vec<_>>();
    let keep = (0..3).map(|k| (k, ELEMENTS as u64 / 2)).collect();
    let statistics = [
        ("gram", Statistic::Gram { origin: Some(0) }),
        ("sums", Statistic::Sums { of: std::sync::Arc::new(of()) }),
        ("cuts", Statistic::Cuts { of: of(), keep }),
    ];
    let mut group = c.benchmark_group("reduce");
    group.throughput(Throughput::Bytes(2 * ELEMENTS as u64 * 4));
    for (name, statistic) in statistics {
        group.bench_function(name, |b| b.iter(|| cpu.reduce(&statistic, &memory)));
    }
    group.finish();
}

fn conversions(c: &mut Criterion) {
    let mut group = c.benchmark_group("convert");
    let (mut values, mut bytes) = (vec![0.25f32; 1 << 11], vec![0u8; 1 << 13]);
    for (name, dtype) in [("bf16", Dtype::BF16), ("f16", Dtype::F16), ("f32", Dtype::F32)] {
        let width = dtype.bitsize() / 8;
        group.throughput(Throughput::Bytes((values.len() * (width + 4)) as u64));
        let bytes = &mut bytes[..(1 << 11) * width];
        group.bench_function(BenchmarkId::new("to f32", name), |b| {
            b.iter(|| convert::to_f32(dtype, black_box(bytes), &mut values));
        });
        group.bench_function(BenchmarkId::new("from f32", name), |b| {
            b.iter(|| convert::from_f32(dtype, black_box(&values), bytes));
        });
    }
    group.finish();
}

/// The floor of all of them: bytes read and written by the library's own copy.
fn copy(c: &mut Criterion) {
    let from = vec![1u8; 2 * ELEMENTS];
    let mut to = vec![0u8; 2 * ELEMENTS];
    let mut group = c.benchmark_group("memcpy");
    group.throughput(Throughput::Bytes(4 * ELEMENTS as u64));
    group.bench_function("8 MiB", |b| b.iter(|| to.copy_from_slice(black_box(&from))));
    group.finish();
}

criterion_group!(kernels, copy, conversions, combine, reduce);
criterion_main!(kernels);
