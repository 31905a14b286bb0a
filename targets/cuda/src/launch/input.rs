//! `input.cu`: embeddings, sensor frames, missing samples; outputs in their order.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;
use std::ops::Range;

/// What enters a step, and outputs into their order.
#[derive(Clone, Debug)]
pub struct Input {
    embed: CudaFunction,
    into_order: CudaFunction,
    normalise: CudaFunction,
    missing: CudaFunction,
}

/// What stands in for a missing sample.
#[derive(Clone, Copy, Debug)]
pub enum StandIn {
    /// The channel's last number, kept in the slot that starts at so many bytes of the state.
    Last(u64),
    /// A number of each channel's, (channels); 0 if null.
    Numbers(Address),
}

impl Input {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/input.bin"))?;
        let function = |name| module.function(name);
        Ok(Input {
            embed: function("embed")?,
            into_order: function("into_order")?,
            normalise: function("normalise")?,
            missing: function("missing")?,
        })
    }

    /// `outputs[i] <- made[places[i]]` of each row, both (rows, count).
    pub fn into_order(
        &self,
        device: &Device,
        rows: u32,
        made: Address,
        places: Address,
        count: u32,
        outputs: Address,
    ) -> Result<(), Error> {
        launch!(device, &self.into_order, (count.div_ceil(256), rows, 1), 256, 0, made, places, count, outputs)
    }

    /// Row `tokens[row]` of the matrix in sections `table`, (rows of `width`), to operand `out`; `places` says where each row lies, unless it is null.
    pub fn embed(
        &self,
        device: &Device,
        batch: &Batch,
        (matrices, table, places): (Address, Range<u32>, Address),
        tokens: Address,
        (out, width): (u32, u32),
        scale: f32,
    ) -> Result<(), Error> {
        let grid = (width.div_ceil(256), batch.rows(), 1);
        launch!(device, &self.embed, grid, 256, 0, *batch, matrices, table.start, table.end - table.start, places, tokens, out, scale)
    }

    /// `(sample - mean) * inv_std` of samples (rows, channels) to operand `out`.
    pub fn normalise(
        &self,
        device: &Device,
        batch: &Batch,
        samples: Address,
        channels: u32,
        (mean, inv_std): (Address, Address),
        out: u32,
    ) -> Result<(), Error> {
        let grid = (channels.div_ceil(256), batch.rows(), 1);
        launch!(device, &self.normalise, grid, 256, 0, *batch, samples, channels, mean, inv_std, out)
    }

    /// Replaces what is missing in operand `x`, (channels).
    pub fn missing(&self, device: &Device, batch: &Batch, x: u32, channels: u32, stand_in: StandIn) -> Result<(), Error> {
        let (holds, slot, zeros) = match stand_in {
            StandIn::Last(slot) => (1u32, slot, Address::NULL),
            StandIn::Numbers(zeros) => (0, 0, zeros),
        };
        let grid = (channels.div_ceil(256), batch.streams, 1);
        launch!(device, &self.missing, grid, 256, 0, *batch, x, channels, holds, slot, zeros)
    }
}
