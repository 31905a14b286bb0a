//! What was measured, as JSON and as tables.

use super::bandwidth;
use super::ops::Shares;
use super::speed::{Measured, Work};
use super::stream::Place;
use super::streams::ManyStreams;
use super::times::Rate;
use super::traffic::{Traffic, held_bytes};
use crate::sheet::{Sheet, grouped, short};
use crate::term;
use brooklet::Model;
use serde::Serialize;
use std::io::{self, Write};

/// Everything about one model.
#[derive(Serialize)]
pub(crate) struct Report {
    model: String,
    memory: Sheet,
    /// Steps of a run.
    steps: usize,
    /// Tokens of a prefill.
    prompt: usize,
    /// Tokens that a prefill handles at once.
    prefill_batch: usize,
    /// Runs of each kind; figures are medians.
    runs: u32,
    speeds: Vec<Speed>,
    /// With `--streams`, for each engine.
    streams: Vec<ManyStreams>,
    /// With `--ops`, for each engine and position.
    ops: Vec<Shares>,
}

/// One set of kernels on a number of threads.
#[derive(Serialize)]
struct Speed {
    kernels: &'static str,
    threads: usize,
    /// A plain read of memory by as many threads.
    read_bytes_per_second: Rate,
    prefill_per_second: Rate,
    /// At the first position.
    steps_per_second: f64,
    depths: Vec<Depth>,
}

/// One position.
#[derive(Serialize)]
struct Depth {
    position: u64,
    steps_per_second: Rate,
    /// Speed over that at the first position.
    of_first: f64,
    /// What a step moves.
    bytes_per_step: Traffic,
    total_bytes_per_step: u64,
    /// Speed over what the bandwidth allows.
    roofline_share: f64,
    /// The same of the fastest run and the fastest read: what a machine that does nothing else would show.
    best_roofline_share: f64,
    /// What the stream holds.
    held_bytes: u64,
}

impl Report {
    pub(crate) fn of_steps(name: String, model: &Model<'_>, batch: usize, work: Work, places: &[Place], measured: &[Measured]) -> Self {
        Report {
            model: name,
            memory: Sheet::of(model),
            steps: work.steps,
            prompt: work.prompt,
            prefill_batch: batch.min(work.prompt),
            runs: work.runs,
            speeds: measured.iter().map(|m| Speed::of(model, work, places, m)).collect(),
            streams: Vec::new(),
            ops: Vec::new(),
        }
    }

    pub(crate) fn with(self, streams: Vec<ManyStreams>, ops: Vec<Shares>) -> Self {
        Report { streams, ops, ..self }
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Report { model, memory, steps, runs, .. } = self;
        writeln!(out, "{model}: {steps} steps a run, medians of {runs} runs")?;
        writeln!(out, "file {}, state {}, scratch {}", short(memory.file_bytes), short(memory.state_bytes), short(memory.scratch_bytes))?;
        if let Some(depth) = self.speeds.first().and_then(|speed| speed.depths.first()) {
            let Traffic { weights_bytes, state_bytes, cache_bytes } = depth.bytes_per_step;
            write!(out, "a step moves {}: weights {}", short(depth.total_bytes_per_step), short(weights_bytes))?;
            writeln!(out, ", state read and written {}, caches {}", short(state_bytes), short(cache_bytes))?;
        }
        let prefill = format!("prefill/s ({}x{})", self.prompt, self.prefill_batch);
        writeln!(
            out,
            "\n{:<10} {:>7} {:>10} {:>10} {:>10} {:>8} {:>10} {:>9} {:>7} {prefill:>20}",
            "kernels", "threads", "steps/s", "best", "us/step", "GB/s", "read GB/s", "roofline", "best"
        )?;
        for speed in &self.speeds {
            let Some(depth) = speed.depths.first() else { continue };
            let rate = depth.steps_per_second.median;
            writeln!(
                out,
                "{:<10} {:>7} {rate:>10.1} {:>10.1} {:>10.2} {:>8.2} {:>10.2} {:>8.1}% {:>6.1}% {:>20.1}",
                speed.kernels,
                speed.threads,
                depth.steps_per_second.best,
                1e6 / rate,
                rate * depth.total_bytes_per_step as f64 / 1e9,
                speed.read_bytes_per_second.median / 1e9,
                100.0 * depth.roofline_share,
                100.0 * depth.best_roofline_share,
                speed.prefill_per_second.median,
            )?;
        }
        self.speeds.iter().filter(|speed| speed.depths.len() > 1).try_for_each(|speed| speed.print_depths(out))?;
        self.streams.iter().try_for_each(|streams| streams.print(out))?;
        self.ops.iter().try_for_each(|ops| ops.print(out))
    }
}

impl Speed {
    fn of(model: &Model<'_>, work: Work, places: &[Place], measured: &Measured) -> Self {
        let read = measured.reads.rate(bandwidth::Memory::BYTES);
        let rates: Vec<Rate> = measured.steps.iter().map(|times| times.rate(work.steps)).collect();
        let first = rates.first().map_or(0.0, |rate| rate.median);
        let depth = |(place, &rate): (&Place, &Rate)| {
            let bytes = Traffic::of(model, place.position + work.steps as u64 / 2);
            Depth {
                position: place.position,
                steps_per_second: rate,
                of_first: rate.median / first,
                bytes_per_step: bytes,
                total_bytes_per_step: bytes.total_bytes(),
                roofline_share: rate.median * bytes.total_bytes() as f64 / read.median,
                best_roofline_share: rate.best * bytes.total_bytes() as f64 / read.best,
                held_bytes: held_bytes(model, place.position),
            }
        };
        Speed {
            kernels: measured.engine.kernels.name(),
            threads: measured.engine.threads(),
            read_bytes_per_second: read,
            prefill_per_second: measured.prefills.rate(work.prompt),
            steps_per_second: first,
            depths: places.iter().zip(&rates).map(depth).collect(),
        }
    }

    fn print_depths(&self, out: &mut dyn Write) -> io::Result<()> {
        let decorated = term::is_decorated();
        writeln!(out, "\nby position: {}, threads: {}", self.kernels, self.threads)?;
        writeln!(out, "{:>10} {:>12} {:>9} {:>12} {:>12} {:>9}", "position", "steps/s", "of first", "moves", "holds", "roofline")?;
        for depth in &self.depths {
            writeln!(
                out,
                "{:>10} {:>12.1} {:>9.3} {:>12} {:>12} {:>8.1}%  {}",
                grouped(depth.position),
                depth.steps_per_second.median,
                depth.of_first,
                short(depth.total_bytes_per_step),
                short(depth.held_bytes),
                100.0 * depth.roofline_share,
                term::bar(depth.of_first as f32, 30, decorated).trim_end(),
            )?;
        }
        Ok(())
    }
}
