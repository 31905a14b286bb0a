//! `brooklet bench`: how fast a model runs on this machine, and how close that is to what its memory allows.

mod bandwidth;
mod inputs;
mod options;
mod random_weights;
mod report;
mod speed;
mod stream;
mod times;
mod traffic;

pub(crate) use options::Args;

use crate::model_file::{ModelFile, all_kernels, chosen_kernels};
use anyhow::{Context, Result, bail};
use brooklet::Model;
use inputs::Inputs;
use options::Backends;
use report::Report;
use speed::Work;
use std::io::{self, Write};
use stream::{Engine, Stream};

pub(crate) fn run(args: &Args) -> Result<()> {
    let engines = engines(args)?;
    // Lives as long as the mapped file in it.
    let folder = tempfile::tempdir()?;
    let (file, name) = match (&args.model, args.shapes().as_slice()) {
        (Some(model), _) => {
            let file = ModelFile::open(model)?;
            let name = file.name();
            (file, name)
        }
        (None, &[shape]) => {
            let path = args.keep.clone().unwrap_or_else(|| folder.path().join("random.brook"));
            let file = random_weights::draw(shape, args.format, cache_positions(args), &path)?;
            (file, format!("{shape} {}", args.format.name()))
        }
        _ => bail!("--shape: several shapes can only be compared with --context"),
    };
    let report = time_steps(args, &file, name, &engines).with_context(|| file.name())?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        report.print(&mut out)?;
    }
    Ok(())
}

/// Everything to time, best or only one first.
fn engines(args: &Args) -> Result<Vec<Engine>> {
    let kernels = match args.backends {
        Backends::Best => vec![chosen_kernels()?],
        Backends::All => all_kernels()?,
    };
    let each = |&threads: &u32| kernels.iter().map(move |kernels| Engine::new(kernels, threads as usize));
    args.threads.iter().flat_map(each).collect()
}

/// Positions that a shape's caches should hold: what was asked for, or at least the deepest position.
fn cache_positions(args: &Args) -> Option<u64> {
    let usual = u64::from(brooklet_quantize::Recipe::default().cache.context);
    args.cache_positions.or_else(|| args.depth.iter().max().filter(|&&deepest| deepest > usual).copied())
}

fn time_steps(args: &Args, file: &ModelFile, name: String, engines: &[Engine]) -> Result<Report> {
    let model = file.model()?;
    let best = *engines.last().context("no kernels to time")?;
    let mut positions = if args.depth.is_empty() { vec![0] } else { args.depth.clone() };
    positions.sort_unstable();
    positions.dedup();
    let batch = args.batch as usize;
    let mut stream = Stream::new(&model, batch)?;
    let most = room(&model, positions.last().copied().unwrap_or(0))?;
    let places = stream.places(&positions, best)?;
    let trial = Inputs::random(&model, 16);
    let steps = match args.tokens {
        Some(tokens) => (tokens as usize).min(most),
        None => speed::steps_that_fit(&mut stream, &places[0], best, &trial, most)?,
    };
    let prompt = (args.prompt as usize).min(room(&model, positions[0])?);
    let work = Work { steps, prompt, runs: args.runs };
    let measured = speed::measure(&model, &mut stream, engines, &places, work)?;
    Ok(Report::new(name, &model, batch, work, &places, &measured))
}

/// Steps that can be run from `position` on: a model that stops at its context cannot be run longer.
fn room(model: &Model<'_>, position: u64) -> Result<usize> {
    let Some(context) = model.plan().context else { return Ok(usize::MAX) };
    match u64::from(context).checked_sub(position) {
        Some(steps) if steps > 0 => Ok(steps as usize),
        _ => bail!("--depth {position}: the model stops after {context} positions"),
    }
}
