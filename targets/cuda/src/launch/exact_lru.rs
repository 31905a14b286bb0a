//! `exact_lru.cu`: the real-gated linear recurrent unit with the CPU's bits.

use super::overlap::overlapping;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Real-gated linear recurrent units in the CPU's order.
#[derive(Clone, Debug)]
pub(super) struct ExactLru(CudaFunction);

impl ExactLru {
    /// Loads the kernel.
    pub(super) fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/exact_lru.bin"))?;
        Ok(ExactLru(module.function("exact_lru")?))
    }

    /// Operands x, input gate and recurrence gate, each (width).
    pub(super) fn run(
        &self,
        device: &Device,
        batch: &Batch,
        [x, input_gate, recurrence_gate]: [u32; 3],
        width: u32,
        decay: Address,
        slot: u64,
    ) -> Result<(), Error> {
        let grid = (width.div_ceil(32), batch.streams);
        overlapping!(device, &self.0, grid, 256, 0, *batch, x, input_gate, recurrence_gate, width, decay, slot)
    }
}
