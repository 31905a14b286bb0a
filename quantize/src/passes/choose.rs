//! Which passes pay for a checkpoint: each is tried on top of those that did, and kept if the file's answers come nearer to the
//! float model's by more than it costs.

use super::{Done, Passes};
use crate::error::Error;
use crate::fit::{Calibration, Trials};
use crate::graph::{Graph, Output};
use crate::lower::Report;
use crate::recipe::Recipe;
use std::path::Path;

/// A fold saves the device work: it may lose so much.
const FOLD_MAY_LOSE: f64 = 0.01;
/// Smoothing costs nothing, or a gain that a fold took away; a rotation nothing, or two transforms at the end. What brings less than this is not told from chance.
const FREE_MUST_BRING: f64 = 0.03;
/// A transform in front of every second matrix costs time at every step.
const HADAMARD_MUST_BRING: f64 = 0.05;

/// What is tried on top of what was kept, and the share of the divergence that it must take away.
const ADDITIONS: [(fn(&mut Passes), f64); 5] = [
    (|_| {}, 0.0),
    (|passes| passes.fold = true, -FOLD_MAY_LOSE),
    (|passes| passes.smooth = true, FREE_MUST_BRING),
    // A rotation needs the fold, whether that paid alone or not.
    (|passes| (passes.fold, passes.rotate) = (true, true), FREE_MUST_BRING),
    (|passes| passes.hadamard = true, HADAMARD_MUST_BRING),
];

/// What was tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The passes.
    pub passes: Passes,
    /// What they found to do.
    pub done: Done,
    /// Divergence of the file from the float model, in nats per step.
    pub kl: f64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether the pass that this trial added was kept.
    pub kept: bool,
}

/// Passes that pay, and how that was found.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Those to use.
    pub passes: Passes,
    /// Everything tried, in order; the first is the graph as it is.
    pub trials: Vec<Trial>,
    /// Steps that were measured.
    pub steps: usize,
}

/// Tries the passes `among` on the graph that `build` makes, measured on `calibration` or reproducible noise. `write` makes a file by `recipe`, as
/// the final one will be made; files lie beside `out` meanwhile.
pub fn choose<'a>(
    build: &dyn Fn() -> Result<Graph<'a>, Error>,
    among: Passes,
    recipe: &Recipe,
    calibration: Option<&Calibration>,
    out: &Path,
    write: &mut dyn FnMut(Passes, &Graph<'_>, &Path) -> Result<Report, Error>,
) -> Result<Choice, Error> {
    let plain = build()?;
    if let Output::Values { .. } = plain.output {
        let problem = "auto compares probabilities, and the model gives measured values; name the passes, or leave the option out";
        return Err(Error::invalid(out, "option --passes", problem));
    }
    Trials::with(&plain, recipe, calibration, out, |trials| {
        let mut choice = Choice { passes: Passes::NONE, trials: Vec::new(), steps: trials.steps() };
        let mut best = f64::INFINITY;
        for (add, must_bring) in ADDITIONS {
            let mut passes = choice.passes;
            add(&mut passes);
            if !passes.are_within(among) {
                continue;
            }
            let mut graph = build()?;
            let done = passes.apply(&mut graph, calibration)?;
            // A pass that finds nothing to do makes the file that was measured last.
            if choice.trials.iter().any(|trial| trial.done == done) {
                continue;
            }
            let (kl, bytes) = trials.measure(out, |path| write(passes, &graph, path))?;
            let kept = kl <= best * (1.0 - must_bring);
            choice.trials.push(Trial { passes, done, kl, bytes, kept });
            if kept {
                (choice.passes, best) = (passes, kl);
            }
        }
        Ok(choice)
    })
}
