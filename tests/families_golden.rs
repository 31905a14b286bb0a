//! I6: every family in float gives what its reference implementation gives.
//!
//! The fixtures come from `quantize/reference/make_fixtures.py`; point `BROOKLET_FIXTURES` at a folder of fresh ones to try
//! other seeds.

use brooklet::artifact::OutputSpec;
use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet::ops::Op;
use brooklet_quantize::fit::quantize_within;
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Recipe, StateFormat, families};
use brooklet_tests::{File, Sequence, family_fixtures, read_npy, stream};

const FLOAT: Recipe = Recipe {
    format: Format::F32,
    embedding: None,
    state: StateFormat::F32,
    cache: Cache { context: 128, sink: None, format: CacheFormat::F32 },
};

fn largest(x: impl Iterator<Item = f32>) -> f32 {
    x.fold(0.0, |m, x| if x.is_nan() { f32::INFINITY } else { m.max(x.abs()) })
}

#[test]
fn float_outputs_match_the_reference() {
    for dir in family_fixtures() {
        let want = read_npy(&dir.join("expected.npy"));
        let input = Sequence::open(&dir);
        let file = File::quantized(&dir, &FLOAT);
        let model = file.model();
        for (how, chunk) in [("stepping", 1), ("prefill", 64)] {
            let got = stream(&model, kernels::detect(), &input, chunk);
            assert_eq!(got.len(), want.len(), "{}", dir.display());
            let difference = largest(got.iter().zip(&want).map(|(a, b)| a - b)) / largest(want.iter().copied());
            println!("{:24} {how:9} {difference:.1e}", dir.file_name().unwrap().to_string_lossy());
            assert!(difference <= 2e-5, "{} by {how}: {difference:e} of the largest logit", dir.display());
        }
    }
}

#[test]
fn eight_bits_stay_close_to_float() {
    for dir in family_fixtures() {
        let input = Sequence::open(&dir);
        let outputs = |format| {
            let file = File::quantized(&dir, &Recipe { format, ..FLOAT });
            let model = file.model();
            let decides = model.header().program.iter().flatten().any(|op| matches!(op, Op::Moe(_) | Op::Route(_)));
            (stream(&model, kernels::detect(), &input, 64), model.outputs(), decides)
        };
        let (float, count, decides) = outputs(Format::F32);
        // Random weights amplify rounding far beyond what trained ones do, some draws by 2e-2 nats: this bound is there to catch what is
        // broken, the printed figures are what to watch. What users are promised is the next test's bound.
        for (format, bound) in [(Format::Q8, Some(5e-2)), (Format::Q6, None), (Format::Q5, None), (Format::Q4, None), (Format::Q3, None)] {
            let (quantized, ..) = outputs(format);
            let mut steps = kl_by_step(&float, &quantized, count);
            let mean = steps.iter().sum::<f64>() / steps.len() as f64;
            println!("{:24} {} {mean:.1e} nats", dir.file_name().unwrap().to_string_lossy(), format.name());
            // Random routers decide by a hair, and one token that takes another expert outweighs all rounding: where a
            // model decides, the middle step is judged, else the mean.
            steps.sort_by(f64::total_cmp);
            let judged = if decides { steps[steps.len() / 2] } else { mean };
            assert!(bound.is_none_or(|b| judged <= b), "{}: {} is {judged} nats from float", dir.display(), format.name());
        }
    }
}

/// A file made for a bound holds it on the fixture's own input, which the fit has not seen: it measured on noise of its own.
#[test]
fn a_bound_on_the_divergence_holds_on_other_streams() {
    let max_kl = 1e-3;
    println!("{:30} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}", "q8, nats per step", "plain", "fitted", "measured", "of fit", "finer", "bytes");
    for dir in family_fixtures() {
        let name = dir.file_name().unwrap().to_string_lossy();
        let input = Sequence::open(&dir);
        let (float, plain) = (File::quantized(&dir, &FLOAT), File::quantized(&dir, &Recipe { format: Format::Q8, ..FLOAT }));
        if matches!(float.model().header().output, OutputSpec::Values { .. }) {
            continue;
        }
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("model.brook");
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let recipe = Recipe { format: Format::Q8, ..FLOAT };
        let fitted = quantize_within(&families::build(&checkpoint).unwrap(), &recipe, max_kl, None, &path, &mut |_| {}).unwrap();
        let file = File::new(MappedFile::open(&path).unwrap().bytes());

        let outputs = |file: &File| stream(&file.model(), kernels::detect(), &input, 64);
        let want = outputs(&float);
        let mean = |file: &File| {
            let steps = kl_by_step(&want, &outputs(file), float.model().outputs());
            steps.iter().sum::<f64>() / steps.len() as f64
        };
        let (before, after) = (mean(&plain), mean(&file));
        let finer = format!("{}/{}", fitted.finer.len(), fitted.rounded);
        let bytes = 100.0 * (file.bytes().len() as f64 / plain.bytes().len() as f64 - 1.0);
        println!("{name:30} {before:>9.1e} {after:>9.1e} {:>9.1e} {:>9.1e} {finer:>8} {bytes:>+7.1}%", fitted.plain_kl, fitted.kl);
        assert!(after <= max_kl, "{name}: {after} nats from float");
        assert!(fitted.kl <= max_kl, "{name}: {} nats from float where it was fitted", fitted.kl);
        assert_eq!(fitted.plain_bytes as usize, plain.bytes().len(), "{name}");
        assert_eq!(fitted.finer.is_empty(), file.bytes() == plain.bytes(), "{name}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1, "{name}: something was left behind");
    }
}

/// KL(p || q) of every step, in nats.
fn kl_by_step(p: &[f32], q: &[f32], count: usize) -> Vec<f64> {
    let log_softmax = |x: &[f32]| {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let total: f64 = x.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        x.iter().map(|&x| f64::from(x) - max - total.ln()).collect::<Vec<_>>()
    };
    let steps = p.chunks(count).zip(q.chunks(count));
    steps.map(|(p, q)| log_softmax(p).iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()).collect()
}
