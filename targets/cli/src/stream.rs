//! `brooklet stream`: a sensor model listens, sample by sample.

use crate::answers::{Given, Step};
use crate::classes::{best, class_in, class_names, gives_values, most_voted, probabilities};
use crate::device::Target;
use crate::frames::{Frames, Sample, Wanted};
use crate::interrupt::on_ctrl_c_or_term;
use crate::model_file::{Memory, ModelFile, chosen_kernels};
use crate::output::{expect_apart, expect_place, write_file};
use crate::stepper::{Stepper, expect_finite};
use crate::{stoppable, term};
use anyhow::{Context, Result, bail};
use brooklet::artifact::InputSpec;
use brooklet::{Line, Model, Session, State};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  brooklet stream watch.brook recording.csv
  sensor-reader | brooklet stream watch.brook --every 25
  brooklet stream watch.brook recording.csv --json --rate 50
  brooklet stream events.brook events.csv --time-column t
  brooklet stream events.brook more.csv --time-column t --load-state now.state --last-time 17.25
  brooklet stream watch.brook first.csv --save-state now.state
  brooklet stream watch.brook second.csv --load-state now.state
  brooklet stream large.brook recording.csv --device cuda";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Sensor model (.brook)
    model: PathBuf,
    /// Samples as CSV, one per line, with or without a line of column names; `-` for standard input. An empty field or `nan` is a
    /// missing sample, for models with a policy for it
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Print one JSON object per step (the verdict goes to standard error)
    #[arg(long)]
    json: bool,
    /// Print only every N-th step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Play the samples back at this many per second
    #[arg(long, value_name = "HZ", value_parser = rate)]
    rate: Option<f64>,
    /// The column that holds each sample's time, in seconds: the model is told how long it waited for it (the first sample counts as
    /// one step of the model's own rate, and a line that is missing as a longer wait)
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Save the stream's state to this file at the end, whatever ends it: the last sample, one that is refused, Ctrl-C, SIGTERM
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Go on from the state in this file
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// Time of the last sample before these, for a stream that goes on from a saved state: how long the first one here was waited for
    #[arg(long, value_name = "SECONDS", requires_all = ["time_column", "load_state"], allow_negative_numbers = true, value_parser = seconds)]
    last_time: Option<f64>,
    /// The class that the samples really are (else taken from the file's name, if it carries one)
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Keep the model's pages in memory
    #[arg(long)]
    lock: bool,
    /// Where the model runs
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t)]
    device: Target,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|t: &f64| t.is_finite()).ok_or_else(|| "must be a number of seconds, as the samples' times are".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|r: &f64| *r >= 0.001 && *r <= 1e6)
        .ok_or_else(|| "must be a number of samples per second from 0.001 to 1000000".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let kernels = chosen_kernels()?;
    let file = ModelFile::open(&args.model)?;
    if args.lock {
        file.lock()?;
    }
    let model = file.model()?;
    let channels = channel_names(&model, &file.name())?;
    let names = class_names(&model);
    let label = label(args, &model, &names)?;
    let begun = args.load_state.as_deref().map(Begun::read).transpose()?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = crate::device::on_gpu(args.device, &model)
        && let Some(mut session) = crate::device::ready(brooklet_cuda::CudaSession::new(&gpu, crate::stepper::lone_stream()))
    {
        if let Some(begun) = &begun {
            session.restore(0, &begun.snapshot).map_err(crate::device::plain).with_context(|| begun.name())?;
        }
        return judge(args, &model, channels, &mut session, &names, label);
    }
    #[cfg(not(feature = "cuda"))]
    crate::device::told_without_gpu(args.device);
    let mut memory = Memory::new(&model, 1)?;
    let mut state = match &begun {
        Some(begun) => State::restore(&model, &begun.snapshot, Line::bytes_mut(&mut memory.state)).with_context(|| begun.name())?,
        None => State::new(&model, Line::bytes_mut(&mut memory.state))?,
    };
    let mut session = Session::new(&model, kernels, &mut state, Line::bytes_mut(&mut memory.scratch))?;
    judge(args, &model, channels, &mut session, &names, label)
}

/// The file that a stream goes on from.
struct Begun<'a> {
    path: &'a Path,
    snapshot: Vec<u8>,
}

impl<'a> Begun<'a> {
    fn read(path: &'a Path) -> Result<Self> {
        let snapshot = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        Ok(Begun { path, snapshot })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Feeds the samples to the stream, wherever it runs, and saves its state if that is wanted.
fn judge(args: &Args, model: &Model<'_>, channels: &str, session: &mut dyn Stepper, names: &[String], label: Option<usize>) -> Result<()> {
    if let Some(path) = &args.save_state {
        // A stream may be long, and its state lost with it.
        expect_place(path)?;
        expect_apart(&[("--save-state", path)], &[("the model", &args.model), ("what this stream reads", &args.file)])?;
    }
    if let Some(path) = &args.load_state {
        expect_finite(session, true).with_context(|| path.display().to_string())?;
    }
    let stop = on_ctrl_c_or_term()?;
    let (name, input) = if args.file == Path::new("-") {
        ("standard input".to_owned(), stoppable::standard_input(&stop).context("standard input cannot be read")?)
    } else {
        let name = args.file.display().to_string();
        let opened = File::open(&args.file).with_context(|| format!("{name}: cannot be opened"))?;
        (name, stoppable::file(opened, &stop))
    };
    let mut frames = Frames::new(name, BufReader::new(input), Wanted::of(model, channels, args.time_column.as_deref()));
    args.last_time.into_iter().for_each(|time| frames.go_on_from(time));
    let begun_at = session.position();
    let streamed = if gives_values(model) {
        follow(args, session, &mut frames, names, &stop)
    } else {
        listen(args, session, &mut frames, names, label, &stop)
    };
    // However the stream ended, its state is what was asked for.
    let saved = match &args.save_state {
        Some(path) if session.position() > begun_at => save(session, path).inspect(|()| {
            // After an error the time may be that of the sample that was refused.
            if let Some(time) = frames.time().filter(|_| streamed.is_ok()) {
                let _ = writeln!(io::stderr(), "{}: saved behind a sample at {time}; go on with --last-time {time}", path.display());
            }
        }),
        _ => Ok(()),
    };
    streamed.and(saved)
}

/// Saves a stream's state, if it is worth it.
fn save(session: &dyn Stepper, path: &Path) -> Result<()> {
    expect_finite(session, true).with_context(|| format!("{}: not written", path.display()))?;
    let bytes = session.snapshot()?;
    write_file(path, |out| Ok(out.write_all(&bytes)?))
}

/// A sensor model's channel names, one per line; `name` is its file.
pub(crate) fn channel_names<'a>(model: &Model<'a>, name: &str) -> Result<&'a str> {
    match model.header().input {
        InputSpec::Frames { channels, .. } => Ok(channels),
        InputSpec::Tokens { .. } => bail!("{name}: takes text, not sensor frames; use `brooklet run {name}`"),
    }
}

fn label(args: &Args, model: &Model<'_>, names: &[String]) -> Result<Option<usize>> {
    match &args.label {
        Some(_) if gives_values(model) => bail!("--label: the model gives values, not classes"),
        Some(label) => match names.iter().position(|name| name.eq_ignore_ascii_case(label)) {
            Some(class) => Ok(Some(class)),
            None => bail!("--label {label}: the model's classes are {}", names.join(", ")),
        },
        None => Ok(args.file.file_stem().and_then(|stem| class_in(&stem.to_string_lossy(), names))),
    }
}

/// Waits until sample number `steps` is due, or the stream is to stop.
fn wait(args: &Args, start: Instant, steps: u64, stop: &AtomicBool) {
    let Some(rate) = args.rate else { return };
    let due = Duration::from_secs_f64(steps as f64 / rate);
    while let Some(left) = due.checked_sub(start.elapsed())
        && !stop.load(Ordering::Relaxed)
    {
        std::thread::sleep(left.min(stoppable::LOOK));
    }
}

/// The next sample; none at the end, or when the stream is to stop.
fn next<'f, R: BufRead>(frames: &'f mut Frames<R>, stop: &AtomicBool) -> Result<Option<Sample<'f>>> {
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    match frames.advance() {
        // What could not be read then is what nobody waits for any more.
        Err(error) if stop.load(Ordering::Relaxed) && error.chain().any(|cause| cause.is::<io::Error>()) => Ok(None),
        sample => sample,
    }
}

/// The error for a file without samples.
fn no_samples<R: BufRead>(frames: &Frames<R>) -> anyhow::Error {
    anyhow::anyhow!("{}: holds no samples; give one line of {} values per sample", frames.name(), frames.width())
}

/// Feeds every frame and prints the values that the model gives.
fn follow<R: BufRead>(args: &Args, session: &mut dyn Stepper, frames: &mut Frames<R>, names: &[String], stop: &AtomicBool) -> Result<()> {
    let mut out = io::stdout().lock();
    let start = Instant::now();
    let mut steps = 0u64;
    while let Some(sample) = next(frames, stop)? {
        wait(args, start, steps, stop);
        session.step(sample.input()).with_context(|| frames.place())?;
        steps += 1;
        expect_finite(session, false).with_context(|| frames.place())?;
        let step = session.position();
        if !step.is_multiple_of(args.every) {
            continue;
        }
        let values = session.output();
        if args.json {
            Given::new(step, names, values).write(&mut out)?;
        } else {
            let named: Vec<String> = names.iter().zip(values).map(|(name, value)| format!("{name} {value:>9.5}")).collect();
            writeln!(out, "{step:>7}  {}", named.join("  "))?;
        }
    }
    if steps == 0 {
        return Err(no_samples(frames));
    }
    expect_finite(session, true).with_context(|| frames.name().to_owned())
}

/// Feeds every frame and prints what the model thinks.
fn listen<R: BufRead>(
    args: &Args,
    session: &mut dyn Stepper,
    frames: &mut Frames<R>,
    names: &[String],
    label: Option<usize>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut out = io::stdout().lock();
    let decorated = term::is_decorated();
    let start = Instant::now();
    let mut probs = Vec::new();
    let mut votes = vec![0; names.len()];
    let mut steps = 0u64;
    while let Some(sample) = next(frames, stop)? {
        wait(args, start, steps, stop);
        probabilities(session.step(sample.input()).with_context(|| frames.place())?, &mut probs);
        steps += 1;
        expect_finite(session, false).with_context(|| frames.place())?;
        let class = best(&probs);
        if let Some(votes) = votes.get_mut(class) {
            *votes += 1;
        }
        let step = session.position();
        if !step.is_multiple_of(args.every) {
            continue;
        }
        if args.json {
            Step::new(step, names, &probs).write(&mut out)?;
        } else {
            let bar = if decorated { term::bar(probs.get(class).copied().unwrap_or(0.0), 24, true) } else { String::new() };
            writeln!(out, "{}  {bar}", line(&format!("{step:>7}"), names, &probs))?;
        }
    }
    if steps == 0 {
        return Err(no_samples(frames));
    }
    // Outputs can look sound where the state is not: no last word is said of such a stream.
    expect_finite(session, true).with_context(|| frames.name().to_owned())?;
    let text = verdict(names, best(&probs), &probs, &votes, label);
    // JSON readers want nothing but steps on standard output.
    if args.json {
        let _ = writeln!(io::stderr(), "{text}");
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}

/// One line about one step: when, which class, how sure.
pub(crate) fn line(when: &str, names: &[String], probs: &[f32]) -> String {
    let Step { class, p, .. } = Step::new(0, names, probs);
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    format!("{when}  {class:<width$}  {p:.3}")
}

/// The last word: the class at the last step, the vote over all steps, and whether that is right.
pub(crate) fn verdict(names: &[String], last: usize, probs: &[f32], votes: &[u64], label: Option<usize>) -> String {
    let name = |class: usize| names.get(class).map_or("", String::as_str);
    let voted = most_voted(votes);
    let total: u64 = votes.iter().sum();
    let share = 100.0 * votes.get(voted).copied().unwrap_or(0) as f64 / total.max(1) as f64;
    let mut text = format!(
        "last step: {} ({:.3}); vote of {total} steps: {} ({share:.0} %)",
        name(last),
        probs.get(last).copied().unwrap_or(0.0),
        name(voted)
    );
    if let Some(label) = label {
        let agrees = |class| if class == label { "agrees" } else { "does not agree" };
        text += &format!("; label: {}: last step {}, vote {}", name(label), agrees(last), agrees(voted));
    }
    text
}
