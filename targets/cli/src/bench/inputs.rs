//! What goes into the model: random, since the speed does not depend on it.

use crate::sampler::SplitMix64;
use anyhow::Result;
use brooklet::artifact::InputSpec;
use brooklet::{Input, Model, Session};

/// Inputs of several steps.
pub(crate) enum Inputs {
    /// (steps)
    Tokens(Vec<u32>),
    /// (steps, channels)
    Frames(Vec<f32>, usize),
}

impl Inputs {
    pub(crate) fn random(model: &Model<'_>, steps: usize) -> Self {
        let mut random = SplitMix64(1);
        match model.header().input {
            InputSpec::Tokens { vocab, .. } => {
                Inputs::Tokens((0..steps).map(|_| (random.next() % u64::from(vocab.max(1))) as u32).collect())
            }
            InputSpec::Frames { .. } => {
                let channels = model.channels().unwrap_or(1);
                Inputs::Frames((0..steps * channels).map(|_| random.unit() as f32 - 0.5).collect(), channels)
            }
        }
    }

    /// Steps through the first `steps` of them.
    pub(crate) fn step(&self, session: &mut Session<'_, '_, '_>, steps: usize) -> Result<()> {
        match self {
            Inputs::Tokens(tokens) => tokens.iter().take(steps).try_for_each(|&token| session.step(Input::Token(token)).map(drop))?,
            Inputs::Frames(frames, channels) => {
                frames.chunks_exact(*channels).take(steps).try_for_each(|frame| session.step(Input::Frame(frame)).map(drop))?
            }
        }
        Ok(())
    }

    /// Takes the first `steps` of them in at once.
    pub(crate) fn prefill(&self, session: &mut Session<'_, '_, '_>, steps: usize) -> Result<()> {
        match self {
            Inputs::Tokens(tokens) => session.prefill_tokens(&tokens[..steps.min(tokens.len())]).map(drop)?,
            Inputs::Frames(frames, channels) => session.prefill_frames(&frames[..(steps * channels).min(frames.len())]).map(drop)?,
        }
        Ok(())
    }
}
