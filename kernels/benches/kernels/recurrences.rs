//! Recurrences and the convolutions before them.

use crate::numbers::numbers;
use brooklet_kernels::{Conv1d, GatedDelta, KernelTable, Rows, RowsMut, Scan, Ssd, StateMut, available};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use std::hint::black_box;

/// A step, and a prefill.
const TOKENS: [usize; 2] = [1, 64];

pub(crate) fn recurrences(c: &mut Criterion) {
    for tokens in TOKENS {
        conv1d(&mut c.benchmark_group(format!("conv1d/{tokens}")), tokens, 4, 1536);
        scan(&mut c.benchmark_group(format!("scan/{tokens}")), tokens, 16, 1536);
        ssd(&mut c.benchmark_group(format!("ssd/{tokens}")), tokens, 24, 128, 64);
    }
    gated_delta(&mut c.benchmark_group("gated_delta"), 16, 128);
}

/// Times `run` with every table, which handles `elements` elements.
fn each_table(group: &mut BenchmarkGroup<'_, WallTime>, shape: &str, elements: usize, mut run: impl FnMut(&KernelTable)) {
    group.throughput(Throughput::Elements(elements as u64));
    for table in available() {
        group.bench_function(BenchmarkId::new(shape, table.name()), |b| b.iter(|| run(black_box(table))));
    }
}

fn rows(data: &[f32], rows: usize, width: usize) -> Rows<'_> {
    Rows::new(data, rows, width, width).expect("rows that fit")
}

fn rows_mut<T>(data: &mut [T], rows: usize, width: usize) -> RowsMut<'_, T> {
    RowsMut::new(data, rows, width, width).expect("rows that fit")
}

/// Times `run` with every table, with its state of (rows, width) in single and in half precision.
fn each_state(
    group: &mut BenchmarkGroup<'_, WallTime>,
    shape: &str,
    elements: usize,
    (rows, width): (usize, usize),
    mut run: impl FnMut(&KernelTable, StateMut<'_>),
) {
    let (mut single, mut half) = (vec![0.0f32; rows * width], vec![0u16; rows * width]);
    each_table(group, shape, elements, |table| run(table, StateMut::F32(rows_mut(&mut single, rows, width))));
    each_table(group, &format!("{shape}/f16"), elements, |table| run(table, StateMut::F16(rows_mut(&mut half, rows, width))));
}

fn conv1d(group: &mut BenchmarkGroup<'_, WallTime>, tokens: usize, taps: usize, channels: usize) {
    let (weight, bias, input) = (numbers(taps * channels), numbers(channels), numbers(tokens * channels));
    let (mut state, mut x) = (numbers((taps - 1) * channels), input.clone());
    let conv = Conv1d { weight: rows(&weight, taps, channels), bias: Some(&bias), taps, silu: true };
    each_table(group, &format!("{taps}x{channels}"), tokens * channels, |table| {
        // In place: what came out would shrink to denormals if it went in again.
        x.copy_from_slice(&input);
        table.conv1d(&conv, rows_mut(&mut state, taps - 1, channels), rows_mut(&mut x, tokens, channels));
    });
}

fn scan(group: &mut BenchmarkGroup<'_, WallTime>, tokens: usize, d_state: usize, channels: usize) {
    let [x, dt, z] = [(); 3].map(|()| numbers(tokens * channels));
    let [b, c] = [(); 2].map(|()| numbers(tokens * d_state));
    let (a, dt_bias, d) = (decays(d_state * channels), numbers(channels), numbers(channels));
    let mut y = vec![0.0; tokens * channels];
    let scan = Scan {
        x: rows(&x, tokens, channels),
        dt: rows(&dt, tokens, channels),
        dt_bias: &dt_bias,
        a: rows(&a, d_state, channels),
        b: rows(&b, tokens, d_state),
        c: rows(&c, tokens, d_state),
        d: &d,
        z: Some(rows(&z, tokens, channels)),
        heads: 1,
        gap: 1.0,
        behind_bytes: 0,
    };
    each_state(group, &format!("{d_state}x{channels}"), tokens * d_state * channels, (d_state, channels), |table, h| {
        table.scan(&scan, h, rows_mut(&mut y, tokens, channels));
    });
}

fn ssd(group: &mut BenchmarkGroup<'_, WallTime>, tokens: usize, heads: usize, d_state: usize, head_dim: usize) {
    let (x, dt) = (numbers(tokens * heads * head_dim), numbers(tokens * heads));
    let [b, c] = [(); 2].map(|()| numbers(tokens * d_state));
    let (a, dt_bias, d) = (decays(heads), numbers(heads), numbers(heads));
    let mut y = vec![0.0; tokens * heads * head_dim];
    let ssd = Ssd {
        x: rows(&x, tokens, heads * head_dim),
        dt: rows(&dt, tokens, heads),
        dt_bias: &dt_bias,
        a: &a,
        b: rows(&b, tokens, d_state),
        c: rows(&c, tokens, d_state),
        d: &d,
        groups: 1,
        heads_per_group: heads,
        first_head: 0,
        dt_lo: 0.0,
        dt_hi: f32::INFINITY,
        gap: 1.0,
    };
    let shape = format!("{heads}x{d_state}x{head_dim}");
    each_state(group, &shape, tokens * heads * d_state * head_dim, (heads, d_state * head_dim), |table, state| {
        table.ssd(&ssd, &mut [state], rows_mut(&mut y, tokens, heads * head_dim));
    });
}

fn gated_delta(group: &mut BenchmarkGroup<'_, WallTime>, heads: usize, dim: usize) {
    let [q, k, v] = [(); 3].map(|()| numbers(heads * dim));
    let [a, b, dt_bias] = [(); 3].map(|()| numbers(heads));
    let decay = decays(heads);
    let mut y = vec![0.0; heads * dim];
    let delta = GatedDelta {
        q: &q,
        k: &k,
        v: &v,
        a: &a,
        b: &b,
        decay: &decay,
        dt_bias: &dt_bias,
        key_heads: heads,
        scale: 1.0 / (dim as f32).sqrt(),
        beta_scale: 1.0,
        eps: 1e-6,
    };
    each_state(group, &format!("{heads}x{dim}x{dim}"), heads * dim * dim, (heads, dim * dim), |table, state| {
        table.gated_delta_step(&delta, state, &mut y);
    });
}

/// `count` numbers between -1 and -0.1: decays.
fn decays(count: usize) -> Vec<f32> {
    numbers(count).into_iter().map(|x| -0.1 - 0.9 * x.abs()).collect()
}
