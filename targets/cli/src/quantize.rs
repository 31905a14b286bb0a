//! `brooklet quantize`: from a checkpoint to one `.brook` file.

use crate::allocate;
use crate::calibrate;
#[cfg(feature = "download")]
use crate::download;
use crate::fit::{self, plainly};
use crate::inspect::next_step;
use crate::interrupt::tidy_on_ctrl_c;
use crate::model_file::ModelFile;
use crate::output::{expect_apart, expect_place, write_file};
use crate::passes;
use crate::sheet::{Sheet, short};
use anyhow::{Result, anyhow, bail};
use brooklet::kernels::quant::Format;
use brooklet_quantize::allocate::Allocation;
use brooklet_quantize::fit::Fitted;
use brooklet_quantize::graph::{Card, Graph, Input, Output};
use brooklet_quantize::methods::Method;
use brooklet_quantize::passes::{Choice, LEAST_ROWS_OF_PROJECTION, LEAST_ROWS_TO_CUT, Passes, cut_projections, cut_tables, take_order};
use brooklet_quantize::{
    Cache, CacheFormat, Checkpoint, Destination, Recipe, Report, StateFormat, families, lower, remove_unfinished, report,
};
use brooklet_text::TextCodec;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  brooklet quantize path/to/checkpoint
  brooklet quantize path/to/checkpoint -o model.brook --format q8 --verbose
  brooklet quantize model.gguf --format q8
  brooklet quantize ibm-granite/granite-4.0-h-350m
  brooklet quantize path/to/checkpoint --context 4096 --stop --cache f32 --report report.json
  brooklet quantize path/to/checkpoint --fit 24MiB --calibration sample.txt --report report.html
  brooklet quantize path/to/checkpoint --bits 4.25 --plan
  brooklet quantize examples/models/watch --flash 512KiB --ram 64KiB --core cortex-m4f
  brooklet quantize path/to/checkpoint --format q8 --max-kl 0.001 --calibration sample.txt";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Folder with config.json, the .safetensors files and, for text, tokenizer.json; or a .gguf file; or a model's name on the Hugging Face
    /// Hub, which is downloaded into its usual cache folder (HF_HOME, HF_TOKEN and HF_ENDPOINT count as they do elsewhere)
    checkpoint: PathBuf,
    /// File to make; without it, the folder's name with .brook, here
    #[arg(short, long, value_name = "OUT.brook")]
    output: Option<PathBuf>,
    /// How the matrices are stored: f32, f16, q8, q6, q5, q4, q3 or t2, which keeps weights trained as -1, 0 and 1 as they are
    #[arg(long, default_value = "q4", value_parser = format, conflicts_with_all = ["fit", "bits", "flash", "max_ppl_ratio"])]
    format: Format,
    /// How the embedding is stored; without it, q8 for models of fewer bits, else as the others
    #[arg(long, value_name = "FORMAT", value_parser = format, conflicts_with_all = ["fit", "bits", "flash", "max_ppl_ratio"])]
    embedding: Option<Format>,
    /// Positions that attention looks back over
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: u32,
    /// First positions that attention keeps when it has seen more than it can hold
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "stop")]
    sink: u32,
    /// Refuse steps beyond the context instead of forgetting
    #[arg(long)]
    stop: bool,
    /// How attention's keys and values are stored: int8, int4 or f32; without it int8, or with --ram the finest that fits
    #[arg(long, value_parser = cache_format)]
    cache: Option<CacheFormat>,
    /// How recurrent states are kept between steps: f32, or f16 for half the memory and its traffic; without it f32, or with --ram the finest
    /// that fits
    #[arg(long, value_parser = state_format)]
    state: Option<StateFormat>,
    /// Keep matrices in finer formats until the mean divergence from the float model is at most this
    #[arg(long, value_name = "NATS", value_parser = nats, group = "bound")]
    max_kl: Option<f64>,
    #[command(flatten)]
    budget: allocate::Options,
    /// How codes of fewer than 8 bits are chosen: nearest, weighted (by each input's importance) or gptq (inputs together)
    #[arg(long, value_parser = ["nearest", "weighted", "gptq"], conflicts_with = "max_kl")]
    method: Option<String>,
    /// Steps of the calibration that --method runs the model on; without it, as many as suit its size
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calibration_steps: Option<u32>,
    /// Go on from what an interrupted run of the same command left in OUT.brook.parts
    #[arg(long)]
    resume: bool,
    /// Changes before rounding that leave the model as it is: none, auto (what brings a measured gain), or some of fold, rotate,
    /// smooth, hadamard; without it none, but for a text model under a budget hadamard, if that brings a measured gain
    #[arg(long, value_name = "WHICH")]
    passes: Option<passes::Wanted>,
    /// What --method, --max-kl, --passes auto and budgets run on, text or a CSV recording; without it, a built-in text or noise around the
    /// input's normalisation
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Column of the calibration recording with each sample's time, in seconds
    #[arg(long, value_name = "NAME", requires = "calibration")]
    time_column: Option<String>,
    /// Also write sizes and errors of all tensors to this file; for a budget what was chosen and why, as a page if the name ends in .html.
    /// Can be given twice
    #[arg(long, value_name = "REPORT.json")]
    report: Vec<PathBuf>,
    /// Print every tensor
    #[arg(short, long)]
    verbose: bool,
}

/// Most ids of a vocabulary that may be one of bytes.
const MOST_BYTES: u32 = 512;

/// Reads a format's name.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    let mut known = Format::ALL.map(Format::name);
    known.reverse();
    let found = Format::ALL.into_iter().find(|format| format.name() == text);
    found.ok_or_else(|| format!("choose one of {}", known.join(", ")))
}

/// Reads the name of a state's format.
pub(crate) fn state_format(text: &str) -> Result<StateFormat, String> {
    let known = [StateFormat::F32, StateFormat::F16];
    known.into_iter().find(|format| format.name() == text).ok_or_else(|| "choose f32 or f16".to_owned())
}

/// Reads the name of a cache's format.
pub(crate) fn cache_format(text: &str) -> Result<CacheFormat, String> {
    let known = [CacheFormat::F32, CacheFormat::Int8, CacheFormat::Int4];
    known.into_iter().find(|format| format.name() == text).ok_or_else(|| "choose int8, int4 or f32".to_owned())
}

fn nats(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x > 0.0 && x.is_finite()).ok_or_else(|| "must be a number of nats per step above 0".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let sink = if args.stop { None } else { Some(args.sink) };
    if sink.is_some_and(|sink| sink >= args.context) {
        bail!("--sink {}: must be smaller than --context {}, or no position is left for what is new", args.sink, args.context);
    }
    let cache = Cache { context: args.context, sink, format: args.cache.unwrap_or(CacheFormat::Int8) };
    let recipe = Recipe { format: args.format, embedding: args.embedding, state: args.state.unwrap_or_default(), cache };
    let checkpoint = open(&args.checkpoint)?;
    let out = match &args.output {
        Some(path) => path.clone(),
        None => default_output(&checkpoint)?,
    };
    // Before any work is done for it.
    Destination::of(&out).and_then(|place| place.outside(&checkpoint)).map_err(plainly)?;
    let unfinished = out.clone();
    tidy_on_ctrl_c(move || remove_unfinished(&unfinished))?;
    expect_places(args, &checkpoint, &out)?;
    for note in checkpoint.notes().map_err(plainly)? {
        writeln!(io::stderr(), "note: {note}")?;
    }
    let source = calibrate::Source { file: args.calibration.as_deref(), time_column: args.time_column.as_deref() };
    let how = calibrate::How {
        method: if args.max_kl.is_some() { Method::Nearest } else { method(args) },
        steps: args.calibration_steps.map(|n| n as usize),
    };
    let mut graph = families::build(&checkpoint).map_err(plainly)?;
    note_left_behind(&checkpoint)?;
    note_unusable_tokenizer(&graph, &checkpoint)?;
    note_unused(args, how.method)?;
    let wishes = |calibration| allocate::Wishes { how, resume: args.resume, cache: args.cache, state: args.state, calibration };
    if args.budget.is_given() {
        allocate::check(&graph, &recipe, &args.budget, &wishes(None), &out)?;
    }
    // Under a budget passes are tried in the format that the file will mostly be in, rounded as files are that are only measured.
    let nearest = args.budget.nearest_format(&graph);
    let (tried, tried_how) = match nearest {
        Some(format) => (Recipe { format, embedding: Some(format), ..recipe }, calibrate::How { method: Method::Nearest, ..how }),
        None => (recipe, how),
    };
    // Frames are read by firmware too, which has no transforms unless it was asked for; trials compare probabilities.
    let can_try = matches!(graph.input, Input::Tokens { .. }) && !matches!(graph.output, Output::Values { .. });
    let transforms = can_try && nearest.is_some() && !args.budget.is_for_firmware();
    let usual = if transforms { passes::Wanted::Among(Passes::HADAMARD) } else { passes::Wanted::These(Passes::NONE) };
    let chosen = passes::choose(args.passes.unwrap_or(usual), &checkpoint, &tried, source, tried_how, &out)?;
    let smoothed_by = if chosen.passes.smooth { tried_how.stream(&graph, source)? } else { None };
    chosen.passes.apply(&mut graph, smoothed_by.as_ref()).map_err(plainly)?;
    passes::print(&mut io::stdout().lock(), &chosen)?;
    if args.budget.is_given() {
        let mut stream = how.stream(&graph, source)?;
        // Firmware has no use for large vocabularies, and leaves out what reads them in pieces.
        if !args.budget.is_for_firmware() {
            let order = stream.as_mut().filter(|_| source.file.is_some()).and_then(|stream| take_order(&graph, stream));
            cut_tables(&mut graph, LEAST_ROWS_TO_CUT, order.as_deref());
            cut_projections(&mut graph, LEAST_ROWS_OF_PROJECTION);
            // The least budgets have no room for what says where pieces lie.
            if allocate::check(&graph, &recipe, &args.budget, &wishes(None), &out).is_err() {
                graph = families::build(&checkpoint).map_err(plainly)?;
                chosen.passes.apply(&mut graph, smoothed_by.as_ref()).map_err(plainly)?;
                stream = calibrate::read(&graph, source)?;
            }
        }
        return run_budget(args, &graph, &recipe, &wishes(stream), &chosen, &out);
    }
    let (report, fitted) = match args.max_kl {
        Some(max_kl) => {
            let fitted = fit::run(&graph, &recipe, max_kl, args.calibration.as_deref(), args.time_column.as_deref(), &out)?;
            (fitted.report.clone(), Some(fitted))
        }
        None if how.method == Method::Nearest => (write_plain(&graph, &recipe, &out)?, None),
        None => (calibrate::run(&graph, &recipe, source, how, args.resume, &out)?, None),
    };
    for path in &args.report {
        write_report(path, &out, &report, fitted.as_ref(), &chosen)?;
    }
    print(args, &out, &report, fitted.as_ref())
}

/// Refuses outputs that cannot be written, or that would take the place of one another or of what is read.
fn expect_places(args: &Args, checkpoint: &Checkpoint, out: &Path) -> Result<()> {
    args.report.iter().try_for_each(|path| expect_place(path))?;
    let reports = args.report.iter().map(|path| ("--report", &**path));
    let ledger = args.budget.ledger.iter().map(|path| ("--ledger", &**path));
    // A plan makes no file.
    let made = Some(("-o", out)).filter(|_| !args.budget.plan);
    let outputs: Vec<_> = made.into_iter().chain(reports).chain(ledger).collect();
    let calibration: Vec<_> = args.calibration.iter().map(|path| ("--calibration", &**path)).collect();
    expect_apart(&outputs, &calibration)?;
    for (_, path) in outputs.iter().filter(|(_, path)| path.is_file()) {
        Destination::of(path).and_then(|place| place.outside(checkpoint)).map_err(plainly)?;
    }
    Ok(())
}

/// Says which options have nothing to do.
fn note_unused(args: &Args, method: Method) -> Result<()> {
    let is_budget = args.budget.is_given();
    let is_nearest = method == Method::Nearest;
    let has_page = args.report.iter().any(|path| is_page(path));
    let is_read = !is_nearest || is_budget || args.max_kl.is_some() || args.passes.is_some();
    let notes = [
        (args.resume && is_nearest, "--resume: goes on with --method gptq or weighted, which this is not"),
        (args.calibration_steps.is_some() && is_nearest, "--calibration-steps: are those of --method gptq or weighted, which this is not"),
        (args.calibration.is_some() && !is_read, "--calibration: is not read, since --method nearest has no use for it"),
        (has_page && !is_budget, "--report: a page is made for a budget; what is written is JSON"),
    ];
    notes.iter().filter(|(holds, _)| *holds).try_for_each(|(_, note)| writeln!(io::stderr(), "note: {note}"))?;
    Ok(())
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("html"))
}

/// Says what commands that take text would say of the file.
fn note_unusable_tokenizer(graph: &Graph<'_>, checkpoint: &Checkpoint) -> Result<()> {
    let Input::Tokens { vocab, bos, eos } = graph.input else { return Ok(()) };
    match TextCodec::new(graph.tokenizer.as_deref(), vocab, bos, eos, &graph.card.name) {
        Ok(_) if graph.tokenizer.is_none() && checkpoint.unread_tokenizer().is_some() => Ok(writeln!(
            io::stderr(),
            "note: {}: the file takes each byte of a text as a token",
            checkpoint.unread_tokenizer().unwrap_or_default()
        )?),
        // Bytes and a few tokens more are a vocabulary of bytes.
        Ok(_) if graph.tokenizer.is_none() && vocab > MOST_BYTES => Ok(writeln!(
            io::stderr(),
            "note: there is no tokenizer.json: the file takes each byte of a text as a token, which {vocab} ids were hardly trained on; put the model's \
             own beside config.json and quantize again"
        )?),
        Ok(_) => Ok(()),
        Err(e) => Ok(writeln!(io::stderr(), "note: {e:#}; without it the file takes tokens, but no text")?),
    }
}

/// Says which tensors are in no operation of the model.
fn note_left_behind(checkpoint: &Checkpoint) -> Result<()> {
    const SHOWN: usize = 3;
    let left = checkpoint.left_behind();
    if left.is_empty() {
        return Ok(());
    }
    let (shown, more) = (left[..left.len().min(SHOWN)].join(", "), if left.len() > SHOWN { ", .." } else { "" });
    Ok(writeln!(
        io::stderr(),
        "note: tensors that config.json gives no place in the model are left out, {} of them: {shown}{more}",
        left.len()
    )?)
}

/// Makes the best file within a budget, or shows what it would be.
fn run_budget(args: &Args, graph: &Graph<'_>, recipe: &Recipe, wishes: &allocate::Wishes, passes: &Choice, out: &Path) -> Result<()> {
    let chosen = allocate::run(graph, recipe, &args.budget, wishes, out)?;
    for path in &args.report {
        write_allocation(path, &graph.card, &chosen, passes)?;
    }
    allocate::print(&mut io::stdout().lock(), &chosen, args.budget.plan || args.verbose)?;
    match &chosen.report {
        Some(report) => print(args, out, report, None),
        None => Ok(()),
    }
}

/// Writes what was chosen as a page or, for any other name, as JSON.
fn write_allocation(path: &Path, card: &Card, chosen: &Allocation, passes: &Choice) -> Result<()> {
    let text = if is_page(path) {
        report::html(card, chosen)
    } else {
        let mut json = report::to_json(card, chosen);
        json["passes"] = passes::json(passes);
        format!("{json:#}\n")
    };
    write_file(path, |out| Ok(out.write_all(text.as_bytes())?))
}

/// What was asked for; without that, what suits the format and what there is to calibrate on.
fn method(args: &Args) -> Method {
    match args.method.as_deref() {
        Some("nearest") => Method::Nearest,
        Some("weighted") => Method::Weighted,
        Some(_) => Method::Gptq,
        None if args.calibration.is_some() => Method::Gptq,
        None => Method::Nearest,
    }
}

/// A checkpoint by its place, or by its name on the hub.
fn open(place: &Path) -> Result<Checkpoint> {
    #[cfg(feature = "download")]
    if let Some(name) = place.to_str().filter(|_| !place.exists()).and_then(download::Name::parse) {
        return Checkpoint::open_as(download::fetch(&name)?, place.file_name().map(|name| name.to_string_lossy().into_owned()))
            .map_err(plainly);
    }
    Checkpoint::open(place).map_err(plainly)
}

/// Makes the file as the recipe says.
fn write_plain(graph: &Graph<'_>, recipe: &Recipe, out: &Path) -> Result<Report> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes}  {msg}") {
        bar.set_style(style);
    }
    let report = lower::write_graph(graph, recipe, out, &mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
        bar.set_message(progress.tensor.to_owned());
    });
    bar.finish_and_clear();
    report.map_err(plainly)
}

/// The checkpoint's own name, even if it was given as `.`.
fn default_output(checkpoint: &Checkpoint) -> Result<PathBuf> {
    let name = checkpoint.name();
    let name = name.ok_or_else(|| anyhow!("{}: has no name to call the file by; give one with -o", checkpoint.dir().display()))?;
    Ok(PathBuf::from(name + ".brook"))
}

fn print(args: &Args, out_path: &Path, report: &Report, fitted: Option<&Fitted>) -> Result<()> {
    let file = ModelFile::open(out_path)?;
    let model = file.model()?;
    let mut out = io::stdout().lock();
    if args.verbose {
        writeln!(out, "{:<6} {:>16} {:>12} {:>10}  tensor", "format", "shape", "bytes", "error")?;
        for t in &report.tensors {
            let shape = format!("{} x {}", t.rows, t.cols);
            writeln!(out, "{:<6} {shape:>16} {:>12} {:>10}  {}", t.format, t.bytes, percent(t.relative_error), t.name)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{:<6} {:>8} {:>12} {:>10}  {:>10}", "format", "tensors", "size", "mean error", "largest")?;
    for (format, sum) in by_format(report) {
        let mean = sum.error_bytes / sum.bytes.max(1) as f64;
        writeln!(
            out,
            "{format:<6} {:>8} {:>12} {:>10}  {:>10}",
            sum.tensors,
            short(sum.bytes),
            percent(mean as f32),
            percent(sum.largest_error)
        )?;
    }
    writeln!(out)?;
    if let Some(fitted) = fitted {
        fit::print(&mut out, fitted, args.verbose)?;
    }
    Sheet::of(&model).print(&mut out)?;
    writeln!(out, "\nMade {}. Next:\n  {}", out_path.display(), next_step(&model, &file.name()))?;
    Ok(())
}

#[derive(Default)]
struct Sum {
    tensors: usize,
    bytes: u64,
    /// Errors weighted by bytes.
    error_bytes: f64,
    largest_error: f32,
}

fn by_format(report: &Report) -> BTreeMap<&'static str, Sum> {
    let mut sums = BTreeMap::<&'static str, Sum>::new();
    for t in &report.tensors {
        let sum = sums.entry(t.format).or_default();
        sum.tensors += 1;
        sum.bytes += t.bytes;
        sum.error_bytes += f64::from(t.relative_error) * t.bytes as f64;
        sum.largest_error = sum.largest_error.max(t.relative_error);
    }
    sums
}

/// An error relative to the weights.
pub(crate) fn percent(error: f32) -> String {
    if error == 0.0 { "-".to_owned() } else { format!("{:.3} %", 100.0 * error) }
}

fn write_report(path: &Path, model: &Path, report: &Report, fitted: Option<&Fitted>, chosen: &Choice) -> Result<()> {
    let tensors: Vec<_> = report
        .tensors
        .iter()
        .map(|t| {
            serde_json::json!({
                "name": t.name, "rows": t.rows, "cols": t.cols, "format": t.format, "bytes": t.bytes, "relative_error": t.relative_error,
            })
        })
        .collect();
    let mut report = serde_json::json!({ "file": model.display().to_string(), "file_bytes": report.file_bytes, "tensors": tensors });
    if let Some(fitted) = fitted {
        report["divergence"] = fit::json(fitted);
    }
    report["passes"] = passes::json(chosen);
    write_file(path, |out| Ok(writeln!(out, "{report:#}")?))
}
