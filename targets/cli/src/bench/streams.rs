//! Many streams of one model, stepped together: the weights are read once for all of them.

use super::bandwidth;
use super::inputs::Inputs;
use super::speed::{RUN_TIME, fitting};
use super::stream::Engine;
use super::times::{Rate, Times};
use super::traffic::Traffic;
use crate::model_file::pages;
use crate::sheet::short;
use crate::term;
use anyhow::Result;
use brooklet::mem::Pages;
use brooklet::{Line, Model, State, Streams};
use indicatif::ProgressBar;
use serde::Serialize;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Most streams that share one pass over the weights.
const MAX_TOGETHER: usize = 64;
/// Steps of every stream in a trial run, in the shortest and in the longest run.
const STEPS: [usize; 3] = [2, 4, 1 << 12];

/// What one engine did.
#[derive(Serialize)]
pub(crate) struct ManyStreams {
    kernels: &'static str,
    threads: usize,
    read_bytes_per_second: Rate,
    counts: Vec<Count>,
}

/// A number of streams.
#[derive(Serialize)]
struct Count {
    streams: usize,
    /// Steps of every stream in a run.
    steps: usize,
    /// Of all streams together.
    steps_per_second: Rate,
    /// Speed over that of the first number of streams.
    of_first: f64,
    /// Of all streams together, when they are stepped one after the other.
    apart_steps_per_second: Rate,
    /// Speed over that.
    of_apart: f64,
    /// What one step of all streams moves: weights once, every state.
    total_bytes_per_step: u64,
    /// Speed over what the bandwidth allows.
    roofline_share: f64,
}

/// Memory of many streams.
struct Memory {
    /// (streams)
    states: Vec<Pages>,
    scratch: Pages,
    /// (streams, outputs)
    outputs: Vec<f32>,
}

impl ManyStreams {
    /// Times every number of streams in turn.
    pub(crate) fn measure(model: &Model<'_>, engine: &Engine, counts: &[usize], tokens: Option<u32>, runs: u32) -> Result<Self> {
        let most = counts.iter().max().copied().unwrap_or(1);
        let scratch_bytes = model.team_scratch_bytes(most.clamp(1, MAX_TOGETHER), engine.threads());
        let mut memory = Memory {
            states: (0..most).map(|_| pages("state", model.state_bytes())).collect::<Result<_>>()?,
            scratch: pages("scratch", scratch_bytes)?,
            outputs: vec![0.0; most * model.outputs()],
        };
        let room = model.plan().context.map_or(usize::MAX, |context| context as usize);
        let mut steps = Vec::new();
        for &count in counts {
            steps.push(match tokens {
                Some(tokens) => tokens as usize,
                None => {
                    let trial = memory.time(model, engine, count, count, STEPS[0].min(room))?;
                    fitting(RUN_TIME, trial, STEPS)
                }
            });
        }
        steps.iter_mut().for_each(|steps| *steps = (*steps).min(room));
        let reader = bandwidth::Memory::new();
        let (mut reads, mut times) = (Times::default(), vec![[Times::default(), Times::default()]; counts.len()]);
        let bar = ProgressBar::new(u64::from(runs)).with_message("timing many streams");
        for _ in 0..runs {
            for ((&count, &steps), [together, apart]) in counts.iter().zip(&steps).zip(&mut times) {
                reads.push(reader.read(engine.threads()));
                together.push(memory.time(model, engine, count, count, steps)?);
                apart.push(memory.time(model, engine, count, 1, steps)?);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let read = reads.rate(bandwidth::Memory::BYTES);
        let rates: Vec<[Rate; 2]> = counts
            .iter()
            .zip(&steps)
            .zip(&times)
            .map(|((count, steps), [together, apart])| [together.rate(count * steps), apart.rate(count * steps)])
            .collect();
        let first = rates.first().map_or(0.0, |[rate, _]| rate.median);
        let of_count = |((&streams, &steps), &[rate, apart]): ((&usize, &usize), &[Rate; 2])| {
            let one = Traffic::of(model, steps as u64 / 2);
            let bytes = one.weights_bytes + streams as u64 * (one.total_bytes() - one.weights_bytes);
            Count {
                streams,
                steps,
                steps_per_second: rate,
                of_first: rate.median / first,
                apart_steps_per_second: apart,
                of_apart: rate.median / apart.median,
                total_bytes_per_step: bytes,
                roofline_share: rate.median / streams as f64 * bytes as f64 / read.median,
            }
        };
        Ok(ManyStreams {
            kernels: engine.kernels.name(),
            threads: engine.threads(),
            read_bytes_per_second: read,
            counts: counts.iter().zip(&steps).zip(&rates).map(of_count).collect(),
        })
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let decorated = term::is_decorated();
        let most = self.counts.iter().map(|count| count.of_first).fold(1.0, f64::max);
        writeln!(out, "\nmany streams: {}, threads: {}", self.kernels, self.threads)?;
        writeln!(
            out,
            "{:>8} {:>12} {:>12} {:>9} {:>12} {:>9} {:>12} {:>9}",
            "streams", "steps/s", "of one each", "of first", "one by one", "of that", "moves", "roofline"
        )?;
        for count in &self.counts {
            writeln!(
                out,
                "{:>8} {:>12.1} {:>12.1} {:>9.2} {:>12.1} {:>9.2} {:>12} {:>8.1}%  {}",
                count.streams,
                count.steps_per_second.median,
                count.steps_per_second.median / count.streams as f64,
                count.of_first,
                count.apart_steps_per_second.median,
                count.of_apart,
                short(count.total_bytes_per_step),
                100.0 * count.roofline_share,
                term::bar((count.of_first / most) as f32, 30, decorated).trim_end(),
            )?;
        }
        Ok(())
    }
}

impl Memory {
    /// Steps `count` streams from their beginning, `steps` times, `at_once` of them together.
    fn time(&mut self, model: &Model<'_>, engine: &Engine, count: usize, at_once: usize, steps: usize) -> Result<Duration> {
        let inputs = Inputs::random(model, count * steps);
        let states = self.states.iter_mut().take(count).map(|lines| State::new(model, Line::bytes_mut(lines)));
        let mut states = states.collect::<Result<Vec<_>, _>>()?;
        let width = model.outputs();
        let mut streams = Streams::with_team(model, engine.kernels, &*engine.pool, Line::bytes_mut(&mut self.scratch))?;
        let mut run = |states: &mut [State<'_>], steps: usize| -> Result<Duration> {
            let start = Instant::now();
            for step in 0..steps {
                for first in (0..count).step_by(at_once) {
                    let some = first..(first + at_once).min(count);
                    let (part, outputs) = (step * count + some.start..step * count + some.end, some.start * width..some.end * width);
                    let (states, outputs) = (&mut states[some], &mut self.outputs[outputs]);
                    match &inputs {
                        Inputs::Tokens(tokens) => streams.step_tokens(states, &tokens[part], outputs)?,
                        Inputs::Frames(frames, channels) => {
                            streams.step_frames(states, &frames[part.start * channels..part.end * channels], outputs)?
                        }
                    }
                }
            }
            Ok(start.elapsed())
        };
        // What the caches can hold shall be there: other work came before.
        run(&mut states, 1)?;
        states.iter_mut().for_each(State::reset);
        run(&mut states, steps)
    }
}
