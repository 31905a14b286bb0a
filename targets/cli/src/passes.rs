//! `brooklet quantize --passes`: which changes are made before rounding, and why.

use crate::calibrate::{How, Source};
use crate::fit::plainly;
use anyhow::Result;
use brooklet_quantize::calibrate::write_calibrated;
use brooklet_quantize::methods::Method;
use brooklet_quantize::passes::{self, Choice, Passes};
use brooklet_quantize::{Checkpoint, Recipe, families, lower};
use indicatif::ProgressBar;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// Those of these that pay.
    Among(Passes),
    /// These.
    These(Passes),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Wanted::Among(Passes::ALL)) } else { text.parse().map(Wanted::These) }
    }
}

/// The passes to run; `auto` makes files as the final one will be made, and measures on the same stream, or on what suits the model.
pub(crate) fn choose(wanted: Wanted, checkpoint: &Checkpoint, recipe: &Recipe, source: Source<'_>, how: How, out: &Path) -> Result<Choice> {
    let among = match wanted {
        Wanted::These(passes) => return Ok(Choice { passes, trials: Vec::new(), steps: 0 }),
        Wanted::Among(passes) => passes,
    };
    let build = || families::build(checkpoint);
    let calibration = how.stream(&build().map_err(plainly)?, source)?;
    let bar = ProgressBar::new_spinner();
    let choice = passes::choose(&build, among, recipe, calibration.as_ref(), out, &mut |passes, graph, path| {
        bar.set_message(format!("trying passes: {passes}"));
        bar.tick();
        match calibration.as_ref().filter(|_| how.method != Method::Nearest) {
            Some(calibration) => {
                let options = how.options(graph, calibration, false);
                Ok(write_calibrated(graph, recipe, &recipe.formats(graph), options, path, &mut |_| bar.tick())?.0)
            }
            None => lower::write_graph(graph, recipe, path, &mut |_| bar.tick()),
        }
    });
    bar.finish_and_clear();
    choice.map_err(plainly)
}

/// What was tried and kept; nothing if nothing was tried.
pub(crate) fn print(out: &mut dyn Write, choice: &Choice) -> Result<()> {
    if choice.trials.is_empty() {
        return Ok(());
    }
    writeln!(out, "{:<22} {:>12} {:>12}   over {} steps", "passes tried", "mean KL", "bytes", choice.steps)?;
    for trial in &choice.trials {
        let kept = if trial.kept { "kept" } else { "brings too little" };
        writeln!(out, "{:<22} {:>12.3e} {:>12}   {kept}", trial.passes.to_string(), trial.kl, trial.bytes)?;
    }
    Ok(writeln!(out)?)
}

/// The same for a report.
pub(crate) fn json(choice: &Choice) -> serde_json::Value {
    let trials = choice.trials.iter().map(|trial| {
        let done = trial.done;
        serde_json::json!({
            "passes": trial.passes.to_string(), "mean_kl_nats": trial.kl, "file_bytes": trial.bytes, "kept": trial.kept,
            "norms_folded": done.folded, "values_rotated": done.rotated, "norms_bridged": done.bridged,
            "places_smoothed": done.smoothed, "matrices_transformed": done.transformed,
        })
    });
    serde_json::json!({ "used": choice.passes.to_string(), "trials": trials.collect::<Vec<_>>(), "steps": choice.steps })
}
