//! Attention of one position over caches of several lengths.

use crate::numbers::{hash, numbers};
use brooklet_kernels::{Attention, Cache, available};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;

const HEADS: usize = 12;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const CAPACITY: usize = 8192;

pub(crate) fn attention(c: &mut Criterion) {
    let elements = KV_HEADS * CAPACITY * HEAD_DIM;
    let codes: Vec<i8> = (0..elements as u32).map(|i| hash(i) as i8).collect();
    let scales = vec![0.01; KV_HEADS * CAPACITY];
    let (floats, q) = (numbers(elements), numbers(HEADS * HEAD_DIM));
    let (mut scores, mut out) = (vec![0.0; HEADS * CAPACITY], vec![0.0; HEADS * HEAD_DIM]);
    let caches = [
        ("int8", Cache::Int8 { key_scales: &scales, value_scales: &scales, keys: &codes, values: &codes }),
        ("f32", Cache::F32 { keys: &floats, values: &floats }),
    ];
    for (name, cache) in caches {
        let mut group = c.benchmark_group(format!("attend/{name}"));
        for len in [256, CAPACITY] {
            let attention = Attention { q: &q, kv_heads: KV_HEADS, head_dim: HEAD_DIM, scale: 0.125, len, capacity: CAPACITY, cache };
            group.throughput(Throughput::Elements((2 * HEADS * len * HEAD_DIM) as u64));
            for table in available() {
                group.bench_function(BenchmarkId::new(len.to_string(), table.name()), |b| {
                    b.iter(|| table.attend(black_box(&attention), &mut scores, &mut out));
                });
            }
        }
    }
}
