//! What input can get wrong, found before a stream is touched: the checks of `runtime/src/engine.rs`.

use brooklet::artifact::InputSpec;
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
        match (model.header().input, self) {
            (InputSpec::Tokens { .. }, Inputs::Tokens([])) => Err(Error::EmptyInput),
            (InputSpec::Tokens { vocab, .. }, Inputs::Tokens(tokens)) => match tokens.iter().find(|&&token| token >= vocab) {
                Some(&token) => Err(Error::TokenOutOfRange { token, vocab }),
                None => Ok(tokens.len()),
            },
            (InputSpec::Frames { .. }, Inputs::Frames(samples)) => check_frames(model, samples),
            (InputSpec::Tokens { .. }, _) => Err(Error::WrongInput { wants: "token ids" }),
            (InputSpec::Frames { .. }, _) => Err(Error::WrongInput { wants: "sensor frames" }),
        }
    }
}

fn check_frames(model: &Model<'_>, samples: &[f32]) -> Result<usize, Error> {
    let channels = model.channels().unwrap_or(0);
    if samples.is_empty() || channels == 0 || !samples.len().is_multiple_of(channels) {
        return Err(Error::FrameWidth { got: samples.len() as u32, want: channels as u32 });
    }
    let takes_missing = model.plan().missing.is_some();
    match samples.iter().position(|x| !(x.is_finite() || takes_missing && x.is_nan())) {
        Some(at) => Err(Error::FrameNotFinite { channel: (at % channels) as u32 }),
        None => Ok(samples.len() / channels),
    }
}

/// Checks that a stream at `position` can take `steps` more.
pub(crate) fn check_context(model: &Model<'_>, position: u64, steps: usize) -> Result<(), Error> {
    match model.plan().context {
        Some(capacity) if position.saturating_add(steps as u64) > u64::from(capacity) => Err(Error::ContextFull { capacity }),
        _ => Ok(()),
    }
}

/// The times before `steps` frames in steps of the model's own rate; checked.
pub(crate) fn gaps(model: &Model<'_>, seconds: &[f32], steps: usize) -> Result<Vec<f32>, Error> {
    let InputSpec::Frames { rate_hz, .. } = model.header().input else {
        return Err(Error::WrongInput { wants: "token ids" });
    };
    if seconds.len() != steps {
        return Err(Error::GapCount { got: seconds.len() as u32, want: steps as u32 });
    }
    let gap = |(frame, &seconds): (usize, &f32)| {
        // Exactly 1 for the f32 nearest to such a step.
        let gap = if seconds == 1.0 / rate_hz { 1.0 } else { seconds * rate_hz };
        if !(seconds > 0.0 && seconds.is_finite() && gap.is_finite()) {
            return Err(Error::GapNotPositive { frame: frame as u32 });
        }
        if gap != 1.0 && !model.plan().takes_gaps { Err(Error::GapUnsupported) } else { Ok(gap) }
    };
    seconds.iter().enumerate().map(gap).collect()
}
