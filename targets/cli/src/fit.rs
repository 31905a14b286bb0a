//! `brooklet quantize --max-kl`: what the fit measures on, its progress, and what it found.

use crate::frames::{Frames, Wanted};
use anyhow::{Context, Result, anyhow, bail};
use brooklet::ops::Op;
use brooklet_quantize::Recipe;
use brooklet_quantize::fit::{Calibration, ENGLISH, FitProgress, Fitted, quantize_within};
use brooklet_quantize::graph::{Graph, Input};
use brooklet_text::TextCodec;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::Path;

/// Matrices that are named one by one; `--verbose` names all.
const MOST_NAMED: usize = 12;

/// Makes the file `out` within `max_kl` of the float model; measures on the file `calibration`, whose sample times `time_column` may
/// name, or on what suits the model.
pub(crate) fn run(
    graph: &Graph<'_>,
    recipe: &Recipe,
    max_kl: f64,
    calibration: Option<&Path>,
    time_column: Option<&str>,
    out: &Path,
) -> Result<Fitted> {
    let calibration = read(graph, calibration, time_column)?;
    show(|progress| quantize_within(graph, recipe, max_kl, calibration.as_ref(), out, progress)).map_err(plainly)
}

/// Shows how far `work` is.
pub(crate) fn show<T>(work: impl FnOnce(&mut dyn FnMut(FitProgress<'_>)) -> T) -> T {
    let bar = ProgressBar::new(0);
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let (bytes, counts) = (style("{bar:32} {bytes}/{total_bytes}  {msg}"), style("{bar:32} {pos}/{len}  measuring {msg}"));
    let done = work(&mut |progress| {
        let (style, done, total, message) = match progress {
            FitProgress::Writing(p) => (&bytes, p.done_bytes, p.total_bytes, p.tensor),
            FitProgress::Measuring { what, done, total } => (&counts, done as u64, total as u64, what),
        };
        bar.set_style(style.clone());
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(message.to_owned());
    });
    bar.finish_and_clear();
    done
}

/// The stream in `path`: a text or a recording. Without one, English for models that carry a tokenizer, else nothing.
pub(crate) fn read(graph: &Graph<'_>, path: Option<&Path>, time_column: Option<&str>) -> Result<Option<Calibration>> {
    match (&graph.input, path) {
        (Input::Tokens { vocab, bos, eos }, _) => {
            let codec = |name: &str| TextCodec::new(graph.tokenizer.as_deref(), *vocab, *bos, *eos, name);
            let tokens = match path {
                Some(path) => {
                    let text = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
                    let tokens = codec(&graph.card.name)?.encode(&text, false).with_context(|| path.display().to_string())?;
                    if tokens.is_empty() {
                        bail!("{}: holds no text to calibrate on; give a sample of what the model will meet", path.display());
                    }
                    tokens
                }
                None if graph.tokenizer.is_some() => codec(&graph.card.name)?
                    .encode(ENGLISH.as_bytes(), false)
                    .context("the built-in text does not suit this model; give one with --calibration")?,
                None => return Ok(None),
            };
            Ok(Some(Calibration::Tokens(tokens)))
        }
        (Input::Frames { channels, rate_hz, .. }, Some(path)) => {
            let takes_missing = graph.ops.iter().any(|op| matches!(op, Op::Missing(_)));
            let wanted = Wanted { channels: &channels.join("\n"), time_column, takes_missing };
            let (samples, seconds) = Frames::open(path, wanted)?.read_all(1.0 / rate_hz)?;
            if seconds.is_empty() {
                bail!("{}: holds no samples to calibrate on; give a recording of what the model will meet", path.display());
            }
            Ok(Some(Calibration::Frames { samples, seconds: time_column.map(|_| seconds) }))
        }
        (Input::Frames { .. }, None) => Ok(None),
    }
}

/// What the bound cost, and for which matrices.
pub(crate) fn print(out: &mut dyn Write, fitted: &Fitted, verbose: bool) -> Result<()> {
    let Fitted { max_kl, steps, plain_kl, kl, finer, rounded, .. } = fitted;
    writeln!(out, "mean KL from the float model, over {steps} steps: {kl:.2e} nats per step, bound {max_kl:.2e}")?;
    if finer.is_empty() {
        writeln!(out, "  no matrix had to be kept finer")?;
    } else {
        let extra = fitted.report.file_bytes.saturating_sub(fitted.plain_bytes);
        let share = 100.0 * extra as f64 / fitted.plain_bytes.max(1) as f64;
        let count = finer.len();
        writeln!(out, "  without finer matrices {plain_kl:.2e}; {count} of {rounded} kept finer for {extra} bytes more (+{share:.1} %)")?;
        let named = if verbose { count } else { count.min(MOST_NAMED) };
        for f in finer.iter().take(named) {
            let name = fitted.report.tensors.get(f.tensor).map_or("", |t| t.name.as_str());
            writeln!(out, "  {:>3} -> {:<3}  {name}", f.from.name(), f.to.name())?;
        }
        if count > named {
            writeln!(out, "  and {} more; --verbose names them all", count - named)?;
        }
    }
    Ok(writeln!(out)?)
}

/// The same for a report.
pub(crate) fn json(fitted: &Fitted) -> serde_json::Value {
    let name = |tensor: usize| fitted.report.tensors.get(tensor).map(|t| t.name.as_str());
    let finer = fitted.finer.iter().map(|f| serde_json::json!({ "name": name(f.tensor), "from": f.from.name(), "to": f.to.name() }));
    serde_json::json!({
        "max_kl_nats": fitted.max_kl, "mean_kl_nats": fitted.kl, "plain_mean_kl_nats": fitted.plain_kl, "steps": fitted.steps,
        "plain_file_bytes": fitted.plain_bytes, "kept_finer": finer.collect::<Vec<_>>(),
    })
}

/// The quantizer's messages already name file, thing and remedy.
pub(crate) fn plainly(error: brooklet_quantize::Error) -> anyhow::Error {
    anyhow!("{error}")
}
