//! A promise about a file: its answers are within so many nats of the float model's.
//!
//! The road: a [`Calibration`] is what both models run on; the meter measures a file; the shelf mixes files of all formats from
//! whole ones; candidates are the matrices that may be kept finer; the selection says which to keep.
//!
//! What is measured are real files, run by the runtime: the divergence includes rounded activations and caches.

mod calibration;
mod candidates;
mod meter;
mod selection;
mod shelf;

pub use calibration::{Calibration, ENGLISH};

use crate::error::Error;
use crate::graph::{Graph, Output};
use crate::lower::{self, Layout, Progress, Report};
use crate::recipe::{Cache, Recipe};
use brooklet::Model;
use brooklet::kernels::quant::Format;
use brooklet::ops::Op;
use candidates::{Unit, all_at_least, units};
use meter::Meter;
use selection::{Step, order, shortest};
use shelf::Shelf;
use std::path::Path;

/// Segments of the stream that are measured.
const SEGMENTS: usize = 8;
/// Share of the bound that a fit may use up on the calibration stream; the rest is for streams that it has not seen.
const AIM: f64 = 0.5;
/// Numbers of float outputs that a measurement may hold: 256 MiB.
const MOST_HELD_NUMBERS: usize = 64 << 20;
/// Divergence of half floats over that of 8 bits, about.
const HALF_FLOAT_SHARE: f64 = 1e-3;

/// How far a fit has come.
#[derive(Clone, Copy, Debug)]
pub enum FitProgress<'a> {
    /// A file is being written: the measured ones, then the result.
    Writing(Progress<'a>),
    /// Files are measured.
    Measuring {
        /// What is measured.
        what: &'a str,
        /// Measurements done.
        done: usize,
        /// Measurements that there will be, about.
        total: usize,
    },
}

/// A file that keeps the promise.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// What was written.
    pub report: Report,
    /// Steps that were measured.
    pub steps: usize,
    /// Divergence of the recipe's file, in nats per step.
    pub plain_kl: f64,
    /// Divergence of what was written, in nats per step.
    pub kl: f64,
    /// Bytes of the recipe's file.
    pub plain_bytes: u64,
    /// Numbers of the tensors that are in a finer format than the recipe's.
    pub finer: Vec<usize>,
    /// Matrices whose format the recipe chooses.
    pub matrices: usize,
}

/// Writes `graph` by `recipe` into the file `out`, with as many matrices in finer formats as it takes to stay within `max_kl`
/// nats per step of the float model's answers, measured on `calibration`.
pub fn quantize_within(
    graph: &Graph<'_>,
    recipe: &Recipe,
    max_kl: f64,
    calibration: Option<&Calibration>,
    out: &Path,
    progress: &mut dyn FnMut(FitProgress<'_>),
) -> Result<Fitted, Error> {
    if let Output::Values { .. } = graph.output {
        let problem = "the model gives measured values, and a divergence is one of probabilities; compare values of --format f16 and f32";
        return Err(Error::invalid(out, OPTION, problem));
    }
    if !(max_kl > 0.0 && max_kl.is_finite()) {
        return Err(Error::invalid(out, OPTION, format!("is {max_kl}, expected a number of nats above 0, for instance 0.001")));
    }
    let plain = recipe.formats(graph);
    let mut shelf = Shelf::new(graph, recipe, out)?;
    for formats in [plain.clone(), all_at_least(&plain, Format::F32)] {
        shelf.add(formats, &mut |p| progress(FitProgress::Writing(p)))?;
    }
    let layout = Layout::new(graph, recipe, out)?;
    let float_recipe = Recipe { cache: Cache { int8: false, ..recipe.cache }, ..*recipe };
    let float_layout = Layout::new(graph, &float_recipe, out)?;
    let float = shelf.mix(&float_layout, &all_at_least(&plain, Format::F32))?;
    let plain_image = shelf.mix(&layout, &plain)?;
    let float_model = float.model()?;
    let noise;
    let calibration = match calibration {
        Some(given) => given,
        None => {
            noise = Calibration::noise(graph, float_model.plan().takes_gaps, NOISE_STEPS);
            &noise
        }
    };
    let rough = Meter::new(calibration, &float_model, SEGMENTS, recipe.cache.context as usize)?;
    let thorough = Meter::new(calibration, &float_model, THOROUGH, recipe.cache.context as usize)?;
    let plain_kl = thorough.kl(&plain_image.model()?)?;
    let mut fitted = plain.clone();
    let mut kl = plain_kl;
    let units = units(graph, &plain);
    let mut measurements = 1;
    if plain_kl > AIM * max_kl {
        for format in [Format::Q8, Format::F16] {
            shelf.add(all_at_least(&plain, format), &mut |p| progress(FitProgress::Writing(p)))?;
        }
        let mut steps = Vec::new();
        for (u, unit) in units.iter().enumerate() {
            let share = |format: Option<Format>| {
                let mut formats = all_at_least(&plain, Format::F32);
                match format {
                    Some(format) => unit.set(&mut formats, &plain, format),
                    None => unit.tensors.iter().for_each(|&t| formats[t] = plain[t]),
                }
                rough.kl(&shelf.mix(&float_layout, &formats)?.model()?)
            };
            let mut formats = plain.clone();
            let mut before = share(None)?;
            measurements += 1;
            let mut before_bytes = unit.bytes(graph, &formats);
            for (f, &format) in unit.finer_formats(&plain).iter().enumerate() {
                let after = match format {
                    Format::F32 => 0.0,
                    Format::F16 => before * HALF_FLOAT_SHARE,
                    _ => {measurements += 1; share(Some(format))?},
                };
                unit.set(&mut formats, &plain, format);
                let bytes = unit.bytes(graph, &formats);
                steps.push(Step { unit: u, format: f, gain: before - after, bytes: bytes - before_bytes });
                (before, before_bytes) = (after, bytes);
            }
        }
        let steps = order(steps);
        let formats_of = |count: usize| {
            let mut formats = plain.clone();
            for step in &steps[..count] {
                let unit: &Unit = &units[step.unit];
                unit.set(&mut formats, &plain, unit.finer_formats(&plain)[step.format]);
            }
            formats
        };
        let mut kl_of = vec![f64::NAN; steps.len() + 1];
        let found = shortest(steps.len(), |count| {
            measurements += 1;
            kl_of[count] = thorough.kl(&shelf.mix(&layout, &formats_of(count))?.model()?)?;
            Ok(kl_of[count] <= AIM * max_kl)
        })?;
        let Some(count) = found else {
            return Err(Error::invalid(out, OPTION, "cannot be met"));
        };
        kl = kl_of[count];
        fitted = formats_of(count);
    }
    if std::env::var_os("FITDBG").is_some() { eprintln!("measurements {measurements}"); }
    let report = lower::write_formats(graph, recipe, &fitted, out, &mut |p| progress(FitProgress::Writing(p)))?;
    let finer = (0..plain.len()).filter(|&t| fitted[t] != plain[t]).collect();
    Ok(Fitted {
        report, steps: thorough.steps(), plain_kl, kl, plain_bytes: plain_image.len() as u64, finer,
        matrices: units.iter().map(|u| u.tensors.len()).sum(),
    })
}
const OPTION: &str = "option --max-kl";
const THOROUGH: usize = 32;
const NOISE_STEPS: usize = 64 * THOROUGH;
