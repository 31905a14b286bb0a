//! The inputs of several steps. What they can get wrong, [`Model`] knows.

use brooklet::{Error, Model};
use std::ops::Range;

/// The inputs of several steps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inputs<'i> {
    /// (steps)
    Tokens(&'i [u32]),
    /// (steps, channels)
    Frames(&'i [f32]),
}

impl<'i> Inputs<'i> {
    /// Steps `steps` of `total` in all.
    pub(crate) fn part(self, steps: Range<usize>, total: usize) -> Self {
        match self {
            Inputs::Tokens(all) => Inputs::Tokens(&all[steps]),
            Inputs::Frames(all) => {
                let width = all.len() / total;
                Inputs::Frames(&all[steps.start * width..steps.end * width])
            }
        }
    }

    /// Checks width, range and kind; returns the number of steps.
    pub(crate) fn check(self, model: &Model<'_>) -> Result<usize, Error> {
        match self {
            Inputs::Tokens(tokens) => model.check_tokens(tokens),
            Inputs::Frames(samples) => model.check_frames(samples),
        }
    }
}

/// The times before `steps` inputs in steps of the model's own rate; checked.
pub(crate) fn gaps(model: &Model<'_>, seconds: &[f32], steps: usize) -> Result<Vec<f32>, Error> {
    model.check_gaps(seconds, steps)?;
    Ok(model.gaps(seconds).collect())
}
