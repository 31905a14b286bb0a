//! `memory.cu`: windows, delay lines, parts of frames, summaries.

use super::launch;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use brooklet::ops::Span;
use cudarc::driver::CudaFunction;

/// What a stream remembers of its inputs. Slots are bytes from a state's start.
#[derive(Clone, Debug)]
pub struct Memory {
    window: CudaFunction,
    delay: CudaFunction,
    depth_to_time: CudaFunction,
    pool: CudaFunction,
}

impl Memory {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/memory.bin"))?;
        let function = |name| module.function(name);
        Ok(Memory {
            window: function("window")?,
            delay: function("delay")?,
            depth_to_time: function("depth_to_time")?,
            pool: function("pool")?,
        })
    }

    /// `out <- the last numbers before x, then x`.
    pub fn window(&self, device: &Device, batch: &Batch, x: Span, out: Span, slot: u64) -> Result<(), Error> {
        let kept = out.len - x.len;
        launch!(device, &self.window, (batch.streams, 1, 1), 256, 0, *batch, x.at, out.at, x.len, kept, slot)
    }

    /// `out <- x` of `steps` steps ago.
    pub fn delay(&self, device: &Device, batch: &Batch, x: Span, out: u32, steps: u32, slot: u64) -> Result<(), Error> {
        let grid = (x.len.div_ceil(128), batch.streams, 1);
        launch!(device, &self.delay, grid, 128, 0, *batch, x.at, out, x.len, steps, slot)
    }

    /// `out <- the part of x` whose turn it is.
    pub fn depth_to_time(&self, device: &Device, batch: &Batch, x: Span, out: Span, slot: u64) -> Result<(), Error> {
        let parts = x.len / out.len.max(1);
        let grid = (out.len.div_ceil(128), batch.streams, 1);
        launch!(device, &self.depth_to_time, grid, 128, 0, *batch, x.at, out.at, out.len, parts, slot)
    }

    /// `x <-` the mean of all steps, or with `alpha` a moving average.
    pub fn pool(&self, device: &Device, batch: &Batch, x: Span, alpha: Option<f32>, slot: u64) -> Result<(), Error> {
        let grid = (x.len.div_ceil(128), batch.streams, 1);
        launch!(device, &self.pool, grid, 128, 0, *batch, x.at, x.len, alpha.unwrap_or(0.0), slot)
    }
}
