//! The best file within a budget: which format each matrix takes.
//!
//! The road: a [`Goal`] says what to fit to; effort how much to measure for it; losses what each format of each matrix costs in an otherwise
//! float model; the knapsack picks one format for each, and the hull draws the curve of what other sizes would give. What is chosen is measured
//! whole, and both figures are reported.
//!
//! Files to measure come from a [`Write`], so that they are made as the result will be: rounded to the nearest, or by a method that knows better.

mod effort;
mod forecast;
mod gauge;
mod goal;
mod hull;
mod knapsack;
mod ledger;
mod losses;
mod memory;
mod search;
mod sizes;

pub use goal::{Goal, parameters};
pub use hull::Point;

use crate::error::Error;
use crate::fit::candidates::{all_at_least, float_format};
use crate::fit::meter::Profile;
use crate::fit::{Calibration, FitProgress};
use crate::graph::{Graph, Output};
use crate::lower::{Layout, Report};
use crate::methods::{Method, takes_metric};
use crate::recipe::Recipe;
use brooklet::kernels::quant::Format;
use effort::Effort;
use forecast::By;
use gauge::Gauge;
use sizes::Sizes;
use std::path::Path;

/// Factor within which a forecast by losses is good enough.
const GOOD_FORECAST: f64 = 1.5;

/// Makes the file of a recipe and a format per tensor: [`crate::lower::write_formats`], or another method.
pub type Write<'w> = dyn FnMut(&Recipe, &[Option<Format>], &Path, &mut dyn FnMut(FitProgress<'_>)) -> Result<Report, Error> + 'w;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// What to fit to.
    pub goal: Goal,
    /// What a stream's memory may hold: recipes that differ in nothing else.
    pub recipes: &'r [Recipe],
    /// What there is room for besides the file.
    pub ram: Option<Ram>,
    /// Formats that the target reads, from coarse to fine.
    pub formats: &'r [Format],
    /// What to measure on; noise without it.
    pub calibration: Option<&'r Calibration>,
    /// File that keeps what was measured, for the next budget.
    pub ledger: Option<&'r Path>,
    /// Only choose: no file is made.
    pub plan_only: bool,
    /// How the file that is asked for is rounded; those that are only measured are rounded to the nearest.
    pub method: Method,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug)]
pub struct Ram {
    /// All of it.
    pub bytes: u64,
    /// What the firmware takes besides state and scratch.
    pub firmware_bytes: u64,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// What it was fitted to.
    pub goal: Goal,
    /// Bytes that it may take, if they are bounded.
    pub limit_bytes: Option<u64>,
    /// Numbers of the checkpoint.
    pub parameters: u64,
    /// What a stream's memory holds.
    pub recipe: Recipe,
    /// The format of every tensor.
    pub formats: Vec<Option<Format>>,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of state and scratch.
    pub ram_bytes: u64,
    /// What could be chosen, and was.
    pub parts: Vec<Part>,
    /// What the stream's memory costs by itself, in nats per step.
    pub memory_loss: f64,
    /// What the rounding of activations costs by itself, in nats per step: less is left by half floats alone.
    pub activations_loss: f64,
    /// What sums of parts are multiplied with to give a prediction.
    pub scale: f64,
    /// Share of the loss of nearest rounding that the method of the file was expected to leave, by what it left of each matrix.
    pub method_share: f64,
    /// Loss that was foretold, in nats per step.
    pub predicted: f64,
    /// Factor within which nine measurements of ten are of what was foretold: the shorter the calibration stream, the larger.
    pub predicted_within: f64,
    /// Loss that was measured.
    pub measured: Measured,
    /// The least loss at every size, foretold.
    pub curve: Vec<Point>,
    /// Files in one format, measured.
    pub uniform: Vec<Uniform>,
    /// Whether losses are squared errors over variances, of a model that gives values, instead of divergences.
    pub is_relative_error: bool,
    /// Whether every matrix is in the finest format that there is to choose.
    pub is_finest: bool,
    /// Steps that each part was measured on.
    pub part_steps: usize,
    /// Steps that whole files were measured on.
    pub whole_steps: usize,
    /// What was written; nothing if only a plan was asked for.
    pub report: Option<Report>,
}

impl Allocation {
    /// The losses of all matrices and of the stream's memory, in nats per step: what the file would lose if their errors never met.
    pub fn sum_of_parts(&self) -> f64 {
        self.memory_loss + self.parts.iter().map(|part| part.loss).sum::<f64>()
    }
}

/// One format that a unit can take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The format.
    pub format: Format,
    /// Bytes in the file.
    pub bytes: u64,
    /// Loss, in nats per step.
    pub loss: f64,
}

/// Matrices that change their format together, and what they can take.
#[derive(Clone, Debug)]
pub struct Part {
    /// Name of the first tensor.
    pub name: String,
    /// Numbers of the tensors.
    pub tensors: Vec<usize>,
    /// Rows and columns of the first tensor.
    pub shape: (usize, usize),
    /// What could be chosen, from coarse to fine; losses are scaled.
    pub choices: Vec<Choice>,
    /// What was.
    pub chosen: usize,
    /// What it costs alone in the codes that it has in the file, where there was time to measure that; else as foretold. In nats per step.
    pub loss: f64,
}

impl Part {
    /// What was chosen.
    pub fn choice(&self) -> Choice {
        self.choices[self.chosen]
    }
}

/// A whole file's loss.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Mean, in nats per step.
    pub mean: f64,
    /// How far the mean may be from that of an endless stream of this kind, as a share of itself: its standard error over stretches of the stream.
    pub relative_error: f64,
    /// Number of these stretches.
    pub stretches: usize,
    /// Mean at every position of a segment.
    pub by_position: Vec<f64>,
    /// Perplexity of the calibration text and its ratio to the float model's.
    pub perplexity: Option<(f64, f64)>,
}

impl From<Profile> for Measured {
    fn from(profile: Profile) -> Self {
        Measured {
            mean: profile.mean(),
            relative_error: profile.relative_error(),
            stretches: profile.stretches.len(),
            perplexity: profile.perplexity(),
            by_position: profile.by_position,
        }
    }
}

/// A file with every matrix in one format, but for those that must be finer.
#[derive(Clone, Copy, Debug)]
pub struct Uniform {
    /// The format.
    pub format: Format,
    /// Bytes of the file.
    pub bytes: u64,
    /// Measured loss, in nats per step.
    pub loss: f64,
}

/// Refuses what cannot be, before anything is measured for it: a goal without a meaning, a stream that the model does not take, a ledger that is
/// something else, a budget that nothing fits in.
pub fn check(graph: &Graph<'_>, request: &Request<'_>, out: &Path) -> Result<(), Error> {
    request.goal.check(graph, out)?;
    request.calibration.map_or(Ok(()), |calibration| calibration.check(graph, out))?;
    request.ledger.map_or(Ok(()), ledger::expect)?;
    let any = request.recipes.first().ok_or_else(|| Error::invalid(out, "recipes", "are none"))?;
    Sizes::new(graph, any, request.formats, request.goal.limit_bytes(graph), request.goal, out).map(drop)
}

/// Chooses a format for every matrix of `graph`, and writes the file `out` unless only a plan is asked for.
pub fn allocate<'w>(
    graph: &Graph<'_>,
    request: &Request<'_>,
    out: &Path,
    write: &'w mut Write<'w>,
    progress: &'w mut dyn FnMut(FitProgress<'_>),
) -> Result<Allocation, Error> {
    check(graph, request, out)?;
    let any = request.recipes.first().ok_or_else(|| Error::invalid(out, "recipes", "are none"))?;
    let limit_bytes = request.goal.limit_bytes(graph);
    let sizes = Sizes::new(graph, any, request.formats, limit_bytes, request.goal, out)?;

    let float_format = float_format(graph);
    let mut gauge = Gauge::new(graph, request, *any, all_at_least(&sizes.plain, float_format), out, write, progress)?;
    let effort = Effort::new(sizes.units.len(), &sizes.formats, gauge.macs_per_step, gauge.all_steps());

    // What a stream's memory holds.
    let coarsest = effort.anchors.first().copied().unwrap_or(float_format);
    let whole_stream = gauge.whole;
    let memories = memory::best(graph, request, out, |recipe, layout| {
        let (coarse, float) = (all_at_least(&sizes.plain, coarsest), gauge.float.clone());
        let needs = if request.ram.is_some() { [gauge.need(layout, &coarse)?, gauge.need(layout, &float)?] } else { Default::default() };
        let is_float = layout.slots() == gauge.float_layout.slots();
        let name = format!("memory: {}", recipe.memory_name());
        let loss = if is_float { 0.0 } else { gauge.divergence(&name, whole_stream, layout, &float, (&float, float_format), 1)? };
        Ok(memory::Memory { recipe, coarse: needs[0], float: needs[1], loss })
    })?;

    // What each matrix is worth.
    let float_layout = Layout::new(graph, &any.in_float(), out)?;
    let losses = losses::losses(graph, &sizes.units, &sizes.formats, &effort, |band, anchor, to_come| {
        let mut formats = gauge.float.clone();
        band.iter().for_each(|&unit| sizes.units[unit].set(&mut formats, &sizes.plain, anchor));
        let first = &graph.tensors[sizes.units[band[0]].tensors[0]].name;
        let more = if band.len() > 1 { format!(" and {} like it", band.len() - 1) } else { String::new() };
        let what = format!("{} {first}{more}", anchor.name());
        let to_come = to_come + effort.anchors.len();
        gauge.divergence(&what, (effort.segments, effort.steps), &float_layout, &formats, (&sizes.plain, anchor), to_come)
    })?;
    let choices_beside = |memory: memory::Memory| {
        let mut choices = sizes.choices(&losses);
        // Inputs of matrices in float take more scratch.
        if !memory::fits(request, memory.float) {
            choices.iter_mut().for_each(|choices| choices.retain(|choice| choice.format.is_quantized()));
        }
        (memory, choices)
    };
    // A coarser memory may leave room for matrices that gain more than it loses.
    let foretold = |(memory, choices): &(memory::Memory, Vec<Vec<Choice>>)| {
        let chosen = sizes.choose(choices, limit_bytes.unwrap_or(u64::MAX));
        chosen.map_or(f64::INFINITY, |chosen| memory.loss + choices.iter().zip(chosen).map(|(of, i)| of[i].loss).sum::<f64>())
    };
    let best = memories.into_iter().map(choices_beside).min_by(|a, b| foretold(a).total_cmp(&foretold(b)));
    let (memory, mut choices) = best.ok_or_else(|| Error::invalid(out, "recipes", "are none"))?;
    let layout = Layout::new(graph, &memory.recipe, out)?;

    let activations_loss = gauge.activations(&sizes.plain)?;

    // Whole files, and what the sums of their parts miss.
    let mut uniform = Vec::new();
    let mut off = Vec::new();
    for &format in &effort.anchors {
        let formats = all_at_least(&sizes.plain, format);
        let what = format!("all {}; {}", format.name(), memory.recipe.memory_name());
        let loss = gauge.divergence(&what, whole_stream, &layout, &formats, (&sizes.plain, format), 1)?;
        let bytes = sizes.file_bytes(&formats);
        let sum = memory.loss + sizes.losses_of(&choices, &formats).iter().sum::<f64>();
        uniform.push(Uniform { format, bytes, loss });
        off.push((bytes, loss / sum));
    }
    let aim = limit_bytes.unwrap_or(sizes.fixed_bytes);
    let scale = forecast::correction(&off, aim);
    let of_activations = forecast::of_activations(&choices, activations_loss);
    choices.iter_mut().flatten().for_each(|choice| choice.loss *= scale);
    let fixed = Point { bytes: sizes.fixed_bytes, loss: memory.loss };
    let curve = hull::curve(&choices, fixed);

    // The choice, and what it is like as a whole.
    let at_most = |bytes: u64| sizes.choose(&choices, bytes).ok_or_else(|| sizes.impossible(bytes, request.goal, out));
    let chosen = if let Goal::PerplexityRatio(ratio) = request.goal {
        let found = search::smallest(&curve, ratio.ln(), |point| {
            let formats = sizes.formats_of(&choices, &at_most(point.bytes)?);
            let (profile, _) = gauge.profile(&memory.recipe, &layout, &formats)?;
            // A stream of one token foretells none.
            profile.perplexity().map(|(_, ratio)| ratio.ln()).ok_or_else(|| request.goal.unmeasured(out))
        })?;
        at_most(found.ok_or_else(|| request.goal.out_of_reach(out))?.bytes)?
    } else {
        at_most(limit_bytes.unwrap_or(u64::MAX))?
    };
    let formats = sizes.formats_of(&choices, &chosen);
    let file_bytes = sizes.file_bytes(&formats);
    let mut parts = sizes.parts(choices, &chosen);
    // A plan is measured by nearest rounding.
    let (report, profile, need) = if request.plan_only {
        let (profile, need) = gauge.profile(&memory.recipe, &layout, &formats)?;
        (None, profile, need)
    } else {
        let (report, profile, need) = gauge.finish(&memory.recipe, &formats)?;
        (Some(report), profile, need)
    };
    let by_method = report.as_ref().filter(|_| request.method != Method::Nearest);
    // What a method makes better; it leaves 8 bits and floats as they are.
    let better = |part: &Part| takes_metric(part.choice().format);
    if let Some(report) = by_method {
        for (part, of_activations) in parts.iter_mut().zip(of_activations).filter(|(part, _)| better(part)) {
            let left = part.tensors.iter().map(|&t| f64::from(report.tensors[t].left)).sum::<f64>() / part.tensors.len() as f64;
            // Errors that a method made small add up: what was corrected for those of nearest rounding does not concern them.
            part.loss = of_activations + (part.loss / scale - of_activations).max(0.0) * left;
        }
    }
    let mut predicted = fixed.loss + parts.iter().map(|part| part.loss).sum::<f64>();
    let measured = Measured::from(profile);
    let (part_steps, whole_steps) = (gauge.steps_of((effort.segments, effort.steps)), gauge.steps_of(whole_stream));
    let mut predicted_within = forecast::within(&measured, By::Losses, part_steps, whole_steps);
    // Where the stream is too short for a sum of losses, what each matrix changes in the answers says more, if there is time for that.
    if predicted_within > GOOD_FORECAST
        && let Some(stream) = effort::stream_for_own(sizes.units.len(), gauge.macs_per_step, whole_stream)
    {
        let own = gauge.own(report.as_ref().map(|_| out), &layout, &formats, &sizes.units, stream)?;
        predicted = own.together;
        predicted_within = forecast::within(&measured, By::Changes, gauge.steps_of(stream), whole_steps);
        parts.iter_mut().zip(own.losses).for_each(|(part, loss)| part.loss = loss);
    }
    let sum = |loss: &dyn Fn(&Part) -> f64| parts.iter().filter(|part| better(part)).map(loss).sum::<f64>();
    let nearest_loss = sum(&|part| part.choice().loss);
    let method_share = if by_method.is_some() && nearest_loss > 0.0 { sum(&|part| part.loss) / nearest_loss } else { 1.0 };
    Ok(Allocation {
        goal: request.goal,
        limit_bytes,
        parameters: parameters(graph),
        recipe: memory.recipe,
        file_bytes,
        formats,
        ram_bytes: need.total_bytes(),
        is_finest: parts.iter().all(|part| part.chosen + 1 == part.choices.len()),
        parts,
        memory_loss: fixed.loss,
        activations_loss,
        scale,
        method_share,
        predicted,
        predicted_within,
        measured,
        curve,
        uniform,
        is_relative_error: matches!(graph.output, Output::Values { .. }),
        part_steps,
        whole_steps,
        report,
    })
}
