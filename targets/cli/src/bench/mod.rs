//! `brooklet bench`: how fast a model runs on this machine, and how close that is to what its memory allows.

mod bandwidth;
mod cold;
mod context;
#[cfg(feature = "cuda")]
mod energy;
#[cfg(feature = "cuda")]
mod gpu;
mod inputs;
mod ops;
mod options;
mod panel;
mod random_weights;
mod report;
mod speed;
mod stream;
mod streams;
mod times;
mod traffic;

pub(crate) use options::Args;

use crate::model_file::{ModelFile, all_kernels, chosen_kernels};
use crate::output::{expect_place, write_file};
use anyhow::{Context, Result, bail};
use brooklet::Model;
use cold::ColdStart;
use context::{Comparison, Curve};
use inputs::Inputs;
use ops::Shares;
use options::Backends;
use report::Report;
use serde::Serialize;
use speed::Work;
use std::io::{self, Write};
use std::path::Path;
use stream::{Engine, Stream};
use streams::ManyStreams;

pub(crate) fn run(args: &Args) -> Result<()> {
    args.svg.as_deref().map_or(Ok(()), expect_place)?;
    let engines = engines(args)?;
    let best = engines.last().context("no kernels to time")?;
    let mut out = io::stdout().lock();
    if let (Some(model), true) = (&args.model, args.first_answer) {
        return cold::first_answer(model, best, args.lock, &mut out);
    }
    // Lives as long as the mapped files in it.
    let folder = tempfile::tempdir()?;
    if !args.context.is_empty() {
        if engines.len() > 1 {
            bail!("--context: measures one engine; give one number of --threads and leave --backends out");
        }
        let found = compare_contexts(args, best, folder.path())?;
        if let Some(path) = &args.svg {
            write_file(path, |out| Ok(out.write_all(panel::drawing(&found.panels()).as_bytes())?))?;
        }
        return tell(args, &mut out, &found, |out| found.print(out));
    }
    let (path, name) = match (&args.model, args.shapes().as_slice()) {
        (Some(path), _) => (path.clone(), path.display().to_string()),
        (None, &[shape]) => {
            let path = args.keep.clone().unwrap_or_else(|| folder.path().join("random.brook"));
            random_weights::draw(shape, args.recipe(), cache_positions(args), &path)?;
            (path, args.random_name(shape))
        }
        _ => bail!("--shape: several shapes can only be compared with --context"),
    };
    if args.cold {
        let found = ColdStart::measure(name, &path, args.runs, args.lock)?;
        return tell(args, &mut out, &found, |out| found.print(out));
    }
    let file = open(args, &path)?;
    #[cfg(feature = "cuda")]
    if let Some(device) = crate::device::gpu(args.device) {
        let work = gpu::Work {
            steps: args.tokens.map(|tokens| tokens as usize),
            prompt: args.prompt as usize,
            batch: args.batch_on_gpu(),
            runs: args.runs,
            with_operations: args.ops,
            arithmetic: args.device.arithmetic(),
        };
        let model = file.model()?;
        let report = gpu::GpuReport::measure(&device, &model, name, &work).with_context(|| file.name())?;
        return tell(args, &mut out, &report, |out| report.print(out));
    }
    #[cfg(not(feature = "cuda"))]
    crate::device::told_without_gpu(args.device);
    let report = time_steps(args, &file.model()?, name, &engines).with_context(|| file.name())?;
    tell(args, &mut out, &report, |out| report.print(out))
}

fn tell(args: &Args, out: &mut dyn Write, found: &impl Serialize, print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(found)?)?;
        return Ok(());
    }
    Ok(print(out)?)
}

fn open(args: &Args, path: &Path) -> Result<ModelFile> {
    let file = ModelFile::open(path)?;
    if args.lock {
        file.lock()?;
    }
    Ok(file)
}

/// One model after the other, so that only one is in memory.
fn compare_contexts(args: &Args, engine: &Engine, folder: &Path) -> Result<Comparison> {
    let mut positions = args.context.clone();
    positions.sort_unstable();
    positions.dedup();
    let steps = args.tokens.map_or(context::STEPS, |tokens| tokens as usize);
    let work = context::Work { positions: &positions, steps, runs: args.runs, batch: args.batch() };
    let deepest = positions.last().copied().unwrap_or(0);
    let measure = |name: String, path: &Path| {
        let file = open(args, path)?;
        let model = file.model()?;
        let room = room(&model, deepest).with_context(|| file.name())?;
        let work = context::Work { steps: steps.min(room), ..work };
        Curve::measure(name, &model, engine, &work).with_context(|| file.name())
    };
    let mut curves = Vec::new();
    if let Some(model) = &args.model {
        curves.push(measure(model.display().to_string(), model)?);
    }
    for shape in args.shapes() {
        let path = folder.join("random.brook");
        random_weights::draw(shape, args.recipe(), Some(deepest + steps as u64), &path)?;
        curves.push(measure(args.random_name(shape), &path)?);
    }
    Ok(Comparison { kernels: engine.kernels.name(), threads: engine.threads(), steps, runs: args.runs, curves })
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

fn time_steps(args: &Args, model: &Model<'_>, name: String, engines: &[Engine]) -> Result<Report> {
    let best = engines.last().context("no kernels to time")?;
    let mut positions = if args.depth.is_empty() { vec![0] } else { args.depth.clone() };
    positions.sort_unstable();
    positions.dedup();
    let batch = args.batch();
    let mut stream = Stream::new(model, batch, engines.iter().map(Engine::threads).max().unwrap_or(1))?;
    let most = room(model, positions.last().copied().unwrap_or(0))?;
    let places = stream.places(&positions, best)?;
    let trial = Inputs::random(model, 16);
    let steps = match args.tokens {
        Some(tokens) => (tokens as usize).min(most),
        None => speed::steps_that_fit(&mut stream, &places[0], best, &trial, most)?,
    };
    let prompt = (args.prompt as usize).min(room(model, positions[0])?);
    let work = Work { steps, prompt, runs: args.runs };
    let measured = speed::measure(model, &mut stream, engines, &places, work)?;
    let report = Report::of_steps(name, model, batch, work, &places, &measured);
    let counts: Vec<usize> = args.streams.iter().map(|&count| count as usize).collect();
    let many = engines.iter().filter(|_| !counts.is_empty());
    let many = many.map(|engine| ManyStreams::measure(model, engine, &counts, args.tokens, args.runs)).collect::<Result<_>>()?;
    let mut shares = Vec::new();
    for engine in engines.iter().filter(|_| args.ops) {
        for place in &places {
            shares.push(Shares::measure(model, &mut stream, engine, place, steps, args.runs)?);
        }
    }
    Ok(report.with(many, shares))
}

/// Steps that can be run from `position` on: a model that stops at its context cannot be run longer.
fn room(model: &Model<'_>, position: u64) -> Result<usize> {
    let Some(context) = model.plan().context else { return Ok(usize::MAX) };
    match u64::from(context).checked_sub(position) {
        Some(steps) if steps > 0 => Ok(steps as usize),
        _ => bail!("position {position}: the model stops after {context} positions"),
    }
}
