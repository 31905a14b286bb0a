//! `exact_scan.cu`: the selective scan with the CPU's bits, of one token or of many.

use super::ScanShape;
use super::overlap::overlapping;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Widest state of one token, and rows of it that a thread has.
const STEP: (u32, u32) = (64, 2);
/// Widest state of many tokens.
const MOST_STATE: u32 = 16;
/// Channels of a block that goes through many tokens, and its threads.
const PREFILL: (u32, u32) = (8, 256);

/// Selective scans in the CPU's order.
#[derive(Clone, Debug)]
pub(super) struct ExactScan {
    step: CudaFunction,
    /// Over a state of f32, of f16.
    prefill: [CudaFunction; 2],
}

impl ExactScan {
    /// Loads the kernels.
    pub(super) fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/exact_scan.bin"))?;
        let prefill = [module.function("exact_scan_prefill_f32")?, module.function("exact_scan_prefill_f16")?];
        Ok(ExactScan { step: module.function("exact_scan_step")?, prefill })
    }

    /// Queues it; `false`, and nothing done, for a state that is wider than the kernels take.
    pub(super) fn run(&self, device: &Device, batch: &Batch, shape: &ScanShape) -> Result<bool, Error> {
        let (function, grid, threads) = if batch.tokens == 1 {
            if shape.d_state > STEP.0 {
                return Ok(false);
            }
            (&self.step, (shape.channels.div_ceil(32), batch.streams), 32 * shape.d_state.div_ceil(STEP.1))
        } else {
            if shape.d_state > MOST_STATE {
                return Ok(false);
            }
            let blocks = (shape.channels / shape.heads.max(1)).div_ceil(PREFILL.0);
            (&self.prefill[shape.is_half as usize], (blocks, shape.heads * batch.streams), PREFILL.1)
        };
        overlapping!(device, function, grid, threads, 0, *batch, *shape)?;
        Ok(true)
    }
}
