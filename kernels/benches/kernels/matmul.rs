//! Matrix products, and the rounding of what enters them.

use crate::matrix::matrix;
use crate::numbers::numbers;
use brooklet_kernels::quant::{Format, GROUP, Matrix};
use brooklet_kernels::{Activations, RowsMut, available};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;

/// Rows, columns: what enters a layer of Mamba-130m, what leaves it, and the small matrix in between.
const SHAPES: [(usize, usize); 3] = [(3072, 768), (768, 1536), (80, 1536)];
/// One vector is a step, many are a prefill.
const VECTORS: [usize; 2] = [1, 64];

pub(crate) fn products(c: &mut Criterion) {
    for format in [Format::Q4, Format::Q8, Format::F32] {
        for vectors in VECTORS {
            let mut group = c.benchmark_group(format!("matmul/{}/{vectors}", format.name()));
            for (rows, cols) in SHAPES {
                group.throughput(Throughput::Elements((rows * cols * vectors) as u64));
                let lines = matrix(format, rows, cols);
                let bytes = &bytemuck::cast_slice(&lines)[..format.matrix_bytes(rows, cols).expect("a small matrix")];
                let matrix = Matrix::from_bytes(format, rows, cols, bytes).expect("a matrix of this shape");
                let x = numbers(vectors * cols);
                let groups = cols / GROUP;
                let (mut codes, mut scales, mut sums) = (vec![0; vectors * cols], vec![0.0; vectors * groups], vec![0; vectors * groups]);
                let mut out = vec![0.0; vectors * rows];
                for table in available() {
                    for (t, x) in x.chunks(cols).enumerate() {
                        let (part, codes) = (t * groups..(t + 1) * groups, &mut codes[t * cols..(t + 1) * cols]);
                        table.quantize_activations(x, codes, &mut scales[part.clone()], &mut sums[part]);
                    }
                    let activations = if format.is_quantized() {
                        Activations::Int8 { codes: &codes, scales: &scales, sums: &sums }
                    } else {
                        Activations::Float { x: &x, stride: cols }
                    };
                    group.bench_function(BenchmarkId::new(format!("{rows}x{cols}"), table.name()), |b| {
                        b.iter(|| {
                            let out = RowsMut::new(&mut out, vectors, rows, rows).expect("rows that fit");
                            table.matmul(black_box(&matrix), activations, out);
                        });
                    });
                }
            }
        }
    }
    let mut group = c.benchmark_group("quantize_activations");
    let x = numbers(1536);
    let (mut codes, mut scales, mut sums) = (vec![0; 1536], vec![0.0; 48], vec![0; 48]);
    group.throughput(Throughput::Elements(x.len() as u64));
    for table in available() {
        group.bench_function(table.name(), |b| b.iter(|| table.quantize_activations(black_box(&x), &mut codes, &mut scales, &mut sums)));
    }
}
