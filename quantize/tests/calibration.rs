//! Methods and calibration as a whole: never worse than the nearest, the same bytes for any number of threads and after an interruption.

use brooklet::kernels::quant::Format;
use brooklet_quantize::calibrate::{CalibrateProgress, Options, write_calibrated};
use brooklet_quantize::fit::Calibration;
use brooklet_quantize::graph::Input;
use brooklet_quantize::methods::{Method, Metric, Packer, pack, unpack};
use brooklet_quantize::passes::{cut_projections, cut_tables};
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Recipe, StateFormat, families};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// Reproducible numbers around zero.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| (0..4).map(|_| uniform()).sum::<f32>() - 2.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_method_is_worse_than_the_nearest(
        (rows, cols, steps) in (1usize..40, 1usize..150, 1usize..200),
        format in prop::sample::select(vec![Format::T2, Format::Q3, Format::Q4]),
        seed: u64,
    ) {
        let weights = numbers(rows * cols, seed);
        // Inputs that go together, some of them silent.
        let sources = numbers(steps * 8, seed ^ 1);
        let mix = numbers(8 * cols, seed ^ 2);
        let noise = numbers(steps * cols, seed ^ 3);
        let input = |at: usize| {
            let (step, col) = (at / cols, at % cols);
            let mixed: f32 = (0..8).map(|s| sources[step * 8 + s] * mix[s * cols + col]).sum();
            if col % 11 == 3 { 0.0 } else { mixed + 0.3 * noise[at] }
        };
        let mut metric = Metric::new(cols);
        metric.add(&(0..steps * cols).map(input).collect::<Vec<f32>>());
        let cost = |bytes: &[u8]| metric.cost(&weights, &unpack(format, rows, cols, bytes));
        let nearest = cost(&pack(format, rows, cols, &weights).bytes);
        for method in [Method::Weighted, Method::Gptq] {
            let packed = Packer::new(&metric, method).pack(format, rows, cols, &weights);
            let chosen = cost(&packed.bytes);
            prop_assert!(chosen <= nearest, "{} {} > {}", method.name(), chosen, nearest);
            let left = f64::from(packed.left);
            prop_assert!((left * nearest - chosen).abs() <= 1e-4 * nearest, "{} {left}: {chosen} of {nearest}", method.name());
        }
    }
}

const CACHE: Cache = Cache { context: 128, sink: Some(4), format: CacheFormat::Int8 };
const RECIPE: Recipe = Recipe { format: Format::Q4, embedding: Some(Format::Q4), state: StateFormat::F32, cache: CACHE };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/families").join(name)
}

/// A file made of the fixture; the work is interrupted when fewer than `left` stretches are still to come.
fn make(name: &str, out: &Path, format: Format, resume: bool, left: usize) -> Option<Vec<u8>> {
    let whole = name.strip_suffix(" in pieces");
    let checkpoint = Checkpoint::open(fixture(whole.unwrap_or(name))).unwrap();
    let mut graph = families::build(&checkpoint).unwrap();
    if whole.is_some() {
        let Input::Tokens { vocab, .. } = graph.input else { panic!("{name} takes no tokens") };
        let backwards: Vec<u32> = (0..vocab).rev().collect();
        assert!(cut_tables(&mut graph, 1, Some(&backwards)) + cut_projections(&mut graph, 1) > 1);
    }
    let Input::Tokens { vocab, .. } = graph.input else { panic!("{name} takes no tokens") };
    let calibration = Calibration::Tokens((0..700u32).map(|i| (i * i + 7 * i) % vocab).collect());
    let options = Options { method: Method::Gptq, calibration: &calibration, steps: 640, resume };
    let recipe = Recipe { format, ..RECIPE };
    let run = || {
        write_calibrated(&graph, &recipe, &recipe.formats(&graph), options, out, &mut |progress| {
            if let CalibrateProgress::Walking(walking) = progress {
                assert!(walking.total - walking.done >= left, "interrupted");
            }
        })
    };
    let (_, failed) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()?.unwrap();
    assert!(failed.is_none(), "{failed:?}");
    Some(std::fs::read(out).unwrap())
}

#[test]
fn threads_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["granite-moe", "zamba2-two-blocks", "llama-tied", "switch", "mamba-untied-bias in pieces", "granite-nope in pieces"] {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| make(name, &dir.path().join(format!("{threads}.brook")), Format::Q4, false, 0).unwrap())
        };
        assert!(with(1) == with(3), "{name}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().all(|e| e.unwrap().path().extension().is_some_and(|e| e == "brook")));
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["granite-nope", "zamba2-two-blocks", "granite-nope in pieces"] {
        let whole = make(name, &dir.path().join("whole.brook"), Format::Q4, false, 0).unwrap();
        let out = dir.path().join("model.brook");
        let parts = dir.path().join("model.brook.parts");
        let kept =
            || std::fs::read_dir(&parts).unwrap().map(|e| (e.as_ref().unwrap().path(), e.unwrap().metadata().unwrap().modified().unwrap()));
        // What another recipe left is of no use.
        assert!(make(name, &out, Format::Q3, false, 4).is_none());
        assert!(make(name, &out, Format::Q4, true, 4).is_none());
        let before: Vec<_> = kept().collect();
        assert!(!before.is_empty() && !out.exists());
        assert!(make(name, &out, Format::Q4, true, 2).is_none());
        assert!(kept().count() > before.len(), "{name}: no further than before");
        assert!(before.iter().all(|old| kept().any(|new| new == *old)), "{name}: parts were made again");
        assert!(make(name, &out, Format::Q4, true, 0).unwrap() == whole, "{name}");
        assert!(!parts.exists());
        std::fs::remove_file(&out).unwrap();
    }
}
