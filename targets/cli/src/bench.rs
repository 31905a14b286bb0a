//! `brooklet bench`: how fast a model runs on this machine, with each set of kernels.

use crate::generate::per_second;
use crate::model_file::{Memory, ModelFile, all_kernels};
use crate::quantize::format;
use crate::sampler::SplitMix64;
use crate::sheet::short;
use anyhow::{Context, Result};
use brooklet::artifact::InputSpec;
use brooklet::kernels::KernelTable;
use brooklet::kernels::quant::Format;
use brooklet::ops::Op;
use brooklet::{Input, Model, Session};
use brooklet_quantize::Recipe;
use brooklet_quantize::shapes::{self, SHAPES};
use clap::builder::{PossibleValue, PossibleValuesParser};
use indicatif::ProgressBar;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  brooklet bench model.brook
  brooklet bench model.brook --tokens 512 --json
  brooklet bench --shape granite-4.0-h-350m --format q4
  BROOKLET_BACKEND=avx2 brooklet bench model.brook";

/// Tokens that a prefill handles at once.
const PREFILL_BATCH: usize = 64;
/// Each figure is the median of this many runs.
const RUNS: usize = 5;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Model (.brook)
    #[arg(required_unless_present = "shape")]
    model: Option<PathBuf>,
    /// Time a published shape with random weights: no checkpoint needed
    #[arg(long, conflicts_with = "model", value_parser = PossibleValuesParser::new(SHAPES.iter().map(|(name, what)| PossibleValue::new(name).help(what))))]
    shape: Option<String>,
    /// Format of the random weights
    #[arg(long, default_value = "q4", requires = "shape", value_parser = format)]
    format: Format,
    /// Tokens or frames of one run
    #[arg(short = 'n', long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What goes in: the speed does not depend on it.
enum Inputs {
    Tokens(Vec<u32>),
    /// (steps, channels)
    Frames(Vec<f32>, usize),
}

impl Inputs {
    fn random(model: &Model<'_>, steps: usize) -> Self {
        let mut random = SplitMix64(1);
        match model.header().input {
            InputSpec::Tokens { vocab, .. } => {
                Inputs::Tokens((0..steps).map(|_| (random.next() % u64::from(vocab.max(1))) as u32).collect())
            }
            InputSpec::Frames { .. } => {
                let channels = model.channels().unwrap_or(1);
                Inputs::Frames((0..steps * channels).map(|_| random.unit() as f32 - 0.5).collect(), channels)
            }
        }
    }

    fn step_all(&self, session: &mut Session<'_, '_, '_>) -> Result<()> {
        match self {
            Inputs::Tokens(tokens) => tokens.iter().try_for_each(|&token| session.step(Input::Token(token)).map(drop))?,
            Inputs::Frames(frames, channels) => {
                frames.chunks_exact(*channels).try_for_each(|frame| session.step(Input::Frame(frame)).map(drop))?
            }
        }
        Ok(())
    }

    fn prefill(&self, session: &mut Session<'_, '_, '_>) -> Result<()> {
        match self {
            Inputs::Tokens(tokens) => session.prefill_tokens(tokens).map(drop)?,
            Inputs::Frames(frames, _) => session.prefill_frames(frames).map(drop)?,
        }
        Ok(())
    }
}

/// Steps per second with one set of kernels.
struct Speed {
    kernels: &'static str,
    step: f64,
    prefill: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // Lives as long as the mapped file in it.
    let folder = tempfile::tempdir()?;
    let file = match (&args.model, &args.shape) {
        (Some(model), _) => ModelFile::open(model)?,
        (None, shape) => random_weights(shape.as_deref().unwrap_or_default(), args.format, &folder.path().join("random.brook"))?,
    };
    let name = args.shape.as_ref().map_or_else(|| file.name(), |shape| format!("{shape} {}", args.format.name()));
    let model = file.model()?;
    // A model that stops at its context cannot be run longer.
    let steps = args.tokens.min(model.plan().context.unwrap_or(u32::MAX)) as usize;
    let inputs = Inputs::random(&model, steps);
    let mut speeds = Vec::new();
    for kernels in all_kernels()? {
        speeds.push(measure(&model, kernels, &inputs, steps).with_context(|| file.name())?);
    }
    let bytes = bytes_per_step(&model);
    let mut out = io::stdout().lock();
    if args.json {
        let speeds: Vec<_> = speeds
            .iter()
            .map(|s| serde_json::json!({ "kernels": s.kernels, "steps_per_second": s.step, "prefill_per_second": s.prefill }))
            .collect();
        let json = serde_json::json!({
            "model": name, "steps": steps, "prefill_batch": PREFILL_BATCH, "bytes_per_step": bytes,
            "macs_per_step": model.plan().macs_per_step, "speeds": speeds,
        });
        writeln!(out, "{json:#}")?;
        return Ok(());
    }
    writeln!(out, "{}: {steps} steps, median of {RUNS} runs, one thread; a step touches up to {}\n", name, short(bytes))?;
    writeln!(out, "{:<10} {:>12} {:>12} {:>12} {:>16}", "kernels", "steps/s", "us/step", "GB/s", "prefill/s (x64)")?;
    for s in speeds {
        let gigabytes = s.step * bytes as f64 / 1e9;
        writeln!(out, "{:<10} {:>12.1} {:>12.2} {gigabytes:>12.2} {:>16.1}", s.kernels, s.step, 1e6 / s.step, s.prefill)?;
    }
    Ok(())
}

/// A file of random weights in a published shape.
fn random_weights(shape: &str, format: Format, path: &Path) -> Result<ModelFile> {
    let checkpoint = shapes::shape(shape)?;
    let recipe = Recipe { format, ..Recipe::default() };
    let bar = ProgressBar::new(0).with_message("drawing weights");
    brooklet_quantize::quantize(&checkpoint, &recipe, path, &mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    })?;
    bar.finish_and_clear();
    ModelFile::open(path)
}

fn measure(model: &Model<'_>, kernels: &'static KernelTable, inputs: &Inputs, steps: usize) -> Result<Speed> {
    let mut one = Memory::new(model, 1)?;
    let step = median(|| one.with_session(model, kernels, |session| timed(|| inputs.step_all(session))))?;
    let mut many = Memory::new(model, PREFILL_BATCH)?;
    let prefill = median(|| many.with_session(model, kernels, |session| timed(|| inputs.prefill(session))))?;
    Ok(Speed { kernels: kernels.name(), step: per_second(steps, step), prefill: per_second(steps, prefill) })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn median(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    // The first run only fills the caches.
    run()?;
    let mut times = (0..RUNS).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times[RUNS / 2])
}

/// Bytes that one step reads or writes at most: all weights but the embedding rows of other tokens, and the whole state.
fn bytes_per_step(model: &Model<'_>) -> u64 {
    let artifact = model.artifact();
    let mut table = None;
    let mut is_tied = false;
    for op in model.header().program.iter().flatten() {
        match op {
            Op::Embed(embed) => table = Some(embed.table),
            _ => is_tied = op.head().is_some_and(|head| table == Some(head.w)),
        }
    }
    let table = table.filter(|_| !is_tied).and_then(|id| artifact.section(id));
    let unread = table.and_then(|s| s.content.bytes(s.rows, s.cols).map(|bytes| bytes - bytes / u64::from(s.rows.max(1))));
    model.plan().weights_bytes.saturating_sub(unread.unwrap_or(0)) + model.state_bytes() as u64
}
