//! `route.cu`: clocks, conditional blocks, and the largest output.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Bytes of a route's decision: a count (`u64`), then a gate (`u32`).
pub(crate) const ENTRY_BYTES: u64 = 16;
/// Where the gate lies in it.
pub(crate) const GATE_AT: u64 = 8;

/// What steers a step from the GPU itself.
#[derive(Clone, Debug)]
pub struct Route {
    enter: CudaFunction,
    advance: CudaFunction,
    greedy: CudaFunction,
}

impl Route {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/route.bin"))?;
        let function = |name| module.function(name);
        Ok(Route { enter: function("enter")?, advance: function("advance")?, greedy: function("greedy")? })
    }

    /// Decides whether the one row of the batch enters a block; the decision goes to `entry`.
    pub fn enter(
        &self,
        device: &Device,
        batch: &Batch,
        score: u32,
        (threshold, otherwise): (f32, bool),
        slot: u64,
        entry: Address,
    ) -> Result<(), Error> {
        launch!(device, &self.enter, (1, 1, 1), 1, 0, *batch, score, threshold, u32::from(otherwise), slot, entry)
    }

    /// Moves the positions of `streams` streams on by `tokens`.
    pub fn advance(&self, device: &Device, positions: Address, streams: u32, tokens: u32) -> Result<(), Error> {
        launch!(device, &self.advance, (1, 1, 1), streams.next_multiple_of(32), 0, positions, streams, tokens)
    }

    /// The number of the largest output of each row, (rows, count), to `tokens`, (rows), and to the log, (rows, log_len), at the place that
    /// its position says.
    pub fn greedy(
        &self,
        device: &Device,
        outputs: Address,
        (rows, count): (u32, u32),
        tokens: Address,
        (log, log_len): (Address, u32),
        positions: Address,
    ) -> Result<(), Error> {
        launch!(device, &self.greedy, (rows, 1, 1), 1024, 0, outputs, count, tokens, log, log_len, positions)
    }
}
