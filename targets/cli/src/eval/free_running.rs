//! How far a model drifts from another while it writes by itself.
//!
//! The model goes on from the first tokens of a text and reads its own choices; the other model reads the same tokens. Whatever the first
//! one keeps less exactly from step to step (states, caches) would show as a divergence that grows with the position.

use super::perplexity::{BATCH, divergence, tokens_of};
use crate::model_file::{Memory, ModelFile, chosen_kernels};
use crate::sampler::{Sampler, Sampling};
use crate::term;
use anyhow::{Context, Result, anyhow, bail};
use brooklet::Model;
use brooklet::kernels::KernelTable;
use indicatif::ProgressBar;
use rayon::prelude::*;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// Parts that the written tokens are reported in.
const BLOCKS: usize = 20;

/// How much to write.
pub(super) struct Work {
    /// Tokens to write.
    pub(super) tokens: usize,
    /// Tokens of the text that each stream begins with.
    pub(super) prompt: usize,
    /// Streams, each of which begins where the prompt of the one before ended.
    pub(super) streams: usize,
    /// Of the first stream's choices; the others count up.
    pub(super) seed: u64,
}

/// What was found.
#[derive(Serialize)]
struct Report {
    streams: usize,
    prompt_tokens: usize,
    /// Of each stream.
    written_tokens: usize,
    seed: u64,
    mean_kl_nats: f64,
    /// Mean of the second half of the positions over that of the first.
    second_half_over_first: f64,
    blocks: Vec<Block>,
}

/// Some positions of every stream.
#[derive(Serialize)]
struct Block {
    from: usize,
    to: usize,
    mean_kl_nats: f64,
    /// Of that mean, as if every token were on its own.
    standard_error: f64,
}

pub(super) fn run(model: &Path, text: &Path, against: &Path, work: &Work, json: bool) -> Result<()> {
    let kernels = chosen_kernels()?;
    let (file, other_file) = (ModelFile::open(model)?, ModelFile::open(against)?);
    let (model, other) = (file.model()?, other_file.model()?);
    let (codec, tokens) = tokens_of(&model, &file.name(), Some(&other), text)?;
    if tokens.len() < work.prompt * work.streams {
        bail!(
            "{}: {} tokens do not begin {} streams with {} each; choose a smaller --window or fewer --windows",
            text.display(),
            tokens.len(),
            work.streams,
            work.prompt
        );
    }
    let bar = ProgressBar::new((work.tokens * work.streams) as u64);
    let starts: Vec<(u64, &[u32])> = (work.seed..).zip(tokens.chunks_exact(work.prompt)).take(work.streams).collect();
    let streams: Vec<Vec<f64>> = starts
        .into_par_iter()
        .map(|(seed, prompt)| {
            let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, repeat_penalty: 1.0, seed };
            let writer = Writer { model: &model, other: &other, kernels, known: codec.known, sampling };
            writer.divergences(prompt, work.tokens, &mut |tokens| bar.inc(tokens as u64))
        })
        .collect::<Result<_>>()
        .with_context(|| file.name())?;
    bar.finish_and_clear();
    Report::of(&streams, work).tell(json)
}

/// A model that writes, and one that reads along.
struct Writer<'w, 'm> {
    model: &'w Model<'m>,
    other: &'w Model<'m>,
    kernels: &'static KernelTable,
    known: usize,
    sampling: Sampling,
}

impl Writer<'_, '_> {
    /// Writes `count` tokens behind `prompt`; returns the divergence of the prediction of each.
    fn divergences(&self, prompt: &[u32], count: usize, done: &mut dyn FnMut(usize)) -> Result<Vec<f64>> {
        let width = self.model.outputs();
        let (&last, before) = prompt.split_last().ok_or_else(|| anyhow!("there is nothing to go on from"))?;
        let (mut own, mut others) = (Memory::new(self.model, BATCH)?, Memory::new(self.other, BATCH)?);
        let mut sampler = Sampler::new(self.sampling);
        let mut found = Vec::with_capacity(count);
        own.with_session(self.model, self.kernels, |own| {
            others.with_session(self.other, self.kernels, |other| {
                if !before.is_empty() {
                    own.prefill_tokens(before)?;
                    other.prefill_tokens(before)?;
                }
                // What the next predictions are made from, and those of the model that writes, (tokens, width).
                let (mut from, mut held) = (vec![last], Vec::new());
                while found.len() < count {
                    held.clear();
                    let some = BATCH.min(count - found.len());
                    let mut next = last;
                    for i in 0..some {
                        let logits = own.prefill_tokens(&from[i..=i])?;
                        held.extend_from_slice(logits);
                        next = sampler.choose(logits, self.known);
                        from.push(next);
                    }
                    other.prefill_tokens_each(&from[..some], &mut |i, theirs| {
                        found.push(divergence(theirs, &held[i * width..(i + 1) * width]));
                    })?;
                    from = vec![next];
                    done(some);
                }
                Ok(())
            })
        })?;
        Ok(found)
    }
}

impl Report {
    fn of(streams: &[Vec<f64>], work: &Work) -> Self {
        let over = |from: usize, to: usize| {
            let all: Vec<f64> = streams.iter().flat_map(|stream| &stream[from..to]).copied().collect();
            let count = all.len() as f64;
            let mean = all.iter().sum::<f64>() / count;
            let variance = all.iter().map(|kl| (kl - mean) * (kl - mean)).sum::<f64>() / (count - 1.0).max(1.0);
            Block { from, to, mean_kl_nats: mean, standard_error: (variance / count).sqrt() }
        };
        let count = work.tokens;
        let blocks = BLOCKS.min(count);
        let half = (count / 2).max(1);
        Report {
            streams: streams.len(),
            prompt_tokens: work.prompt,
            written_tokens: count,
            seed: work.seed,
            mean_kl_nats: over(0, count).mean_kl_nats,
            second_half_over_first: over(count - half, count).mean_kl_nats / over(0, half).mean_kl_nats,
            blocks: (0..blocks).map(|i| over(i * count / blocks, (i + 1) * count / blocks)).collect(),
        }
    }

    fn tell(&self, json: bool) -> Result<()> {
        let mut out = io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        let decorated = term::is_decorated();
        let most = self.blocks.iter().map(|block| block.mean_kl_nats).fold(0.0, f64::max);
        writeln!(out, "{} streams, {} tokens each behind {} of the text", self.streams, self.written_tokens, self.prompt_tokens)?;
        writeln!(out, "{:>16} {:>12} {:>12}", "positions", "mean KL", "+-")?;
        for block in &self.blocks {
            let (share, positions) = ((block.mean_kl_nats / most) as f32, format!("{}..{}", block.from, block.to));
            let bar = term::bar(share, 30, decorated);
            writeln!(out, "{positions:>16} {:>12.6} {:>12.6}  {}", block.mean_kl_nats, block.standard_error, bar.trim_end())?;
        }
        writeln!(out, "mean KL {:.6} nats; second half over first {:.3}", self.mean_kl_nats, self.second_half_over_first)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Work};

    #[test]
    fn blocks_hold_every_position_once() {
        let streams: Vec<Vec<f64>> = (0..2).map(|s| (0..50).map(|i| f64::from(i + s)).collect()).collect();
        let report = Report::of(&streams, &Work { tokens: 50, prompt: 4, streams: 2, seed: 1 });
        assert_eq!((report.blocks.len(), report.blocks[0].from, report.blocks[19].to), (20, 0, 50));
        assert!(report.blocks.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!((report.mean_kl_nats, report.second_half_over_first), (25.0, 37.5 / 12.5));
        // One token is its own halves.
        let report = Report::of(&[vec![0.5]], &Work { tokens: 1, prompt: 1, streams: 1, seed: 1 });
        assert_eq!((report.blocks.len(), report.second_half_over_first, report.blocks[0].standard_error), (1, 1.0, 0.0));
    }
}
