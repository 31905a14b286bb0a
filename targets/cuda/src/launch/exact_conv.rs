//! `exact_conv.cu`: causal convolutions with the CPU's bits, of one token or of many side by side.

use super::ConvShape;
use super::overlap::overlapping;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Widest window.
const MOST_TAPS: u32 = 8;
/// Channels of a block that goes through many tokens.
const ACROSS: u32 = 8;

/// Causal depthwise convolutions in place, in the CPU's order.
#[derive(Clone, Debug)]
pub(super) struct ExactConv {
    step: CudaFunction,
    /// Of four taps, and of any number.
    prefill: [CudaFunction; 2],
}

impl ExactConv {
    /// Loads the kernels.
    pub(super) fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/exact_conv.bin"))?;
        let prefill = [module.function("exact_conv_prefill_4")?, module.function("exact_conv_prefill_0")?];
        Ok(ExactConv { step: module.function("exact_conv_step")?, prefill })
    }

    /// Queues it; `false`, and nothing done, for a shape that the kernels do not take.
    pub(super) fn run(&self, device: &Device, batch: &Batch, shape: &ConvShape) -> Result<bool, Error> {
        let ConvShape { x, channels, taps, silu, weight, bias, slot } = *shape;
        let silu = u32::from(silu);
        if !(1..=MOST_TAPS).contains(&taps) {
            return Ok(false);
        }
        if batch.tokens == 1 {
            let grid = (channels.div_ceil(128), batch.streams);
            overlapping!(device, &self.step, grid, 128, 0, *batch, x, channels, taps, silu, weight, bias, slot)?;
            return Ok(true);
        }
        let in_fours = batch.is_in_fours(&[x]) && channels.is_multiple_of(4) && [weight, bias].iter().all(|array| array.number() % 16 == 0);
        if !in_fours || !batch.state.plus(slot).number().is_multiple_of(16) {
            return Ok(false);
        }
        let function = &self.prefill[usize::from(taps != 4)];
        let grid = (channels.div_ceil(ACROSS), batch.streams);
        overlapping!(device, function, grid, 256, 0, *batch, x, channels, taps, silu, weight, bias, slot)?;
        Ok(true)
    }
}
