//! Times every kernel with every table that this CPU can run, in the shapes of Mamba-130m, Mamba-2-130m and a small attention layer.
//!
//! `cargo bench -p brooklet-benches`, with a filter such as `-- scan` or `-- q4/64` behind it.

mod attention;
mod elementwise;
mod matmul;
mod matrix;
mod numbers;
mod recurrences;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = matmul::products, recurrences::recurrences, attention::attention, elementwise::elementwise
}
criterion_main!(kernels);
