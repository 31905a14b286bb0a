//! `brooklet run`: a text model writes.

use crate::device::Target;
#[cfg(feature = "cuda")]
use crate::device::ready;
use crate::generate::{Limits, generate, per_second};
use crate::interrupt::on_ctrl_c;
use crate::model_file::{Check, Memory, ModelFile, chosen_kernels};
use crate::reader::Held;
use crate::sampler::{Sampler, Sampling};
use crate::term;
use anyhow::{Context, Result, anyhow};
use brooklet::Model;
use brooklet::kernels::KernelTable;
use brooklet_text::TextCodec;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

const EXAMPLES: &str = "\
Examples:
  brooklet run prose.brook --prompt \"The configuration file\"
  brooklet run prose.brook --prompt-file start.txt --tokens 100 --greedy
  echo \"The configuration file\" | brooklet run prose.brook --seed 7 --stats
  brooklet run model.brook --prompt \"Once upon a time\" --device cuda";

/// Tokens of a prompt that are read at once.
const PROMPT_BATCH: usize = 64;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Text model (.brook)
    model: PathBuf,
    /// Text to go on from; without it and --prompt-file, standard input
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the text to go on from (its last line break is left out)
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Most tokens to write
    #[arg(short = 'n', long, default_value_t = 256)]
    tokens: usize,
    /// How freely to choose: 0 always takes the likeliest token
    #[arg(long, default_value = "0.8", allow_negative_numbers = true, value_parser = temperature)]
    temperature: f32,
    /// Choose among this many of the likeliest tokens; 0 for all
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, default_value = "0.95", value_parser = probability)]
    top_p: f32,
    /// Holds repetitions against a token: 1 not at all, more for more
    #[arg(long, default_value = "1.1", value_parser = penalty)]
    repeat_penalty: f32,
    /// The same seed gives the same text; without it, a new one each time
    #[arg(long)]
    seed: Option<u64>,
    /// Always take the likeliest token, repeated or not
    #[arg(long)]
    greedy: bool,
    /// Go on behind the model's end token
    #[arg(long)]
    ignore_eos: bool,
    /// Keep the file's pages in memory
    #[arg(long)]
    lock: bool,
    /// Where the model runs
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t)]
    device: Target,
    /// Print speed and memory to standard error
    #[arg(long)]
    stats: bool,
}

fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|t: &f32| t.is_finite() && *t >= 0.0).ok_or_else(|| "must be a number from 0 up".to_owned())
}

fn penalty(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|p: &f32| p.is_finite() && *p >= 1.0).ok_or_else(|| "must be a number from 1 up".to_owned())
}

fn probability(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|p: &f32| *p > 0.0 && *p <= 1.0).ok_or_else(|| "must be a number above 0 and at most 1".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let kernels = chosen_kernels()?;
    let file = ModelFile::open(&args.model)?;
    if args.lock {
        file.lock()?;
    }
    file.while_checked(|model, check| write(args, kernels, &file, model, check))
}

/// Writes what follows the prompt. The file's check may still be going on: no token is told before it has ended.
fn write(args: &Args, kernels: &'static KernelTable, file: &ModelFile, model: &Model<'_>, check: &Check<'_>) -> Result<()> {
    let codec = TextCodec::of(model, &file.name())?;
    let prompt = prompt(args)?;
    let mut tokens = codec.encode(&prompt, true)?;
    if tokens.is_empty() {
        let first = codec.bos.or(codec.eos);
        tokens.push(first.ok_or_else(|| anyhow!("the prompt is empty, and the model has no token that begins a text; give --prompt"))?);
    }
    let temperature = if args.greedy { 0.0 } else { args.temperature };
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let repeat_penalty = if args.greedy { 1.0 } else { args.repeat_penalty };
    let mut sampler = Sampler::new(Sampling { temperature, top_k: args.top_k, top_p: args.top_p, repeat_penalty, seed });
    let stop = on_ctrl_c()?;
    let mut out = io::stdout().lock();
    out.write_all(term::dim(&String::from_utf8_lossy(&prompt), term::is_decorated()).as_bytes())?;
    out.flush()?;
    let limits = Limits { tokens: args.tokens, time: None, at_eos: !args.ignore_eos, stop: &stop };
    #[cfg(feature = "cuda")]
    let on_gpu = {
        let gpu = crate::device::on_gpu(args.device, model);
        let session = gpu.as_ref().and_then(|gpu| ready(brooklet_cuda::CudaSession::new(gpu, brooklet_cuda::Options::default())));
        session
            .map(|mut session| {
                let written = generate(&mut Held { reader: &mut session, check }, &codec, &tokens, &mut sampler, &limits, &mut out)?;
                anyhow::Ok((written, session.gpu().device().name()))
            })
            .transpose()
            .with_context(|| file.name())?
    };
    #[cfg(not(feature = "cuda"))]
    let on_gpu: Option<(crate::generate::Written, String)> = {
        crate::device::told_without_gpu(args.device);
        None
    };
    let (written, ran_on) = match on_gpu {
        Some(on_gpu) => on_gpu,
        None => {
            let written = Memory::new(model, tokens.len().min(PROMPT_BATCH))?
                .with_session(model, kernels, |session| {
                    generate(&mut Held { reader: session, check }, &codec, &tokens, &mut sampler, &limits, &mut out)
                })
                .with_context(|| file.name())?;
            (written, kernels.name().to_owned())
        }
    };
    writeln!(out)?;
    let mut err = io::stderr().lock();
    if let Some(capacity) = written.full_at {
        let _ = writeln!(
            err,
            "the text ends because the attention cache holds {capacity} positions; `brooklet quantize` makes room with a larger --context, and \
             without --stop a text never ends"
        );
    }
    if args.stats {
        let _ = writeln!(
            err,
            "prompt {} tokens, {:.1} tokens/s; written {} tokens, {:.1} tokens/s; kernels {}; seed {seed}; state {} bytes",
            written.prompt_tokens,
            per_second(written.prompt_tokens, written.prompt_time),
            written.tokens,
            per_second(written.tokens, written.time),
            ran_on,
            model.state_bytes(),
        );
    }
    Ok(())
}

/// The prompt's bytes: byte-level models take any.
fn prompt(args: &Args) -> Result<Vec<u8>> {
    if let Some(text) = &args.prompt {
        return Ok(text.clone().into_bytes());
    }
    let mut bytes = Vec::new();
    if let Some(path) = &args.prompt_file {
        bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    } else if !io::stdin().is_terminal() {
        io::stdin().lock().read_to_end(&mut bytes).context("standard input cannot be read")?;
    }
    // Editors and `echo` end a file with a line break that is not meant.
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    Ok(bytes)
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
