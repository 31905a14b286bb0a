//! Perplexity of a text, and how far a model's predictions are from another's.
//!
//! The text is tokenized whole and cut into windows; each starts from an empty state, and only its second half is scored.

use crate::device::Target;
use crate::model_file::{Memory, ModelFile, chosen_kernels};
use crate::reader::Reader;
use anyhow::{Context, Result, anyhow, bail};
use brooklet::Model;
use brooklet_text::TextCodec;
use indicatif::ProgressBar;
use rayon::prelude::*;
use std::io::{self, Write};
use std::path::Path;

/// Tokens handled at once; both models' outputs for this many are held.
pub(super) const BATCH: usize = 64;

/// Sums over scored tokens, in nats.
#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: u64,
    surprise: f64,
    other_surprise: f64,
    /// Divergence of the other model's predictions from this one's.
    kl: f64,
}

impl Sums {
    fn plus(self, other: &Sums) -> Sums {
        Sums {
            tokens: self.tokens + other.tokens,
            surprise: self.surprise + other.surprise,
            other_surprise: self.other_surprise + other.other_surprise,
            kl: self.kl + other.kl,
        }
    }
}

/// The sums over all windows, one after the other on a GPU.
#[cfg(feature = "cuda")]
fn on_gpu<'t>(
    (device, arithmetic): (&brooklet_cuda::Device, brooklet_cuda::Arithmetic),
    model: &Model<'_>,
    other: Option<&Model<'_>>,
    windows: impl Iterator<Item = &'t [u32]>,
    bar: &ProgressBar,
) -> Result<Sums> {
    use brooklet_cuda::{CudaModel, CudaSession, Options};
    let own = CudaModel::with(device, model, arithmetic)?;
    let mut own = CudaSession::new(&own, Options::default())?;
    let other = other.map(|other| CudaModel::with(device, other, arithmetic)).transpose()?;
    let mut other = other.as_ref().map(|other| CudaSession::new(other, Options::default())).transpose()?;
    let mut total = Sums::default();
    for window in windows {
        own.reset()?;
        let sums = match &mut other {
            Some(other) => {
                other.reset()?;
                score_both(&mut own, other, model.outputs(), window)?
            }
            None => score(&mut own, window)?,
        };
        total = total.plus(&sums);
        bar.inc(1);
    }
    Ok(total)
}

pub(super) fn run(
    model: &Path,
    text: &Path,
    window: usize,
    windows: usize,
    against: Option<&Path>,
    target: Target,
    json: bool,
) -> Result<()> {
    let kernels = chosen_kernels()?;
    let file = ModelFile::open(model)?;
    let model = file.model()?;
    let other_file = against.map(ModelFile::open).transpose()?;
    let other = other_file.as_ref().map(ModelFile::model).transpose()?;
    let (_, tokens) = tokens_of(&model, &file.name(), other.as_ref(), text)?;
    let count = (tokens.len() / window).min(windows);
    if count == 0 {
        bail!("{}: {} tokens do not fill one window of {window}; choose a smaller --window or a longer text", text.display(), tokens.len());
    }
    let bar = ProgressBar::new(count as u64);
    #[cfg(feature = "cuda")]
    if let Some(device) = crate::device::gpu(target) {
        let total = on_gpu((&device, target.arithmetic()), &model, other.as_ref(), tokens.chunks_exact(window).take(count), &bar)
            .with_context(|| file.name())?;
        bar.finish_and_clear();
        return print(&total, count, window, other.is_some(), json);
    }
    #[cfg(not(feature = "cuda"))]
    crate::device::told_without_gpu(target);
    let all: Vec<Sums> = tokens
        .par_chunks_exact(window)
        .take(count)
        .map_init(
            || Ok::<_, anyhow::Error>((Memory::new(&model, BATCH)?, other.as_ref().map(|o| Memory::new(o, BATCH)).transpose()?)),
            |memory, window| {
                let (own, others) = memory.as_mut().map_err(|e| anyhow!("{e:#}"))?;
                let sums = match other.as_ref().zip(others.as_mut()) {
                    Some((other, others)) => own.with_session(&model, kernels, |own| {
                        others.with_session(other, kernels, |other| score_both(own, other, model.outputs(), window))
                    }),
                    None => own.with_session(&model, kernels, |session| score(session, window)),
                };
                bar.inc(1);
                sums
            },
        )
        .collect::<Result<_>>()
        .with_context(|| file.name())?;
    bar.finish_and_clear();
    // In the windows' order: the result does not depend on the threads.
    let total = all.iter().fold(Sums::default(), Sums::plus);
    print(&total, count, window, other.is_some(), json)
}

/// The codec of `model`, whose file is `name`, and the tokens of a text, which must be those of `other` as well.
pub(super) fn tokens_of(model: &Model<'_>, name: &str, other: Option<&Model<'_>>, text: &Path) -> Result<(TextCodec, Vec<u32>)> {
    let codec = TextCodec::of(model, name)?;
    if let Some(other) = other
        && other.outputs() != model.outputs()
    {
        bail!(
            "the models have vocabularies of {} and {}; only models of the same vocabulary can be compared",
            model.outputs(),
            other.outputs()
        );
    }
    let bytes = std::fs::read(text).with_context(|| format!("{}: cannot be read", text.display()))?;
    let tokens = codec.encode(&bytes, false).with_context(|| text.display().to_string())?;
    Ok((codec, tokens))
}

fn print(total: &Sums, windows: usize, window: usize, has_other: bool, json: bool) -> Result<()> {
    let scored = total.tokens as f64;
    let (perplexity, other) = ((total.surprise / scored).exp(), (total.other_surprise / scored).exp());
    let mut out = io::stdout().lock();
    if json {
        let mut report =
            serde_json::json!({ "perplexity": perplexity, "scored_tokens": total.tokens, "windows": windows, "window": window });
        if has_other {
            report["against"] = serde_json::json!({ "perplexity": other, "ratio": perplexity / other, "mean_kl_nats": total.kl / scored });
        }
        writeln!(out, "{report:#}")?;
        return Ok(());
    }
    writeln!(out, "perplexity {perplexity:.4}   {} tokens scored, the second halves of {windows} windows of {window}", total.tokens)?;
    if has_other {
        writeln!(out, "against    {other:.4}   ratio {:.5}   mean KL {:.6} nats", perplexity / other, total.kl / scored)?;
    }
    Ok(())
}

/// The tokens that are only read, and from each of the others the next is to be guessed: (read, (from, to guess)).
fn halves(window: &[u32]) -> (&[u32], (&[u32], &[u32])) {
    let first = window.len() / 2;
    (&window[..first - 1], (&window[first - 1..window.len() - 1], &window[first..]))
}

/// Scores a window from an empty stream on.
fn score(session: &mut impl Reader, window: &[u32]) -> Result<Sums> {
    let (read, (from, guess)) = halves(window);
    let mut sums = Sums { tokens: guess.len() as u64, ..Sums::default() };
    if !read.is_empty() {
        session.read(read)?;
    }
    session.read_each(from, &mut |i, logits| sums.surprise -= log_probability(logits, guess[i]))?;
    Ok(sums)
}

/// Scores a window with two models of `width` outputs, each from an empty stream on.
fn score_both(own: &mut impl Reader, other: &mut impl Reader, width: usize, window: &[u32]) -> Result<Sums> {
    let (read, (from, guess)) = halves(window);
    let mut sums = Sums { tokens: guess.len() as u64, ..Sums::default() };
    let mut held: Vec<f32> = Vec::new();
    if !read.is_empty() {
        own.read(read)?;
        other.read(read)?;
    }
    for (from, guess) in from.chunks(BATCH).zip(guess.chunks(BATCH)) {
        held.clear();
        other.read_each(from, &mut |_, logits| held.extend_from_slice(logits))?;
        own.read_each(from, &mut |i, logits| {
            let theirs = &held[i * width..(i + 1) * width];
            sums.surprise -= log_probability(logits, guess[i]);
            sums.other_surprise -= log_probability(theirs, guess[i]);
            sums.kl += divergence(theirs, logits);
        })?;
    }
    Ok(sums)
}

/// Logarithm of the sum of exponentials.
fn log_total(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    logits.get(token as usize).map_or(f64::NEG_INFINITY, |&x| f64::from(x) - log_total(logits))
}

/// Kullback-Leibler divergence of the predictions `q` from the predictions `p`, in nats.
pub(super) fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_total, q_total) = (log_total(p), log_total(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - p_total, f64::from(q) - q_total);
        p.exp() * (p - q)
    };
    p.iter().zip(q).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::{divergence, halves, log_probability};

    #[test]
    fn the_second_half_is_guessed() {
        let window: Vec<u32> = (0..8).collect();
        assert_eq!(halves(&window), (&[0, 1, 2][..], (&[3, 4, 5, 6][..], &[4, 5, 6, 7][..])));
        assert_eq!(halves(&[5, 6]), (&[][..], (&[5][..], &[6][..])));
    }

    #[test]
    fn logarithms_and_divergence_are_those_of_the_definition() {
        let (p, q) = ([0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()], [1.0f32, 1.0, 1.0]);
        assert!((log_probability(&p, 1) - 0.25f64.ln()).abs() < 1e-6);
        let expected = 0.5 * (0.5f64 * 3.0).ln() + 0.5 * (0.25f64 * 3.0).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.0);
        assert_eq!(log_probability(&p, 9), f64::NEG_INFINITY);
    }
}
