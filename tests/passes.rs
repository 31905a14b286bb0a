//! Passes change no output but for the last bits of float, and are kept only where they pay.

use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet_quantize::graph::{Graph, Values};
use brooklet_quantize::passes::{Done, Passes, choose};
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Error, Recipe, StateFormat, families, lower, shapes};
use brooklet_tests::{File, Sequence, family_fixtures, stream};
use serde_json::json;
use std::path::Path;

const FLOAT: Recipe = Recipe {
    format: Format::F32,
    embedding: None,
    state: StateFormat::F32,
    cache: Cache { context: 128, sink: None, format: CacheFormat::F32 },
};
const FOLD: Passes = Passes { fold: true, ..Passes::NONE };
const ROTATE: Passes = Passes { fold: true, rotate: true, ..Passes::NONE };
const SMOOTH: Passes = Passes { smooth: true, ..Passes::NONE };
const HADAMARD: Passes = Passes { hadamard: true, ..Passes::NONE };
const ALL: Passes = Passes { fold: true, rotate: true, smooth: true, hadamard: true };

fn write(graph: &Graph<'_>, recipe: &Recipe) -> File {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.brook");
    lower::write_graph(graph, recipe, &path, &mut |_| {}).unwrap();
    File::new(MappedFile::open(&path).unwrap().bytes())
}

fn passed(dir: &Path, passes: Passes, recipe: &Recipe) -> (File, Done) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let mut graph = families::build(&checkpoint).unwrap();
    let done = passes.apply(&mut graph, None).unwrap();
    (write(&graph, recipe), done)
}

#[test]
fn every_family_computes_the_same() {
    let (mut folded, mut rotated, mut smoothed, mut transformed) = (0, 0, 0, 0);
    for dir in family_fixtures() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let input = Sequence::open(&dir);
        let outputs = |file: &File| stream(&file.model(), kernels::detect(), &input, 64);
        let want = outputs(&File::quantized(&dir, &FLOAT));
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for passes in [FOLD, ROTATE, SMOOTH, HADAMARD, ALL] {
            let (file, done) = passed(&dir, passes, &FLOAT);
            let got = outputs(&file);
            let difference =
                got.iter().zip(&want).fold(0.0f32, |m, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { m.max((a - b).abs()) });
            println!("{name:28} {passes:22} {:.1e}  {done:?}", difference / largest);
            assert!(difference < 1e-4 * largest, "{name}, {passes}: {difference:e} of {largest}");
            if passes == ALL {
                folded += usize::from(done.folded > 0);
                rotated += usize::from(done.rotated > 0);
                smoothed += usize::from(done.smoothed > 0);
                transformed += usize::from(done.transformed > 0);
            }
        }
    }
    println!("families: {folded} with folds, {rotated} with rotations, {smoothed} smoothed, {transformed} with transforms");
    assert!(folded >= 20 && rotated >= 15 && smoothed >= 20 && transformed >= 20, "{folded} {rotated} {smoothed} {transformed}");
}

#[test]
fn files_with_transforms_give_the_same_bits_however_they_are_run() {
    for dir in family_fixtures() {
        let (file, done) = passed(&dir, ALL, &Recipe { format: Format::Q8, ..FLOAT });
        if done.transformed + done.bridged == 0 {
            continue;
        }
        let input = Sequence::open(&dir);
        let run = |table, chunk| stream(&file.model(), table, &input, chunk).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let want = run(kernels::available().next().unwrap(), 1);
        for table in kernels::available() {
            for chunk in [1, 5, 64] {
                assert!(run(table, chunk) == want, "{}: {} by {chunk}", dir.display(), table.name());
            }
        }
    }
}

/// A small transformer of random weights, made up: no checkpoint is read.
fn random(tied: bool) -> Checkpoint {
    let config = json!({"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 384, "rms_norm_eps": 1e-5, "tie_word_embeddings": tied});
    shapes::random("random", config).unwrap()
}

/// Changes the numbers of every matrix whose name ends so: row, column, number.
fn change<'a>(graph: &mut Graph<'a>, name: &str, f: impl Fn(usize, usize, f32) -> f32 + Copy + 'a) {
    for tensor in graph.tensors.iter_mut().filter(|tensor| tensor.name.ends_with(name)) {
        let cols = tensor.cols;
        let values = std::mem::replace(&mut tensor.values, Values::Array(Vec::new()));
        let Values::Matrix(role, load) = values else { panic!("{} is no matrix", tensor.name) };
        tensor.values =
            Values::Matrix(role, Box::new(move || Ok(load()?.into_iter().enumerate().map(|(i, w)| f(i / cols, i % cols, w)).collect())));
    }
}

fn chosen<'a>(build: &dyn Fn() -> Result<Graph<'a>, Error>, format: Format) -> Passes {
    let out = tempfile::tempdir().unwrap();
    let recipe = Recipe { format, ..FLOAT };
    let choice = choose(build, Passes::ALL, &recipe, None, &out.path().join("model.brook"), &mut |_, graph, path| {
        lower::write_graph(graph, &recipe, path, &mut |_| {})
    })
    .unwrap();
    for trial in &choice.trials {
        println!("{:22} {:.3e} nats, {} bytes{}", trial.passes, trial.kl, trial.bytes, if trial.kept { ", kept" } else { "" });
    }
    assert!(std::fs::read_dir(out.path()).unwrap().next().is_none(), "something was left behind");
    choice.passes
}

/// A divergence is one of probabilities.
#[test]
fn auto_refuses_measured_values() {
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with("rnn-gru-unit")).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let refused =
        choose(&|| families::build(&checkpoint), Passes::ALL, &FLOAT, None, Path::new("model.brook"), &mut |_, _, _| unreachable!());
    assert!(refused.unwrap_err().to_string().contains("--passes"));
}

#[test]
fn rotations_are_kept_where_they_pay() {
    for tied in [false, true] {
        let plain = random(tied);
        let passes = chosen(&|| families::build(&plain), Format::Q8);
        assert!(!passes.rotate && !passes.smooth && !passes.hadamard, "tied {tied}: {passes}");

        // A few channels of the stream are large at every token, as in trained transformers: they spoil their groups' rounding.
        let outliers = || {
            let mut graph = families::build(&plain)?;
            change(&mut graph, "embed_tokens.weight", |_, col, w| if col % 32 == 7 { w + 8.0 } else { w });
            Ok(graph)
        };
        let passes = chosen(&outliers, Format::Q8);
        assert!(passes.rotate, "tied {tied}: {passes}");
    }
}

#[test]
fn smoothing_and_transforms_are_kept_where_they_pay() {
    let plain = random(false);
    // Some channels inside the MLP are large, and their columns of the next matrix small: the same function in float.
    let outliers = || {
        let mut graph = families::build(&plain)?;
        change(&mut graph, "up_proj.weight", |row, _, w| if row % 32 == 3 { 256.0 * w } else { w });
        change(&mut graph, "down_proj.weight", |_, col, w| if col % 32 == 3 { w / 256.0 } else { w });
        Ok(graph)
    };
    let passes = chosen(&outliers, Format::Q8);
    assert!(passes.smooth && passes.hadamard, "{passes}");
}
