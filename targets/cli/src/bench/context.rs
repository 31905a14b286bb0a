//! What a long context costs: memory, speed and time to the first token at several positions, for models with and without
//! attention.

use super::inputs::Inputs;
use super::panel::{Panel, Series};
use super::stream::{CHUNK, Engine};
use super::times::{Rate, Times};
use super::traffic::{Traffic, held_bytes};
use crate::model_file::Memory;
use crate::sampler::SplitMix64;
use crate::sheet::{grouped, short};
use anyhow::Result;
use brooklet::artifact::{Slot, SlotKind};
use brooklet::kernels::quant::GROUP;
use brooklet::{Line, Model, Session, State};
use indicatif::ProgressBar;
use serde::Serialize;
use std::convert::Infallible;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// The deepest position that is reached by a prefill: beyond, a transformer would take minutes.
const DEEPEST_PREFILL: u64 = 8192;
/// Steps of a run, when their number was left open.
pub(crate) const STEPS: usize = 16;
/// Scale of the random keys and values: codes up to 127 become numbers around 1.
const SCALE: f32 = 0.01;
/// The same as the bits of a half.
const SCALE_HALF: u16 = 0x211f;

/// What was found.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) kernels: &'static str,
    pub(crate) threads: usize,
    pub(crate) steps: usize,
    pub(crate) runs: u32,
    pub(crate) curves: Vec<Curve>,
}

/// One model over the positions.
#[derive(Serialize)]
pub(crate) struct Curve {
    model: String,
    file_bytes: u64,
    points: Vec<Point>,
}

/// One position.
#[derive(Serialize)]
struct Point {
    position: u64,
    steps_per_second: Rate,
    bytes_per_step: Traffic,
    /// The stream's state, caches as far as they are filled.
    state_bytes: u64,
    /// That and the file.
    total_bytes: u64,
    /// Time of a prefill of so many tokens; none for positions that were not reached by one.
    first_token_seconds: Option<f64>,
}

/// How much to run.
pub(crate) struct Work<'w> {
    /// Ascending.
    pub(crate) positions: &'w [u64],
    pub(crate) steps: usize,
    pub(crate) runs: u32,
    pub(crate) batch: usize,
}

impl Curve {
    /// Times the model at every position in turn.
    pub(crate) fn measure(name: String, model: &Model<'_>, engine: &Engine, work: &Work<'_>) -> Result<Self> {
        let mut memory = Memory::for_team(model, work.batch, engine.threads())?;
        let mut state = State::new(model, Line::bytes_mut(&mut memory.state))?;
        let scratch = Line::bytes_mut(&mut memory.scratch);
        let first_tokens = prefill(model, engine, &mut state, scratch, work)?;
        let reached = state.position();
        let Ok(()) = state.refill(reached, |bytes| {
            fill_caches(model, bytes, reached);
            Ok::<(), Infallible>(())
        });
        let inputs = Inputs::random(model, work.steps);
        let mut times = vec![Times::default(); work.positions.len()];
        let bar = ProgressBar::new(u64::from(work.runs) + 1).with_message(format!("timing {name}"));
        for run in 0..=work.runs {
            for (&position, times) in work.positions.iter().zip(&mut times) {
                // What lies in the state stays: only the place in time changes.
                let Ok(()) = state.refill(position, |_| Ok::<(), Infallible>(()));
                let mut session = Session::with_team(model, engine.kernels, &*engine.pool, &mut state, &mut *scratch)?;
                let start = Instant::now();
                inputs.step(&mut session, work.steps)?;
                // The first run only fills the caches.
                if run > 0 {
                    times.push(start.elapsed());
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let file_bytes = model.artifact().file_bytes() as u64;
        let points = work.positions.iter().zip(&times).zip(first_tokens).map(|((&position, times), first_token)| {
            let state_bytes = held_bytes(model, position);
            Point {
                position,
                steps_per_second: times.rate(work.steps),
                bytes_per_step: Traffic::of(model, position + work.steps as u64 / 2),
                state_bytes,
                total_bytes: file_bytes + state_bytes,
                first_token_seconds: first_token.map(|time| time.as_secs_f64()),
            }
        });
        Ok(Curve { model: name, file_bytes, points: points.collect() })
    }
}

/// Takes random inputs in up to the last position that is not too deep; returns when each position was reached.
fn prefill(
    model: &Model<'_>,
    engine: &Engine,
    state: &mut State<'_>,
    scratch: &mut [u8],
    work: &Work<'_>,
) -> Result<Vec<Option<Duration>>> {
    let inputs = Inputs::random(model, CHUNK);
    let bar = ProgressBar::new(DEEPEST_PREFILL).with_message("prefilling");
    let mut spent = Duration::ZERO;
    let mut reached = Vec::new();
    for &position in work.positions {
        if position > DEEPEST_PREFILL {
            reached.push(None);
            continue;
        }
        while state.position() < position {
            let steps = (position - state.position()).min(CHUNK as u64) as usize;
            let mut session = Session::with_team(model, engine.kernels, &*engine.pool, state, scratch)?;
            let start = Instant::now();
            inputs.prefill(&mut session, steps)?;
            spent += start.elapsed();
            bar.set_position(state.position());
        }
        reached.push(Some(spent));
    }
    bar.finish_and_clear();
    Ok(reached)
}

/// Fills the attention caches in a state's bytes with random keys and values from `position` on.
fn fill_caches(model: &Model<'_>, state: &mut [u8], position: u64) {
    let slots = &model.header().slots;
    let mut random = SplitMix64(1);
    for slot in (0..slots.count).filter_map(|index| slots.get(index)) {
        fill_cache(&slot, state, position, &mut random);
    }
}

/// A cache is laid out in parts, each (heads, capacity, width): scales of keys and of values if they are rounded, keys, values.
fn fill_cache(slot: &Slot, state: &mut [u8], position: u64, random: &mut SplitMix64) {
    let codes = slot.head_dim as usize;
    let groups = codes.div_ceil(GROUP);
    let widths: &[usize] = match slot.kind {
        SlotKind::Numbers | SlotKind::NumbersF16 => &[],
        SlotKind::CacheF32 => &[4 * codes; 2],
        SlotKind::CacheInt8 => &[4, 4, codes, codes],
        SlotKind::CacheInt4 => &[2 * groups, 2 * groups, GROUP / 2 * groups, GROUP / 2 * groups],
    };
    let scales = match slot.kind {
        SlotKind::CacheInt4 => [SCALE_HALF; 4].map(u16::to_le_bytes).concat(),
        _ => [SCALE; 2].map(f32::to_le_bytes).concat(),
    };
    let (capacity, heads) = (slot.capacity as usize, slot.heads as usize);
    let from = capacity.min(position as usize);
    let mut at = slot.at as usize;
    for (part, width) in widths.iter().enumerate() {
        let is_codes = part >= 2;
        for head in 0..heads {
            let bytes = &mut state[at + (head * capacity + from) * width..at + (head + 1) * capacity * width];
            for word in bytes.chunks_mut(8) {
                let noise = random.next().to_le_bytes();
                let source = if is_codes { &noise[..] } else { &scales };
                word.copy_from_slice(&source[..word.len()]);
            }
        }
        at += (heads * capacity * width).next_multiple_of(brooklet::mem::BUFFER_ALIGN);
    }
}

impl Comparison {
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}, threads: {}; {} steps a run, medians of {} runs\n", self.kernels, self.threads, self.steps, self.runs)?;
        writeln!(
            out,
            "{:<24} {:>10} {:>12} {:>12} {:>12} {:>12} {:>13}",
            "model", "position", "state", "with file", "steps/s", "of first", "first token"
        )?;
        for curve in &self.curves {
            let first = curve.points.first().map_or(0.0, |point| point.steps_per_second.median);
            for point in &curve.points {
                let rate = point.steps_per_second.median;
                let first_token = point.first_token_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.2} s"));
                writeln!(
                    out,
                    "{:<24} {:>10} {:>12} {:>12} {rate:>12.1} {:>12.3} {first_token:>13}",
                    curve.model,
                    grouped(point.position),
                    short(point.state_bytes),
                    short(point.total_bytes),
                    rate / first,
                )?;
            }
        }
        self.panels().iter().try_for_each(|panel| write!(out, "\n{}", panel.text()))
    }

    /// Memory and speed over the position, both with logarithmic axes.
    pub(crate) fn panels(&self) -> [Panel; 2] {
        let panel = |title: &str, label: fn(f64) -> String, y: fn(&Point) -> f64| Panel {
            title: title.to_owned(),
            label,
            series: self
                .curves
                .iter()
                .map(|curve| Series {
                    name: curve.model.clone(),
                    // The logarithm of the beginning would be endless.
                    points: curve.points.iter().map(|point| (point.position.max(1) as f64, y(point))).collect(),
                })
                .collect(),
        };
        [
            panel("state of one stream, bytes over position", |bytes| short(bytes as u64), |point| point.state_bytes as f64),
            panel("steps per second over position", |rate| format!("{rate:.0}"), |point| point.steps_per_second.median),
        ]
    }
}
