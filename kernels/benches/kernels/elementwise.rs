//! Norms and gates.

use crate::numbers::numbers;
use brooklet_kernels::{Norm, NormKind, available};
use criterion::{Criterion, Throughput};
use std::hint::black_box;

const WIDTH: usize = 1536;

pub(crate) fn elementwise(c: &mut Criterion) {
    let (weight, gate, input) = (numbers(WIDTH), numbers(WIDTH), numbers(WIDTH));
    let mut x = input.clone();
    let norm = Norm { kind: NormKind::Rms, weight: Some(&weight), bias: None, groups: 1, eps: 1e-5, gate: None, gate_first: false };
    let gated = Norm { gate: Some(&gate), gate_first: true, ..norm };
    for (name, norm) in [("norm", norm), ("norm/gated", gated)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(WIDTH as u64));
        for table in available() {
            group.bench_function(table.name(), |b| {
                b.iter(|| {
                    x.copy_from_slice(&input);
                    table.norm(black_box(&norm), &mut x);
                });
            });
        }
    }
    let mut group = c.benchmark_group("silu_multiply");
    group.throughput(Throughput::Elements(WIDTH as u64));
    for table in available() {
        group.bench_function(table.name(), |b| {
            b.iter(|| {
                x.copy_from_slice(&input);
                table.silu_multiply(&mut x, black_box(&gate));
            });
        });
    }
}
