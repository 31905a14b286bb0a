//! What takes samples and answers each: a session on the CPU, or one on a GPU.

use anyhow::Result;
use brooklet::{Input, Session, snapshot_bytes};

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
}

/// A session on a GPU for one stream that comes sample by sample.
#[cfg(feature = "cuda")]
pub(crate) fn lone_stream() -> brooklet_cuda::Options {
    brooklet_cuda::Options { streams: 1, batch: 1, graphs: true }
}
