//! `brooklet quantize --method`: what the model runs on to choose its codes, and how far that is.

use crate::fit::{self, plainly};
use anyhow::{Context, Result, bail};
use brooklet_quantize::calibrate::{CalibrateProgress, Options, suitable_steps, write_calibrated};
use brooklet_quantize::fit::Calibration;
use brooklet_quantize::graph::Graph;
use brooklet_quantize::methods::Method;
use brooklet_quantize::{Recipe, Report};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// Where the stream comes from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'s> {
    /// A text or a recording; without one, what suits the model.
    pub(crate) file: Option<&'s Path>,
    /// Column of a recording with each sample's time.
    pub(crate) time_column: Option<&'s str>,
}

/// How codes are chosen.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) method: Method,
    /// Most steps of the stream that the method runs the model on; without it, as many as suit the model.
    pub(crate) steps: Option<usize>,
}

/// The stream from a source, without a word about it.
pub(crate) fn read(graph: &Graph<'_>, source: Source<'_>) -> Result<Option<Calibration>> {
    fit::read(graph, source.file, source.time_column)
}

impl How {
    /// The stream that the method runs on; a method that needs one is refused without, and told what it has if the user gave none.
    pub(crate) fn stream(self, graph: &Graph<'_>, source: Source<'_>) -> Result<Option<Calibration>> {
        let calibration = read(graph, source)?;
        if self.method == Method::Nearest || source.file.is_some() {
            return Ok(calibration);
        }
        let name = self.method.name();
        let Some(Calibration::Tokens(tokens)) = &calibration else {
            bail!("--method {name}: needs a sample of what the model will meet, give one with --calibration; --method nearest needs none");
        };
        let few = tokens.len();
        eprintln!("note: --method {name} runs on a built-in page of English, {few} tokens; give a longer sample with --calibration");
        Ok(calibration)
    }

    /// The options for this model and stream.
    pub(crate) fn options<'c>(self, graph: &Graph<'_>, calibration: &'c Calibration, resume: bool) -> Options<'c> {
        Options { method: self.method, calibration, steps: self.steps.unwrap_or_else(|| suitable_steps(graph)), resume }
    }
}

/// Makes the file `out` with codes chosen by a method that runs the model.
pub(crate) fn run(graph: &Graph<'_>, recipe: &Recipe, source: Source<'_>, how: How, resume: bool, out: &Path) -> Result<Report> {
    let calibration = how.stream(graph, source)?.context("no stream")?;
    let bar = ProgressBar::new(0);
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let (layers, bytes) =
        (style("{bar:32} {pos}/{len} parts of the model, {eta} left  {msg}"), style("{bar:32} {bytes}/{total_bytes}  {msg}"));
    let options = how.options(graph, &calibration, resume);
    let written = write_calibrated(graph, recipe, &recipe.formats(graph), options, out, &mut |progress| {
        let (style, done, total, message) = match progress {
            CalibrateProgress::Walking(p) => (&layers, p.done as u64, p.total as u64, p.what),
            CalibrateProgress::Writing(p) => (&bytes, p.done_bytes, p.total_bytes, p.tensor),
        };
        bar.set_style(style.clone());
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(message.to_owned());
    });
    bar.finish_and_clear();
    let (report, failed) = written.map_err(plainly)?;
    if let Some(error) = failed {
        eprintln!("the model could not be run to its end ({error}); matrices behind that are rounded to the nearest");
    }
    Ok(report)
}
