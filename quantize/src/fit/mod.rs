//! A promise about a file: its answers are within so many nats of the float model's.
//!
//! The road: a [`Calibration`] is what both models run on; the meter measures a file; the shelf mixes files of all formats from
//! whole ones; candidates are the matrices that may be kept finer; sensitivity says what each would bring; the selection picks
//! the few that are enough.
//!
//! What is measured are real files, run by the runtime: rounded weights, rounded activations and the attention cache all count.

pub(crate) mod activations;
mod calibration;
pub(crate) mod candidates;
pub(crate) mod meter;
mod selection;
mod sensitivity;
pub(crate) mod shelf;
mod trials;

pub use calibration::{Calibration, ENGLISH};
pub(crate) use shelf::Image;
pub(crate) use trials::Trials;

use crate::error::Error;
use crate::graph::{Graph, Output};
use crate::lower::{self, Layout, Progress, Report};
use crate::recipe::Recipe;
use brooklet::Model;
use brooklet::kernels::quant::Format;
use brooklet::ops::Op;
use calibration::SEGMENT_STEPS;
use candidates::{all_at_least, finer_formats, units};
use meter::{Divergence, Meter};
use selection::{Step, order, shortest, with_steps, without_needless};
use sensitivity::gains;
use shelf::Shelf;
use std::path::Path;

/// Share of the bound that the mean over the calibration stream may take, and that its worst segment may take. The rest is for
/// streams that the fit has not seen: one of 64 steps is easily twice as far as the mean of many, and the fit itself stops
/// where this one stream just holds.
const MEAN_SHARE: f64 = 0.5;
const WORST_SHARE: f64 = 0.75;

/// Segments to measure a file on.
const SEGMENTS: usize = 32;
/// The same for models that decide (experts, routed layers): a decision that flips is rare, and outweighs all rounding.
const SEGMENTS_OF_DECIDERS: usize = 128;
/// Segments that are measured at least.
const FEW_SEGMENTS: usize = 8;
/// Segments that tell which matrices are worth more than others.
const RANKING_SEGMENTS: usize = 4;
/// Multiplications that one measurement of a large model may take: seconds.
const MOST_MACS: u64 = 16_000_000_000;
/// Float outputs that are held meanwhile: 256 MiB of them.
pub(crate) const MOST_HELD_NUMBERS: usize = 64 << 20;

const OPTION: &str = "option --max-kl";

/// How far a fit has come.
#[derive(Clone, Copy, Debug)]
pub enum FitProgress<'a> {
    /// A file is written: those to measure, at last the result.
    Writing(Progress<'a>),
    /// Files are measured.
    Measuring {
        /// What for.
        what: &'a str,
        /// Measurements done.
        done: usize,
        /// Measurements that there will be, as far as that is known.
        total: usize,
    },
}

/// A file that keeps the promise.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// What was written.
    pub report: Report,
    /// The bound.
    pub max_kl: f64,
    /// Steps that were measured.
    pub steps: usize,
    /// Divergence of the recipe's own file from the float model, in nats per step.
    pub plain_kl: f64,
    /// Divergence of what was written.
    pub kl: f64,
    /// Bytes of the recipe's own file.
    pub plain_bytes: u64,
    /// Matrices that the recipe would have rounded.
    pub rounded: usize,
    /// Those of them that were kept finer.
    pub finer: Vec<Finer>,
}

/// A matrix that was kept finer than the recipe says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finer {
    /// Its number among the tensors.
    pub tensor: usize,
    /// The recipe's format.
    pub from: Format,
    /// Its format in the file.
    pub to: Format,
}

/// Counts measurements and tells how far they are.
pub(crate) struct Measurements<'p> {
    pub(crate) progress: &'p mut dyn FnMut(FitProgress<'_>),
    pub(crate) done: usize,
    /// Those that are still to come in this part of the work.
    pub(crate) to_come: usize,
}

impl Measurements<'_> {
    pub(crate) fn begin(&mut self, what: &str) {
        (self.progress)(FitProgress::Measuring { what, done: self.done, total: self.done + self.to_come.max(1) });
        self.done += 1;
        self.to_come = self.to_come.saturating_sub(1);
    }
}

/// Writes `graph` by `recipe` into the file `out`, with as many matrices in finer formats as it takes to stay within `max_kl`
/// nats per step of the float model.
///
/// Both run on `calibration`; without one, on reproducible noise. What the float model is: every matrix in `f32`, and the
/// attention cache too, over as many positions as the recipe says.
pub fn quantize_within(
    graph: &Graph<'_>,
    recipe: &Recipe,
    max_kl: f64,
    calibration: Option<&Calibration>,
    out: &Path,
    progress: &mut dyn FnMut(FitProgress<'_>),
) -> Result<Fitted, Error> {
    check(graph, max_kl, out)?;
    calibration.map_or(Ok(()), |calibration| calibration.check(graph, out))?;
    let plain = recipe.formats(graph);
    let float = all_at_least(&plain, Format::F32);
    let mut shelf = Shelf::new(out)?;
    for formats in [&plain, &float] {
        shelf.add(formats, &mut |path| lower::write_formats(graph, recipe, formats, path, &mut |p| progress(FitProgress::Writing(p))))?;
    }
    let layout = Layout::new(graph, recipe, out)?;
    let float_layout = Layout::new(graph, &recipe.in_float(), out)?;
    let float_image = shelf.mix(&float_layout, &float)?;
    let float_model = float_image.model()?;

    let wanted = if decides(graph) { SEGMENTS_OF_DECIDERS } else { SEGMENTS };
    let count = segments(wanted, MOST_MACS, &float_model);
    let noise;
    let calibration = match calibration {
        Some(given) => given,
        None => {
            noise = Calibration::noise(graph, float_model.plan().takes_gaps, count * SEGMENT_STEPS);
            &noise
        }
    };
    let meter = |count| {
        let segments = calibration.segments(float_model.channels().unwrap_or(1), count, recipe.cache.context as usize);
        Meter::new(calibration.clone(), &float_model, segments, out)
    };
    let mut measurements = Measurements { progress, done: 0, to_come: 1 };
    measurements.begin("the file without finer matrices");
    let thorough = meter(count)?;
    let plain_image = shelf.mix(&layout, &plain)?;
    let before = thorough.divergence(&plain_image.model()?)?;
    let most = Divergence { mean: MEAN_SHARE * max_kl, worst: WORST_SHARE * max_kl };

    let units = units(graph, &plain);
    let (mut formats, mut after) = (plain.clone(), before);
    if !before.is_within(most) {
        for format in finer_formats(&plain).iter().filter(|&&format| format != Format::F32) {
            let formats = all_at_least(&plain, *format);
            shelf.add(&formats, &mut |path| {
                lower::write_formats(graph, recipe, &formats, path, &mut |p| (measurements.progress)(FitProgress::Writing(p)))
            })?;
        }
        let ranking = meter(RANKING_SEGMENTS)?;
        let steps = order(gains(graph, &plain, &units, &mut measurements, |formats| {
            Ok(ranking.divergence(&shelf.mix(&float_layout, formats)?.model()?)?.mean)
        })?);
        let mut holds = |kept: &[Step]| {
            formats = with_steps(&plain, &units, kept);
            let measured = thorough.divergence_within(&shelf.mix(&layout, &formats)?.model()?, most)?;
            // The last that held is the one that is kept.
            after = measured.unwrap_or(after);
            Ok(measured.is_some())
        };
        measurements.to_come = 2 * steps.len().max(2).ilog2() as usize;
        let enough = shortest(steps.len(), |count| {
            measurements.begin("how many matrices are enough");
            holds(&steps[..count])
        })?;
        let Some(count) = enough else {
            return Err(out_of_reach(max_kl, thorough.divergence(&shelf.mix(&layout, &float)?.model()?)?, out));
        };
        // From a model that decides nothing is taken back: that no flip was seen does not say that none would come.
        let kept = if decides(graph) {
            steps[..count].to_vec()
        } else {
            measurements.to_come = count;
            without_needless(&steps[..count], |kept| {
                measurements.begin("which of them are not needed");
                holds(kept)
            })?
        };
        formats = with_steps(&plain, &units, &kept);
    }
    let report = lower::write_formats(graph, recipe, &formats, out, &mut |p| (measurements.progress)(FitProgress::Writing(p)))?;
    let pairs = plain.iter().zip(&formats).enumerate();
    let finer = pairs.filter_map(|(tensor, (&from, &to))| Some(Finer { tensor, from: from?, to: to? }).filter(|f| f.from != f.to));
    Ok(Fitted {
        report,
        max_kl,
        steps: thorough.steps(),
        plain_kl: before.mean,
        kl: after.mean,
        plain_bytes: plain_image.len() as u64,
        rounded: units.iter().map(|unit| unit.tensors.len()).sum(),
        finer: finer.collect(),
    })
}

/// Refuses what no file can promise.
fn check(graph: &Graph<'_>, max_kl: f64, out: &Path) -> Result<(), Error> {
    if let Output::Values { .. } = graph.output {
        let problem = "the model gives measured values, and a divergence is one of probabilities; leave the option out, and choose --format \
                       f16 where 8 bits are too coarse";
        return Err(Error::invalid(out, OPTION, problem));
    }
    if !(max_kl > 0.0 && max_kl.is_finite()) {
        return Err(Error::invalid(out, OPTION, format!("is {max_kl}, expected nats per step above 0, for instance 0.001")));
    }
    Ok(())
}

/// Whether a model chooses its way by its input.
pub(crate) fn decides(graph: &Graph<'_>) -> bool {
    graph.ops.iter().any(|op| matches!(op, Op::Moe(_) | Op::Route(_)))
}

/// How many segments of those wanted are not more work than `most_macs`, and no more outputs than can be held.
fn segments(wanted: usize, most_macs: u64, float: &Model<'_>) -> usize {
    let by_work = most_macs / (float.plan().macs_per_step.max(1) * SEGMENT_STEPS as u64);
    let by_memory = MOST_HELD_NUMBERS / (float.outputs().max(1) * SEGMENT_STEPS);
    wanted.min(by_work as usize).min(by_memory).max(FEW_SEGMENTS)
}

/// The error for a bound that float matrices do not reach; `floor` is what they reach.
fn out_of_reach(max_kl: f64, floor: Divergence, out: &Path) -> Error {
    let problem = format!(
        "is {max_kl} nats per step, but the 8-bit attention cache alone lies {:.1e} from the float model (worst segment {:.1e}), which \
         leaves too little of the bound for streams not measured; choose --cache f32, or a larger bound",
        floor.mean, floor.worst
    );
    Error::invalid(out, OPTION, problem)
}
