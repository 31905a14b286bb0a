//! Counts multiplications per cycle of matrix products, whatever the clock does.
//!
//! A chain of additions and exclusive ors takes a cycle each on every processor: it runs in turn with the product, and says how long a cycle is. Of some
//! twenty turns the shortest product and the shortest chain are compared, so that neighbours on the machine matter little; what is printed is the median
//! of several such comparisons.
//!
//! `cargo bench -p brooklet-benches --bench cycles`, with a filter such as `-- q4` or `-- 768x48` behind it.

#[path = "kernels/matrix.rs"]
mod matrix;
#[path = "kernels/numbers.rs"]
mod numbers;

use brooklet_kernels::quant::{Format, GROUP, Matrix};
use brooklet_kernels::{Activations, KernelTable, RowsMut, available};
use numbers::numbers;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rows, columns: layers of Mamba-130m and granite-4.0-h-350m, what produces the time steps, and a narrow one.
const SHAPES: [(usize, usize); 6] = [(3072, 768), (768, 1536), (4096, 768), (768, 2048), (1536, 48), (768, 48)];
const VECTORS: [usize; 5] = [1, 4, 8, 64, 512];
/// Links of the chain: each is two cycles.
const LINKS: u32 = 20_000;
const TURNS: u32 = 20;
const COMPARISONS: usize = 9;

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for format in [Format::Q4, Format::Q8, Format::Q6, Format::Q5, Format::Q3, Format::T2] {
        for (rows, cols) in SHAPES {
            let lines = matrix::matrix(format, rows, cols);
            let bytes = &bytemuck::cast_slice(&lines)[..format.matrix_bytes(rows, cols).expect("a small matrix")];
            let matrix = Matrix::from_bytes(format, rows, cols, bytes).expect("a matrix of this shape");
            for vectors in VECTORS {
                let name = format!("{} {rows}x{cols}, {vectors} vectors", format.name());
                if !name.contains(&filter) {
                    continue;
                }
                let per_cycle: Vec<String> = available()
                    .map(|table| {
                        format!("{} {:.1}", table.name(), (rows * cols * vectors) as f64 / cycles(table, &matrix, rows, cols, vectors))
                    })
                    .collect();
                println!("{name}: multiplications per cycle: {}", per_cycle.join(", "));
            }
        }
    }
}

/// Cycles of a product.
fn cycles(table: &KernelTable, matrix: &Matrix<'_>, rows: usize, cols: usize, vectors: usize) -> f64 {
    let groups = cols.div_ceil(GROUP);
    let (x, padded) = (numbers(vectors * cols), groups * GROUP);
    let (mut codes, mut scales, mut sums) = (vec![0; vectors * padded], vec![0.0; vectors * groups], vec![0; vectors * groups]);
    for (t, x) in x.chunks(cols).enumerate() {
        let part = t * groups..(t + 1) * groups;
        table.quantize_activations(x, &mut codes[t * padded..(t + 1) * padded], &mut scales[part.clone()], &mut sums[part]);
    }
    let mut out = vec![0.0; vectors * rows];
    let mut product = || {
        let start = Instant::now();
        let activations = Activations::Int8 { codes: &codes, scales: &scales, sums: &sums };
        table.matmul(black_box(matrix), activations, RowsMut::new(&mut out, vectors, rows, rows).expect("rows that fit"));
        start.elapsed()
    };
    let mut found: Vec<f64> = (0..COMPARISONS)
        .map(|_| {
            let mut shortest = [Duration::MAX; 2];
            for _ in 0..TURNS {
                shortest = [shortest[0].min(chain()), shortest[1].min(product())];
            }
            f64::from(2 * LINKS) * shortest[1].as_secs_f64() / shortest[0].as_secs_f64()
        })
        .collect();
    found.sort_by(f64::total_cmp);
    found[COMPARISONS / 2]
}

/// How long the chain takes.
fn chain() -> Duration {
    let (a, b) = black_box((0x9e37_79b9_u64, 0x85eb_ca6b_u64));
    let start = Instant::now();
    let mut x = a;
    for _ in 0..LINKS {
        x = x.wrapping_add(a) ^ b;
    }
    black_box(x);
    start.elapsed()
}
