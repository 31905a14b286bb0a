//! What takes samples and answers each: a session on the CPU, or one on a GPU.

use anyhow::{Result, bail};
use brooklet::{Input, Line, Model, Session, State, snapshot_bytes};

/// A stream of a sensor model.
pub(crate) trait Stepper {
    /// One sample in, the outputs out.
    fn step(&mut self, input: Input<'_>) -> Result<&[f32]>;

    /// The outputs of the latest step.
    fn output(&self) -> &[f32];

    /// Steps since the stream began.
    fn position(&self) -> u64;

    /// The stream's state as a file holds it.
    fn snapshot(&self) -> Result<Vec<u8>>;

    /// The model that steps.
    fn model(&self) -> &Model<'_>;

    /// Whether all numbers of the state are finite.
    fn has_finite_state(&self) -> Result<bool> {
        let mut memory = vec![Line::ZERO; self.model().state_bytes().div_ceil(size_of::<Line>())];
        let state = State::restore(self.model(), &self.snapshot()?, Line::bytes_mut(&mut memory))?;
        Ok(has_finite_numbers(&state, self.model()))
    }
}

fn has_finite_numbers(state: &State<'_>, model: &Model<'_>) -> bool {
    // No step stores a half that is not finite, but a file can hold one.
    const EXPONENT: u16 = 0x7c00;
    state.numbers(model).flatten().all(|x| x.is_finite()) && state.halves(model).flatten().all(|bits| bits & EXPONENT != EXPONENT)
}

/// Steps from one look at a whole state to the next.
const LOOK_EVERY: u64 = 64;

/// Whether the stream can go on. A sample far beyond what a model was made for can leave numbers in its state that are not finite: they never go
/// away, and a classifier's answers may not show it. The whole state is looked at now and then, and when `in_full` is asked for.
pub(crate) fn expect_finite(session: &dyn Stepper, in_full: bool) -> Result<()> {
    let has_finite_outputs = session.output().iter().all(|y| y.is_finite());
    if (in_full || !has_finite_outputs || session.position().is_multiple_of(LOOK_EVERY)) && !session.has_finite_state()? {
        bail!(
            "the stream's state holds numbers that are not finite, and all answers from here on would be worthless: one of the samples so far is \
             beyond what the model can take; look for it, leave it out, and begin anew"
        );
    }
    Ok(())
}

impl Stepper for Session<'_, '_, '_> {
    fn step(&mut self, input: Input<'_>) -> Result<&[f32]> {
        Ok(self.step(input)?)
    }

    fn output(&self) -> &[f32] {
        self.output()
    }

    fn position(&self) -> u64 {
        self.state().position()
    }

    fn snapshot(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; snapshot_bytes(self.model())];
        self.state().snapshot(&mut bytes)?;
        Ok(bytes)
    }

    fn model(&self) -> &Model<'_> {
        self.model()
    }

    fn has_finite_state(&self) -> Result<bool> {
        Ok(has_finite_numbers(self.state(), self.model()))
    }
}

#[cfg(feature = "cuda")]
impl Stepper for brooklet_cuda::CudaSession<'_, '_> {
    fn step(&mut self, input: Input<'_>) -> Result<&[f32]> {
        self.step(input).map_err(crate::device::plain)
    }

    fn output(&self) -> &[f32] {
        self.output()
    }

    fn position(&self) -> u64 {
        self.position(0)
    }

    fn snapshot(&self) -> Result<Vec<u8>> {
        self.snapshot(0).map_err(crate::device::plain)
    }

    fn model(&self) -> &Model<'_> {
        self.gpu().model()
    }
}

/// A session on a GPU for one stream that comes sample by sample.
#[cfg(feature = "cuda")]
pub(crate) fn lone_stream() -> brooklet_cuda::Options {
    brooklet_cuda::Options { streams: 1, batch: 1, graphs: true }
}
