//! `brooklet eval`: how good a model is.

mod free_running;
mod outputs;
mod perplexity;
mod recordings;

use crate::device::Target;
use anyhow::{Context, Result};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  brooklet eval model-q4.brook --text heldout.txt --against model-f32.brook
  brooklet eval model-f16-state.brook --text heldout.txt --against model-f32.brook --free-running 10000 --windows 4
  brooklet eval watch.brook --recordings recordings/ --json
  brooklet eval model.brook --tokens tokens.json --logits out.npy
  brooklet eval watch.brook --frames recording.csv --logits out.npy --prefill

The folder of --recordings holds labels.csv: a line `file,label`, then one line per CSV file of samples.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct Args {
    /// Model (.brook)
    model: PathBuf,
    /// Text to predict: prints perplexity
    #[arg(long, value_name = "FILE", group = "what")]
    text: Option<PathBuf>,
    /// Tokens of a window; the first half is only read, the second half is scored
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1 << 24), conflicts_with_all = ["recordings", "tokens", "frames"])]
    window: u32,
    /// Most windows to score; without it, all of the text. With --free-running the number of streams, 1 without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["recordings", "tokens", "frames"])]
    windows: Option<u32>,
    /// Model to compare with on the same text (the float one): prints the mean KL divergence and the ratio
    #[arg(long, value_name = "OTHER.brook", conflicts_with_all = ["recordings", "tokens", "frames"])]
    against: Option<PathBuf>,
    /// Let the model write so many tokens behind a window of the text, read by both models: prints the divergence over the position
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24), requires = "against")]
    free_running: Option<u32>,
    /// The same seed lets the model write the same text
    #[arg(long, value_name = "N", default_value_t = 1, requires = "free_running")]
    seed: u64,
    /// Folder of labelled recordings: prints accuracies and the confusion matrix
    #[arg(long, value_name = "DIR", group = "what")]
    recordings: Option<PathBuf>,
    /// Length of a judged window; the next starts half of it later
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds, conflicts_with_all = ["text", "tokens", "frames"])]
    window_seconds: f64,
    /// Tokens as JSON, a list or {"tokens": [..]}: writes the outputs of every step
    #[arg(long, value_name = "T.json", group = "what", requires = "logits")]
    tokens: Option<PathBuf>,
    /// Samples as CSV: writes the outputs of every step
    #[arg(long, value_name = "F.csv", group = "what", requires = "logits")]
    frames: Option<PathBuf>,
    /// The column that holds each sample's time, in seconds; windows still count samples
    #[arg(long, value_name = "NAME", conflicts_with_all = ["text", "tokens"])]
    time_column: Option<String>,
    /// NumPy file for the outputs, float32 (steps, outputs)
    #[arg(long, value_name = "OUT.npy", conflicts_with_all = ["text", "recordings"])]
    logits: Option<PathBuf>,
    /// Many tokens at once instead of step by step; the outputs are the same bits
    #[arg(long, requires = "logits")]
    prefill: bool,
    /// Where the models run, with --text
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t, conflicts_with_all = ["free_running", "recordings", "tokens", "frames"])]
    device: Target,
    /// Threads; without it, one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s: &f64| *s > 0.0 && *s <= 1e6)
        .ok_or_else(|| "must be a number of seconds above 0, at most a million".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("threads cannot be started; try --threads 1")?;
    if let (Some(text), Some(against), Some(tokens)) = (&args.text, &args.against, args.free_running) {
        let (prompt, streams) = (args.window as usize, args.windows.map_or(1, |n| n as usize));
        let work = free_running::Work { tokens: tokens as usize, prompt, streams, seed: args.seed };
        return pool.install(|| free_running::run(&args.model, text, against, &work, args.json));
    }
    if let Some(text) = &args.text {
        let against = args.against.as_deref();
        let (window, windows) = (args.window as usize, args.windows.map_or(usize::MAX, |n| n as usize));
        return pool.install(|| perplexity::run(&args.model, text, window, windows, against, args.device, args.json));
    }
    if let Some(dir) = &args.recordings {
        return pool.install(|| recordings::run(&args.model, dir, args.window_seconds, args.time_column.as_deref(), args.json));
    }
    let (tokens, frames, time_column) = (args.tokens.as_deref(), args.frames.as_deref(), args.time_column.as_deref());
    outputs::run(&args.model, tokens, frames, time_column, args.logits.as_deref(), args.prefill)
}
