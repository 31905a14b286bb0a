//! Files fitted to budgets: never larger, hardly smaller, what was planned, and refused when they cannot be.

use brooklet::Model;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet_quantize::allocate::{Allocation, Goal, Ram, Request, allocate};
use brooklet_quantize::fit::{Calibration, FitProgress};
use brooklet_quantize::graph::Graph;
use brooklet_quantize::methods::Method;
use brooklet_quantize::passes::{LEAST_ROWS_TO_CUT, cut_tables};
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Error, Recipe, StateFormat, families, lower, report, shapes};
use brooklet_tests::fixtures;
use serde_json::json;
use std::path::Path;

const FORMATS: [Format; 7] = [Format::T2, Format::Q3, Format::Q4, Format::Q5, Format::Q6, Format::Q8, Format::F16];

/// One of the repository's family fixtures.
fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(fixtures().join("families").join(name)).unwrap()
}

/// A short stream for a model of tokens; sensor models get noise.
fn tokens(graph: &Graph<'_>) -> Option<Calibration> {
    let brooklet_quantize::graph::Input::Tokens { vocab, .. } = graph.input else { return None };
    let mut x = 7u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) % vocab
    };
    Some(Calibration::Tokens((0..600).map(|_| next()).collect()))
}

/// What is asked for in a test.
struct Ask<'a> {
    goal: Goal,
    recipes: &'a [Recipe],
    ram: Option<Ram>,
    plan_only: bool,
    ledger: Option<&'a Path>,
}

impl Ask<'_> {
    fn of(goal: Goal) -> Self {
        const USUAL: Recipe = Recipe {
            format: Format::Q8,
            embedding: None,
            state: StateFormat::F32,
            cache: Cache { context: 64, sink: Some(4), format: CacheFormat::Int8 },
        };
        Ask { goal, recipes: const { &[USUAL] }, ram: None, plan_only: false, ledger: None }
    }
}

fn fit(graph: &Graph<'_>, ask: &Ask<'_>, out: &Path) -> Result<Allocation, Error> {
    let calibration = tokens(graph);
    let Ask { goal, recipes, ram, plan_only, ledger } = *ask;
    let request =
        Request { goal, recipes, ram, formats: &FORMATS, calibration: calibration.as_ref(), ledger, plan_only, method: Method::Nearest };
    let mut write = |recipe: &Recipe, formats: &[Option<Format>], path: &Path, _: &mut dyn FnMut(FitProgress<'_>)| {
        lower::write_formats(graph, recipe, formats, path, &mut |_| {})
    };
    allocate(graph, &request, out, &mut write, &mut |_| {})
}

/// The sizes of the smallest and of the largest file.
fn sizes(graph: &Graph<'_>, out: &Path) -> (u64, u64) {
    let error = fit(graph, &Ask::of(Goal::Bytes(1)), out).unwrap_err().to_string();
    let smallest = error.split("the smallest possible file takes ").nth(1).unwrap_or_else(|| panic!("{error}"));
    let largest = fit(graph, &Ask { plan_only: true, ..Ask::of(Goal::Bytes(1 << 40)) }, out).unwrap();
    assert!(largest.is_finest);
    (smallest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap(), largest.file_bytes)
}

#[test]
fn files_are_within_their_budgets_and_fill_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.brook");
    for name in ["mamba-a", "granite-moe", "sensor-mamba2-last", "rnn-gru-unit"] {
        let checkpoint = checkpoint(name);
        let graph = families::build(&checkpoint).unwrap();
        let ledger = dir.path().join(format!("{name}.json"));
        let (smallest, largest) = sizes(&graph, &out);
        for share in [0, 7, 31, 52, 78, 100] {
            let limit = smallest + (largest - smallest) * share / 100;
            let ask = Ask { ledger: Some(&ledger), ..Ask::of(Goal::Bytes(limit)) };
            let a = fit(&graph, &ask, &out).unwrap_or_else(|e| panic!("{name}, {limit} bytes: {e}"));
            let file = MappedFile::open(&out).unwrap();
            assert_eq!(file.bytes().len() as u64, a.file_bytes, "{name}");
            assert!(a.file_bytes <= limit, "{name}: {} of {limit}", a.file_bytes);
            // Nothing that would lose less fits in the rest.
            for part in &a.parts {
                let better = part.choices.iter().filter(|c| c.loss < part.choice().loss);
                let least = better.map(|c| c.bytes.saturating_sub(part.choice().bytes)).min();
                assert!(least.is_none_or(|bytes| a.file_bytes + bytes > limit.saturating_sub(64)), "{name}, {limit}: {}", part.name);
            }
            // The plan is the file.
            let plan = fit(&graph, &Ask { plan_only: true, ..ask }, &out).unwrap();
            assert!(plan.report.is_none());
            assert_eq!((plan.formats, plan.file_bytes, plan.predicted), (a.formats.clone(), a.file_bytes, a.predicted), "{name}");
            assert_eq!((plan.measured.mean, plan.ram_bytes), (a.measured.mean, a.ram_bytes), "{name}");
            let model = Model::from_bytes(file.bytes()).unwrap();
            let in_file = (0..a.formats.len() as u32).map(|i| model.artifact().section(i).unwrap().content.format());
            assert!(in_file.eq(a.formats.iter().copied()), "{name}");
            assert_eq!((model.state_bytes() + model.scratch_bytes(1)) as u64, a.ram_bytes);
        }
    }
}

/// A hybrid of two million random weights: sizes do not depend on what was learned.
#[test]
fn twenty_budgets_in_a_row_are_kept_and_filled() {
    if std::env::var_os("BROOKLET_LONG").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (out, ledger) = (dir.path().join("model.brook"), dir.path().join("ledger.json"));
    let config = json!({"model_type": "brooklet_hybrid", "vocab_size": 4096, "d_model": 192, "norm_epsilon": 1e-5, "tie_word_embeddings": true,
        "layers": ["mamba2", "mamba2", "attention", "mamba2"],
        "attention": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "rope_theta": 10000.0},
        "mamba2": {"heads": 6, "headdim": 64, "d_state": 32, "ngroups": 1, "d_conv": 4}});
    let checkpoint = shapes::random("hybrid", config).unwrap();
    let mut graph = families::build(&checkpoint).unwrap();
    assert_eq!(cut_tables(&mut graph, LEAST_ROWS_TO_CUT, None), 1);
    for i in 0..20 {
        let bits = 3.0 + 6.0 * f64::from(i) / 19.0;
        let ask = Ask { ledger: Some(&ledger), ..Ask::of(Goal::BitsPerWeight(bits)) };
        let a = fit(&graph, &ask, &out).unwrap_or_else(|e| panic!("{bits} bits: {e}"));
        let (bytes, limit) = (std::fs::metadata(&out).unwrap().len(), a.limit_bytes.unwrap());
        println!("{bits:.3} bits: {bytes} of {limit}, {:.4}", bytes as f64 / limit as f64);
        assert!(bytes <= limit, "{bits} bits: {bytes} of {limit}");
        assert!(bytes as f64 >= 0.985 * limit as f64 || a.is_finest, "{bits} bits: {bytes} of {limit}");
    }
}

#[test]
fn impossible_budgets_name_the_least_that_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.brook");
    let checkpoint = checkpoint("granite-nope");
    let graph = families::build(&checkpoint).unwrap();
    let (smallest, _) = sizes(&graph, &out);
    assert!(fit(&graph, &Ask::of(Goal::Bytes(smallest)), &out).is_ok());
    std::fs::remove_file(&out).unwrap();
    let flash = Goal::Flash { bytes: 9000 + smallest - 1, code_bytes: 9000 };
    for (goal, says) in [
        (Goal::Bytes(smallest - 1), vec!["--fit", "largest parts", "embed_tokens", "header"]),
        (flash, vec!["--flash", "code takes 9000", "with the code"]),
        (Goal::BitsPerWeight(0.5), vec!["--bits", "0.5 bits per weight are"]),
        (Goal::BitsPerWeight(f64::NAN), vec!["--bits", "such as 4.25"]),
        (Goal::PerplexityRatio(0.9), vec!["--max-ppl-ratio", "above 1"]),
    ] {
        let error = fit(&graph, &Ask::of(goal), &out).unwrap_err().to_string();
        assert!(says.iter().all(|say| error.contains(say)), "{error}");
        assert!(!out.exists());
    }
    let sensor = self::checkpoint("sensor-mamba2-last");
    let error = fit(&families::build(&sensor).unwrap(), &Ask::of(Goal::PerplexityRatio(1.1)), &out).unwrap_err().to_string();
    assert!(error.contains("--fit") && error.contains("--max-kl"), "{error}");
}

#[test]
fn ram_decides_what_a_stream_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.brook");
    let checkpoint = checkpoint("granite-nope");
    let graph = families::build(&checkpoint).unwrap();
    let recipe = |state, format| Recipe { state, cache: Cache { context: 64, sink: Some(4), format }, ..Recipe::default() };
    let recipes = [
        recipe(StateFormat::F32, CacheFormat::F32),
        recipe(StateFormat::F32, CacheFormat::Int8),
        recipe(StateFormat::F16, CacheFormat::Int8),
    ];
    let with = |bytes| {
        let ram = Some(Ram { bytes, firmware_bytes: 1000 });
        fit(&graph, &Ask { recipes: &recipes, ram, plan_only: true, ..Ask::of(Goal::BitsPerWeight(12.0)) }, &out)
    };
    let plenty = with(1 << 20).unwrap();
    assert_eq!((plenty.recipe, plenty.memory_loss), (recipes[0], 0.0));
    let less = with(plenty.ram_bytes + 999).unwrap();
    assert!(less.recipe != recipes[0] && less.memory_loss > 0.0 && less.ram_bytes < plenty.ram_bytes);
    let error = with(1100).unwrap_err().to_string();
    assert!(error.contains("--ram") && error.contains("1000 of the firmware's stack"), "{error}");
    let least: u64 = error.split("smallest possible figure is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(with(least).unwrap().ram_bytes + 1000, least);
    assert!(with(least - 1).is_err());
}

#[test]
fn more_ram_makes_no_file_worse() {
    let dir = tempfile::tempdir().unwrap();
    let (out, ledger) = (dir.path().join("model.brook"), dir.path().join("ledger.json"));
    for name in ["sensor-mamba2-last", "granite-nope"] {
        let checkpoint = checkpoint(name);
        let graph = families::build(&checkpoint).unwrap();
        let recipe = |state| Recipe { state, cache: Cache { context: 64, sink: Some(4), format: CacheFormat::F32 }, ..Recipe::default() };
        let recipes = [recipe(StateFormat::F32), recipe(StateFormat::F16)];
        let (smallest, largest) = sizes(&graph, &out);
        let goal = Goal::Bytes(smallest + (largest - smallest) * 9 / 10);
        let with = |bytes| {
            let ram = Some(Ram { bytes, firmware_bytes: 0 });
            fit(&graph, &Ask { recipes: &recipes, ram, plan_only: true, ledger: Some(&ledger), ..Ask::of(goal) }, &out)
        };
        let error = with(1).unwrap_err().to_string();
        let least: u64 = error.split("smallest possible figure is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let most = with(1 << 30).unwrap().ram_bytes;
        let (mut best, mut seen) = (f64::INFINITY, Vec::new());
        // Just below the most, a memory in whole floats leaves no room for matrices in floats.
        for bytes in [least, (least + most) / 2, most - 128, most - 32, most] {
            let a = with(bytes).unwrap();
            assert!(a.ram_bytes <= bytes && a.measured.mean <= 1.5 * best, "{name}, {bytes} bytes: {:e} after {best:e}", a.measured.mean);
            best = best.min(a.measured.mean);
            seen.push((a.recipe.state == StateFormat::F16, a.formats.contains(&Some(Format::F16))));
        }
        // Half-float states with matrices in floats are between those without and whole floats throughout.
        assert!(seen.contains(&(true, true)) && seen.last() == Some(&(false, true)), "{name}: {seen:?}");
    }
}

#[test]
fn perplexity_stays_below_its_bound_and_the_report_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.brook");
    let checkpoint = checkpoint("mamba2-g1");
    let graph = families::build(&checkpoint).unwrap();
    let ask = Ask { plan_only: true, ..Ask::of(Goal::PerplexityRatio(1.005)) };
    let a = fit(&graph, &ask, &out).unwrap();
    let (_, ratio) = a.measured.perplexity.unwrap();
    assert!(ratio <= 1.005, "{ratio}");

    let json: serde_json::Value = serde_json::from_str(&report::to_json(&graph.card, &a).to_string()).unwrap();
    assert_eq!(json["file_bytes"], a.file_bytes);
    assert_eq!(json["parts"].as_array().unwrap().len(), a.parts.len());
    assert_eq!(json["perplexity_ratio"], ratio);
    let shares: f64 = json["parts"].as_array().unwrap().iter().map(|p| p["loss"].as_f64().unwrap()).sum();
    assert!((shares + a.memory_loss - a.sum_of_parts()).abs() <= 1e-9 * a.predicted);
    // This stream is noise, 16,384 steps of it: what is foretold is what is measured.
    for foretold in [a.predicted, a.sum_of_parts()] {
        assert!((1.0 / 1.5..1.5).contains(&(foretold / a.measured.mean)), "{foretold} {}", a.measured.mean);
    }
    assert!((1.0..1.5).contains(&a.predicted_within), "{}", a.predicted_within);
    let curve: Vec<(f64, f64)> =
        json["curve"].as_array().unwrap().iter().map(|p| (p["bytes"].as_f64().unwrap(), p["loss"].as_f64().unwrap())).collect();
    assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1));

    let page = report::html(&graph.card, &a);
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(page.matches("<tr>").count(), a.parts.len() + 1);
    // It needs nothing beside itself.
    assert!(!page.contains("http") && !page.contains("src=") && !page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn another_budget_measures_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let (out, ledger) = (dir.path().join("model.brook"), dir.path().join("ledger.json"));
    let checkpoint = checkpoint("mamba-a");
    let graph = families::build(&checkpoint).unwrap();
    let ask = |bits| Ask { plan_only: true, ledger: Some(&ledger), ..Ask::of(Goal::BitsPerWeight(bits)) };
    let first = fit(&graph, &ask(12.0), &out).unwrap();
    let kept = std::fs::read(&ledger).unwrap();
    let fresh = fit(&graph, &Ask { ledger: None, ..ask(14.0) }, &out).unwrap();
    let again = fit(&graph, &ask(14.0), &out).unwrap();
    assert_eq!(std::fs::read(&ledger).unwrap(), kept);
    assert_eq!((again.formats, again.predicted, again.measured.mean), (fresh.formats, fresh.predicted, fresh.measured.mean));
    assert!(first.file_bytes < fresh.file_bytes);
    let other = self::checkpoint("mamba2-g1");
    // Another checkpoint adds its own.
    fit(&families::build(&other).unwrap(), &ask(12.0), &out).unwrap();
    let both = std::fs::read(&ledger).unwrap();
    assert!(both.len() > kept.len());
    fit(&graph, &ask(12.0), &out).unwrap();
    assert_eq!(std::fs::read(&ledger).unwrap(), both);
}
