//! Where a step's time goes, operation by operation.

use super::inputs::Inputs;
use super::stream::{Engine, Place, Stream};
use super::times::Times;
use super::traffic::{Traffic, each_op};
use crate::sheet::short;
use crate::term;
use anyhow::Result;
use brooklet::artifact::Artifact;
use brooklet::ops::{Op, TensorId};
use brooklet::{Model, Team};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A step, in parts.
#[derive(Serialize)]
pub(crate) struct Shares {
    kernels: &'static str,
    threads: usize,
    position: u64,
    /// With the clock being looked at behind every operation, which takes some time itself.
    us_per_step: f64,
    /// By what they do, longest first.
    kinds: Vec<Kind>,
    /// In the order of the program.
    ops: Vec<OpTime>,
}

/// Operations that do the same.
#[derive(Serialize)]
struct Kind {
    kind: String,
    count: u32,
    #[serde(flatten)]
    time: Time,
}

/// One operation.
#[derive(Serialize)]
struct OpTime {
    op: &'static str,
    /// The matrix that it multiplies with.
    tensor: Option<String>,
    #[serde(flatten)]
    time: Time,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Time {
    us_per_step: f64,
    share: f64,
    /// What it moves.
    total_bytes_per_step: u64,
}

/// A team that looks at the clock behind every operation.
#[derive(Debug)]
struct Stopwatch<'t> {
    team: &'t dyn Team,
    laps: Mutex<Laps>,
}

#[derive(Debug)]
struct Laps {
    since: Instant,
    /// (operations)
    spent: Vec<Duration>,
}

impl Stopwatch<'_> {
    fn laps(&self) -> MutexGuard<'_, Laps> {
        self.laps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Team for Stopwatch<'_> {
    fn size(&self) -> usize {
        self.team.size()
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        self.team.run(parts, work);
    }

    fn done(&self, op: u32) {
        let mut laps = self.laps();
        let now = Instant::now();
        let lap = now - std::mem::replace(&mut laps.since, now);
        if let Some(spent) = laps.spent.get_mut(op as usize) {
            *spent += lap;
        }
    }
}

impl Shares {
    /// Times every operation in `runs` runs of `steps` steps from `place` on.
    pub(crate) fn measure(
        model: &Model<'_>,
        stream: &mut Stream<'_, '_>,
        engine: &Engine,
        place: &Place,
        steps: usize,
        runs: u32,
    ) -> Result<Self> {
        let inputs = Inputs::random(model, steps);
        let count = model.header().program.count as usize;
        let mut all: Vec<Vec<Duration>> = Vec::new();
        for _ in 0..=runs {
            let laps = Mutex::new(Laps { since: Instant::now(), spent: vec![Duration::ZERO; count] });
            let watch = Stopwatch { team: &*engine.pool, laps };
            stream.time_with(place, engine.kernels, &watch, |session| {
                // What was before the first step is not part of it.
                watch.laps().since = Instant::now();
                inputs.step(session, steps)
            })?;
            all.push(watch.laps.into_inner().unwrap_or_else(PoisonError::into_inner).spent);
        }
        // The first run only fills the caches.
        all.remove(0);
        // Each operation's own median: what disturbs a run disturbs only some operations of it.
        let median = |op: usize| {
            let mut times = Times::default();
            all.iter().for_each(|spent| times.push(spent[op]));
            times.median()
        };
        let spent: Vec<Duration> = (0..count).map(median).collect();
        Ok(Self::of(model, engine, place.position, &spent, steps))
    }

    fn of(model: &Model<'_>, engine: &Engine, position: u64, spent: &[Duration], steps: usize) -> Self {
        let artifact = model.artifact();
        let whole: Duration = spent.iter().sum();
        let mut ops = Vec::new();
        let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
        each_op(model, |index, op, clock| {
            let spent = spent.get(index as usize).copied().unwrap_or_default();
            let time = Time {
                us_per_step: 1e6 * spent.as_secs_f64() / steps as f64,
                share: spent.as_secs_f64() / whole.as_secs_f64(),
                total_bytes_per_step: Traffic::of_op(artifact, op, clock, position + steps as u64 / 2).total_bytes(),
            };
            let matrix = matrix_of(op);
            let name = kind_of(artifact, op, matrix);
            let kind = kinds.entry(name.clone()).or_insert(Kind { kind: name, count: 0, time: Time::default() });
            kind.count += 1;
            kind.time.us_per_step += time.us_per_step;
            kind.time.share += time.share;
            kind.time.total_bytes_per_step += time.total_bytes_per_step;
            let tensor = matrix.and_then(|id| Some(artifact.name_of(&artifact.section(id)?)?.to_owned()));
            ops.push(OpTime { op: op.name(), tensor, time });
        });
        let mut kinds: Vec<Kind> = kinds.into_values().collect();
        kinds.sort_by(|a, b| b.time.us_per_step.total_cmp(&a.time.us_per_step));
        Shares {
            kernels: engine.kernels.name(),
            threads: engine.threads(),
            position,
            us_per_step: 1e6 * whole.as_secs_f64() / steps as f64,
            kinds,
            ops,
        }
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let decorated = term::is_decorated();
        writeln!(
            out,
            "\noperations at position {}: {}, threads: {}, {:.2} us a step",
            self.position, self.kernels, self.threads, self.us_per_step
        )?;
        writeln!(out, "{:<26} {:>6} {:>11} {:>7} {:>12} {:>8}", "operation", "times", "us/step", "share", "moves", "GB/s")?;
        for Kind { kind, count, time } in &self.kinds {
            let rate = if time.us_per_step > 0.0 { time.total_bytes_per_step as f64 / time.us_per_step / 1e3 } else { 0.0 };
            writeln!(
                out,
                "{kind:<26} {count:>6} {:>11.2} {:>6.1}% {:>12} {rate:>8.2}  {}",
                time.us_per_step,
                100.0 * time.share,
                short(time.total_bytes_per_step),
                term::bar(time.share as f32, 30, decorated).trim_end(),
            )?;
        }
        Ok(())
    }
}

/// The matrix that an operation multiplies with.
fn matrix_of(op: &Op) -> Option<TensorId> {
    match op {
        Op::Linear(linear) => Some(linear.w),
        Op::Lstm(lstm) => Some(lstm.w),
        Op::Gru(gru) => Some(gru.w),
        Op::Moe(moe) => Some(moe.experts_at),
        _ => op.head().map(|head| head.w),
    }
}

/// What an operation does: matrices of different shapes do not do the same.
fn kind_of(artifact: &Artifact<'_>, op: &Op, matrix: Option<TensorId>) -> String {
    match matrix.and_then(|id| artifact.section(id)) {
        Some(section) => format!("{} {}x{} {}", op.name(), section.rows, section.cols, section.content.name()),
        None => op.name().to_owned(),
    }
}
