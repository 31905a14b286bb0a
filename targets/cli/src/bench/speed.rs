//! Times steps and prefills: every set of kernels, number of threads and position in turn, so that what disturbs the machine
//! disturbs all of them.

use super::bandwidth;
use super::inputs::Inputs;
use super::stream::{Engine, Place, Stream};
use super::times::Times;
use anyhow::Result;
use brooklet::Model;
use indicatif::ProgressBar;
use std::time::Duration;

/// About how long a run should take, when the number of its steps was left open.
pub(crate) const RUN_TIME: Duration = Duration::from_millis(200);
/// Steps of a trial run, of the shortest and of the longest run of that kind.
const STEPS: [usize; 3] = [8, 16, 1 << 14];

/// How much to run.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Steps of a run.
    pub(crate) steps: usize,
    /// Tokens of a prefill; none to leave it out.
    pub(crate) prompt: usize,
    /// Runs, after one to warm up.
    pub(crate) runs: u32,
}

/// What one engine did.
pub(crate) struct Measured {
    pub(crate) engine: Engine,
    /// Reads of [`bandwidth::Memory::BYTES`].
    pub(crate) reads: Times,
    /// (places): runs of [`Work::steps`] steps.
    pub(crate) steps: Vec<Times>,
    /// Prefills of [`Work::prompt`] tokens.
    pub(crate) prefills: Times,
}

/// Steps that take about [`RUN_TIME`], at most `most`.
pub(crate) fn steps_that_fit(stream: &mut Stream<'_, '_>, place: &Place, engine: &Engine, inputs: &Inputs, most: usize) -> Result<usize> {
    let steps = STEPS.map(|steps| steps.min(most));
    let mut run = || stream.time_from(place, engine, |session| inputs.step(session, steps[0]));
    // The first run only fills the caches.
    run()?;
    Ok(fitting(RUN_TIME, run()?, steps))
}

/// Steps that fit into `time`, when the first of the numbers took `trial`; from the second number to the third.
pub(crate) fn fitting(time: Duration, trial: Duration, [steps, least, most]: [usize; 3]) -> usize {
    let fitting = if trial > Duration::ZERO { time.as_secs_f64() / trial.as_secs_f64() * steps as f64 } else { f64::INFINITY };
    (fitting as usize).clamp(least, most)
}

pub(crate) fn measure(
    model: &Model<'_>,
    stream: &mut Stream<'_, '_>,
    engines: &[Engine],
    places: &[Place],
    work: Work,
) -> Result<Vec<Measured>> {
    let inputs = Inputs::random(model, work.steps.max(work.prompt));
    let memory = bandwidth::Memory::new();
    let no_times = |engine: &Engine| Measured {
        engine: engine.clone(),
        reads: Times::default(),
        steps: vec![Times::default(); places.len()],
        prefills: Times::default(),
    };
    let mut all: Vec<Measured> = engines.iter().map(no_times).collect();
    let bar = ProgressBar::new(u64::from(work.runs) + 1).with_message("timing");
    for run in 0..=work.runs {
        // The first run only fills the caches.
        let keep = |times: &mut Times, time: Duration| {
            if run > 0 {
                times.push(time)
            }
        };
        for measured in &mut all {
            let engine = &measured.engine;
            keep(&mut measured.reads, memory.read(engine.threads()));
            for (place, times) in places.iter().zip(&mut measured.steps) {
                keep(times, stream.time_from(place, engine, |session| inputs.step(session, work.steps))?);
            }
            keep(&mut measured.reads, memory.read(engine.threads()));
            if work.prompt > 0 {
                keep(&mut measured.prefills, stream.time_from(&places[0], engine, |session| inputs.prefill(session, work.prompt))?);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(all)
}
