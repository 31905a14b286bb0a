//! `exact_delta.cu`: the gated delta rule with the CPU's bits, of one token or of many.

use super::DeltaShape;
use super::overlap::overlapping;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Longest keys that have kernels.
const KEYS: [u32; 2] = [64, 128];

/// Gated delta rules in the CPU's order.
#[derive(Clone, Debug)]
pub(super) struct ExactDelta {
    /// For keys of each length, over a state of f32, of f16.
    kernels: Vec<[CudaFunction; 2]>,
}

impl ExactDelta {
    /// Loads the kernels.
    pub(super) fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/exact_delta.bin"))?;
        let of_key = |key| Ok([module.function(&format!("exact_delta_{key}_f32"))?, module.function(&format!("exact_delta_{key}_f16"))?]);
        Ok(ExactDelta { kernels: KEYS.into_iter().map(of_key).collect::<Result<_, Error>>()? })
    }

    /// Queues it; `false`, and nothing done, for a shape that the kernels do not take.
    pub(super) fn run(&self, device: &Device, batch: &Batch, shape: &DeltaShape) -> Result<bool, Error> {
        let Some(kind) = KEYS.iter().position(|&key| shape.key_dim <= key) else { return Ok(false) };
        if !batch.is_in_fours(&[shape.q, shape.k]) || !shape.key_dim.is_multiple_of(4) {
            return Ok(false);
        }
        let grid = (shape.value_dim.div_ceil(32), shape.heads * batch.streams);
        overlapping!(device, &self.kernels[kind][shape.is_half as usize], grid, 64, 0, *batch, *shape)?;
        Ok(true)
    }
}
