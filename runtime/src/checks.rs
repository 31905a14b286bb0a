//! What input can get wrong, found before a stream is touched. Public for runtimes of their own, such as the one on GPUs.

use crate::artifact::InputSpec;
use crate::error::Error;
use crate::model::Model;
use crate::ops::{Gaps, Inputs};

impl Model<'_> {
    /// Checks the tokens of some steps, (steps); returns their number.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<usize, Error> {
        self.check_inputs(Inputs::Tokens(tokens))
    }

    /// Checks the frames of some steps, (steps, channels); returns their number.
    pub fn check_frames(&self, samples: &[f32]) -> Result<usize, Error> {
        self.check_inputs(Inputs::Frames(samples))
    }

    /// Checks everything that input can get wrong; returns the number of steps.
    pub(crate) fn check_inputs(&self, inputs: Inputs<'_>) -> Result<usize, Error> {
        let count = match (self.header().input, inputs) {
            (InputSpec::Tokens { .. }, Inputs::Tokens([])) => return Err(Error::EmptyInput),
            (InputSpec::Tokens { vocab, .. }, Inputs::Tokens(tokens)) => {
                if let Some(&token) = tokens.iter().find(|&&t| t >= vocab) {
                    return Err(Error::TokenOutOfRange { token, vocab });
                }
                tokens.len()
            }
            (InputSpec::Frames { .. }, Inputs::Frames(samples)) => self.check_samples(samples, |x| x)?,
            (InputSpec::Frames { .. }, Inputs::StoredFrames(samples)) => self.check_samples(samples, f32::from_le_bytes)?,
            (InputSpec::Tokens { .. }, _) => return Err(Error::WrongInput { wants: "token ids" }),
            (InputSpec::Frames { .. }, _) => return Err(Error::WrongInput { wants: "sensor frames" }),
        };
        Ok(count)
    }

    /// Checks that a stream at `position` can take `steps` more.
    pub fn check_context(&self, position: u64, steps: usize) -> Result<(), Error> {
        match self.plan().context {
            Some(capacity) if position.saturating_add(steps as u64) > u64::from(capacity) => Err(Error::ContextFull { capacity }),
            _ => Ok(()),
        }
    }

    /// Checks the times before `frames` frames.
    pub fn check_gaps(&self, seconds: &[f32], frames: usize) -> Result<(), Error> {
        if seconds.len() != frames {
            return Err(Error::GapCount { got: seconds.len() as u32, want: frames as u32 });
        }
        let gaps = Gaps { seconds, rate_hz: self.rate_hz() };
        for (frame, &seconds) in seconds.iter().enumerate() {
            if !(seconds > 0.0 && seconds.is_finite() && gaps.gap(frame).is_finite()) {
                return Err(Error::GapNotPositive { frame: frame as u32 });
            }
            if gaps.gap(frame) != 1.0 && !self.plan().takes_gaps {
                return Err(Error::GapUnsupported);
            }
        }
        Ok(())
    }

    /// Those times in steps of the model's own rate.
    pub fn gaps(&self, seconds: &[f32]) -> impl Iterator<Item = f32> {
        let gaps = Gaps { seconds, rate_hz: self.rate_hz() };
        (0..seconds.len()).map(move |frame| gaps.gap(frame))
    }

    /// The model's own rate, for frames.
    pub(crate) fn rate_hz(&self) -> f32 {
        match self.header().input {
            InputSpec::Frames { rate_hz, .. } => rate_hz,
            InputSpec::Tokens { .. } => 1.0,
        }
    }

    /// Checks width and samples; returns the number of frames.
    fn check_samples<T: Copy>(&self, samples: &[T], number: impl Fn(T) -> f32) -> Result<usize, Error> {
        let channels = self.channels().unwrap_or(0);
        if samples.is_empty() || channels == 0 || !samples.len().is_multiple_of(channels) {
            return Err(Error::FrameWidth { got: samples.len() as u32, want: channels as u32 });
        }
        let takes_missing = self.plan().missing.is_some();
        let is_bad = |x: f32| !(x.is_finite() || takes_missing && x.is_nan());
        if let Some(at) = samples.iter().position(|&x| is_bad(number(x))) {
            return Err(Error::FrameNotFinite { channel: (at % channels) as u32 });
        }
        Ok(samples.len() / channels)
    }
}
