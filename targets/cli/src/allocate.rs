//! `brooklet quantize --fit`, `--bits`, `--flash`, `--max-ppl-ratio`: what the budget is, and what was chosen for it.

use crate::calibrate::How;
use crate::export::size;
use crate::firmware::{CORES, Overhead};
use crate::fit::{plainly, show};
use crate::quantize::percent;
use crate::sheet::{grouped, short};
use anyhow::{Result, bail};
use brooklet::kernels::quant::Format;
use brooklet_quantize::allocate::{self, Allocation, Goal, Ram, Request, parameters};
use brooklet_quantize::calibrate::{CalibrateProgress, write_calibrated};
use brooklet_quantize::fit::{Calibration, FitProgress};
use brooklet_quantize::graph::Graph;
use brooklet_quantize::methods::Method;
use brooklet_quantize::report::{bits_per_weight, uniform_loss_at};
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat, lower};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Formats of firmware: whole numbers that its kernels multiply, without those of the feature `planes`. Half floats would be several times slower there.
const FIRMWARE_FORMATS: [Format; 2] = [Format::Q4, Format::Q8];
/// Whole floats tell nothing more than halves, and take twice the room.
const FORMATS: [Format; 7] = [Format::T2, Format::Q3, Format::Q4, Format::Q5, Format::Q6, Format::Q8, Format::F16];
/// How far linked firmware may be from what is foretold: `cargo xtask size` allows as much.
const FORETOLD_WITHIN: f64 = 1.02;
/// Share of the loss from which on it is said what the rounding of activations costs.
const NOTICEABLE_SHARE: f64 = 0.1;
/// How uncertain a forecast may be before a longer calibration stream is recommended.
const MOST_UNCERTAIN: f64 = 2.0;
/// Matrices that are shown one by one; `--plan` and `--verbose` show all.
const MOST_NAMED: usize = 12;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Find the best file of at most this size, everything included, such as 24MiB
    #[arg(long, value_name = "SIZE", value_parser = size, group = "bound")]
    fit: Option<u64>,
    /// Find the best file of at most so many bits for each weight, everything included
    #[arg(long, value_name = "BITS", group = "bound")]
    bits: Option<f64>,
    /// Find the best file for a microcontroller with so much flash, the firmware's code included
    #[arg(long, value_name = "SIZE", value_parser = size, group = "bound")]
    flash: Option<u64>,
    /// RAM for state and scratch; with --flash all of it, the firmware's stack and variables included
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "bound", conflicts_with = "max_kl")]
    ram: Option<u64>,
    /// Core that --flash and --ram are for; without it, what fits every one of them fits
    #[arg(long, value_name = "CORE", value_parser = CORES, ignore_case = true, requires = "flash")]
    core: Option<String>,
    /// Find the smallest file whose perplexity on the calibration text is at most so many times the float model's
    #[arg(long, value_name = "RATIO", group = "bound")]
    max_ppl_ratio: Option<f64>,
    /// Keep what is measured of each matrix in this file, and take from there what was measured before: for a second budget
    #[arg(long, value_name = "LEDGER.json", requires = "bound", conflicts_with = "max_kl")]
    pub(crate) ledger: Option<PathBuf>,
    /// Show what would be chosen for a budget, and make no file
    #[arg(long, requires = "bound", conflicts_with = "max_kl")]
    pub(crate) plan: bool,
}

impl Options {
    /// The budget, and what firmware takes of it besides the model; `None` if there is none.
    fn goal(&self) -> Option<(Goal, Option<Overhead>)> {
        if let Some(bytes) = self.flash {
            let overhead = Overhead::of(self.core.as_deref());
            let code_bytes = (overhead.flash_bytes as f64 * FORETOLD_WITHIN).ceil() as u64;
            return Some((Goal::Flash { bytes, code_bytes }, Some(overhead)));
        }
        let goal = self.fit.map(Goal::Bytes).or(self.bits.map(Goal::BitsPerWeight));
        goal.or(self.max_ppl_ratio.map(Goal::PerplexityRatio)).map(|goal| (goal, None))
    }

    /// Whether the budget is a microcontroller's.
    pub(crate) fn is_for_firmware(&self) -> bool {
        self.flash.is_some()
    }

    /// The one format whose file would come nearest to the budget: what passes are tried in. `None` for budgets that say nothing of a size.
    pub(crate) fn nearest_format(&self, graph: &Graph<'_>) -> Option<Format> {
        let (goal, _) = self.goal()?;
        let bits = match goal {
            Goal::BitsPerWeight(bits) => bits,
            Goal::Bytes(bytes) => 8.0 * bytes as f64 / parameters(graph).max(1) as f64,
            Goal::Flash { bytes, code_bytes } => 8.0 * bytes.saturating_sub(code_bytes) as f64 / parameters(graph).max(1) as f64,
            Goal::PerplexityRatio(_) => return None,
        };
        let formats: &[Format] = if self.is_for_firmware() { &FIRMWARE_FORMATS } else { &FORMATS };
        // Bits of a large matrix.
        let bits_of =
            |format: Format| format.matrix_bytes(1024, 1024).map_or(f64::INFINITY, |bytes| 8.0 * bytes as f64 / (1024.0 * 1024.0));
        formats.iter().copied().min_by(|&a, &b| (bits_of(a) - bits).abs().total_cmp(&(bits_of(b) - bits).abs()))
    }

    /// Whether there is a budget.
    pub(crate) fn is_given(&self) -> bool {
        self.goal().is_some()
    }
}

/// What the user said besides the budget.
pub(crate) struct Wishes {
    /// How the result's codes are chosen.
    pub(crate) how: How,
    /// Whether to go on from an interrupted run.
    pub(crate) resume: bool,
    /// How attention's cache is kept, if it was said.
    pub(crate) cache: Option<CacheFormat>,
    /// How states are kept, if it was said.
    pub(crate) state: Option<StateFormat>,
    /// What is measured on.
    pub(crate) calibration: Option<Calibration>,
}

impl Wishes {
    /// Recipes to choose from, finest first: without a word about it, RAM decides what a stream's memory holds; without RAM, the usual. Firmware
    /// reads halves of floats and of bytes with the feature `narrow-states` alone: it gets them when they were asked for.
    fn recipes(&self, recipe: &Recipe, is_bounded: bool, is_for_firmware: bool) -> Vec<Recipe> {
        if !is_bounded {
            return vec![*recipe];
        }
        let (mut caches, mut states) =
            (vec![CacheFormat::F32, CacheFormat::Int8, CacheFormat::Int4], vec![StateFormat::F32, StateFormat::F16]);
        if is_for_firmware {
            (caches, states) = (vec![CacheFormat::F32, CacheFormat::Int8], vec![StateFormat::F32]);
        }
        let caches = self.cache.map_or(caches, |cache| vec![cache]);
        let states = self.state.map_or(states, |state| vec![state]);
        let of = |(state, format)| Recipe { state, cache: Cache { format, ..recipe.cache }, ..*recipe };
        states.iter().flat_map(|&state| caches.iter().map(move |&format| (state, format))).map(of).collect()
    }
}

/// Does `work` with what is asked for.
fn with_request<T>(recipe: &Recipe, options: &Options, wishes: &Wishes, work: impl FnOnce(&Request<'_>) -> Result<T>) -> Result<T> {
    let Some((goal, overhead)) = options.goal() else { bail!("no budget") };
    let recipes = wishes.recipes(recipe, options.ram.is_some(), options.is_for_firmware());
    let firmware_bytes = |o: &Overhead| ((o.static_bytes + o.stack_bytes) as f64 * FORETOLD_WITHIN).ceil() as u64;
    work(&Request {
        goal,
        recipes: &recipes,
        ram: options.ram.map(|bytes| Ram { bytes, firmware_bytes: overhead.as_ref().map_or(0, firmware_bytes) }),
        formats: if overhead.is_some() { &FIRMWARE_FORMATS } else { &FORMATS },
        calibration: wishes.calibration.as_ref(),
        ledger: options.ledger.as_deref(),
        plan_only: options.plan,
        method: wishes.how.method,
    })
}

/// Refuses what cannot be, before any work is done for it.
pub(crate) fn check(graph: &Graph<'_>, recipe: &Recipe, options: &Options, wishes: &Wishes, out: &Path) -> Result<()> {
    with_request(recipe, options, wishes, |request| allocate::check(graph, request, out).map_err(plainly))
}

/// Chooses and, unless only a plan is asked for, makes the file `out`.
pub(crate) fn run(graph: &Graph<'_>, recipe: &Recipe, options: &Options, wishes: &Wishes, out: &Path) -> Result<Allocation> {
    with_request(recipe, options, wishes, |request| make(graph, request, wishes, out))
}

fn make(graph: &Graph<'_>, request: &Request<'_>, wishes: &Wishes, out: &Path) -> Result<Allocation> {
    let calibrated = (wishes.how.method != Method::Nearest).then_some(request.calibration).flatten();
    let mut write = |recipe: &Recipe, formats: &[Option<Format>], path: &Path, progress: &mut dyn FnMut(FitProgress<'_>)| {
        match calibrated {
            // Files that are only measured are rounded to the nearest: what a matrix is worth beside the others hardly depends on the method.
            Some(calibration) if path == out => {
                let parts = wishes.how.options(graph, calibration, wishes.resume);
                let (report, failed) = write_calibrated(graph, recipe, formats, parts, path, &mut |p| progress(of_calibration(p)))?;
                if let Some(error) = failed {
                    eprintln!("the model could not be run to its end ({error}); matrices behind that are rounded to the nearest");
                }
                Ok(report)
            }
            _ => lower::write_formats(graph, recipe, formats, path, &mut |p| progress(FitProgress::Writing(p))),
        }
    };
    show(|progress| allocate::allocate(graph, request, out, &mut write, progress)).map_err(plainly)
}

fn of_calibration(progress: CalibrateProgress<'_>) -> FitProgress<'_> {
    match progress {
        CalibrateProgress::Walking(p) => FitProgress::Measuring { what: p.what, done: p.done, total: p.total },
        CalibrateProgress::Writing(p) => FitProgress::Writing(p),
    }
}

/// What was chosen, and what it costs.
pub(crate) fn print(out: &mut dyn Write, a: &Allocation, everything: bool) -> Result<()> {
    let mut parts: Vec<_> = a.parts.iter().collect();
    parts.sort_by(|x, y| y.loss.total_cmp(&x.loss));
    let loss_of_all: f64 = a.sum_of_parts().max(f64::MIN_POSITIVE);
    let named = if everything { parts.len() } else { parts.len().min(MOST_NAMED) };
    writeln!(out, "{:<6} {:>16} {:>12} {:>10} {:>7}  matrix, by share of the loss", "format", "shape", "bytes", "loss", "share")?;
    for part in &parts[..named] {
        let (choice, shape) = (part.choice(), format!("{} x {}", part.shape.0, part.shape.1));
        let more = if part.tensors.len() > 1 { format!(" and {} more", part.tensors.len() - 1) } else { String::new() };
        let share = percent((part.loss / loss_of_all) as f32);
        let format = choice.format.name();
        writeln!(out, "{format:<6} {shape:>16} {:>12} {:>10.2e} {share:>7}  {}{more}", choice.bytes, part.loss, part.name)?;
    }
    if named < parts.len() {
        writeln!(out, "and {} more; --verbose shows them all", parts.len() - named)?;
    }
    writeln!(out)?;
    let what = if a.is_relative_error { "squared error over variance" } else { "KL" };
    let room = a
        .limit_bytes
        .map_or(String::new(), |limit| format!(", {:.1} % of {}", 100.0 * a.file_bytes as f64 / limit.max(1) as f64, grouped(limit)));
    writeln!(out, "file       {} bytes{room}; {:.2} bits per weight", grouped(a.file_bytes), bits_per_weight(a))?;
    writeln!(out, "RAM        {} bytes of state and scratch", grouped(a.ram_bytes))?;
    let (measured, predicted, within) = (a.measured.mean, a.predicted, a.predicted_within);
    writeln!(
        out,
        "loss       {measured:.3e} measured, {predicted:.3e} foretold within a factor of {within:.1} ({what} from float, per step)"
    )?;
    if within > MOST_UNCERTAIN {
        writeln!(out, "           most of it sits in few of the {} calibration steps: a longer stream would tell more", a.whole_steps)?;
    }
    if a.activations_loss > NOTICEABLE_SHARE * a.measured.mean {
        writeln!(out, "           {:.3e} with exact weights and 8-bit activations: no format but f16 goes below", a.activations_loss)?;
    }
    if let Some((perplexity, ratio)) = a.measured.perplexity {
        writeln!(out, "perplexity {perplexity:.3} on the calibration text, {ratio:.5} times the float model's")?;
    }
    if let Some(uniform) = uniform_loss_at(a, a.file_bytes) {
        let less = 1.0 - a.measured.mean / uniform;
        // Between files in one format that were measured lies only what they would be like: nothing says that there is one.
        if less > 0.0 {
            writeln!(out, "mixing     {:.0} % less loss than one format at this size", 100.0 * less)?;
        }
    }
    if a.is_finest && a.limit_bytes.is_some() {
        writeln!(out, "every matrix is in its finest format: the rest of the {} stays empty", short(a.limit_bytes.unwrap_or(0)))?;
    }
    Ok(writeln!(out)?)
}
