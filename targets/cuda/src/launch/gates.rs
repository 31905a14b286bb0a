//! `gates.cu`: LSTM and GRU, around their recurrent products.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use brooklet::ops::Span;
use cudarc::driver::CudaFunction;

/// Gated recurrent cells, for batches with one token of each stream.
#[derive(Clone, Debug)]
pub struct Gates {
    recall: CudaFunction,
    lstm: CudaFunction,
    gru: CudaFunction,
}

impl Gates {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/gates.bin"))?;
        let function = |name| module.function(name);
        Ok(Gates { recall: function("recall")?, lstm: function("lstm")?, gru: function("gru")? })
    }

    /// `out <-` the previous output.
    pub fn recall(&self, device: &Device, batch: &Batch, out: Span, slot: u64) -> Result<(), Error> {
        let grid = (out.len.div_ceil(128), batch.streams, 1);
        launch!(device, &self.recall, grid, 128, 0, *batch, out.at, out.len, slot)
    }

    /// Long short-term memory, behind its products.
    pub fn lstm(&self, device: &Device, batch: &Batch, [input, recurrent]: [u32; 2], out: Span, slot: u64) -> Result<(), Error> {
        let grid = (out.len.div_ceil(128), batch.streams, 1);
        launch!(device, &self.lstm, grid, 128, 0, *batch, input, recurrent, out.at, out.len, slot)
    }

    /// Gated recurrent unit, behind its products.
    pub fn gru(
        &self,
        device: &Device,
        batch: &Batch,
        [input, recurrent]: [u32; 2],
        out: Span,
        bias: Address,
        slot: u64,
    ) -> Result<(), Error> {
        let grid = (out.len.div_ceil(128), batch.streams, 1);
        launch!(device, &self.gru, grid, 128, 0, *batch, input, recurrent, out.at, out.len, bias, slot)
    }
}
