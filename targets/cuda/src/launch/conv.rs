//! `conv.cu`: the causal convolution, many tokens side by side.

use super::{ConvShape, queue_as, start};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};

/// Tokens that a thread walks.
const PIECE: u32 = 32;
/// Windows that have a kernel.
const TAPS: std::ops::RangeInclusive<u32> = 2..=8;

/// Causal depthwise convolutions with windows of 2 to 8.
#[derive(Clone, Debug)]
pub struct Conv {
    halo: CudaFunction,
    /// From the narrowest window.
    conv: Vec<CudaFunction>,
}

impl Conv {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/conv.bin"))?;
        let conv = TAPS.map(|taps| module.function(&format!("conv_f32_{taps}"))).collect::<Result<_, _>>()?;
        Ok(Conv { halo: module.function("conv_halo_f32")?, conv })
    }

    /// Bytes of working memory that a convolution of so many tokens needs.
    pub fn halo_bytes(shape: &ConvShape, tokens: u32, streams: u32) -> u64 {
        let pieces = tokens.div_ceil(PIECE);
        if pieces < 2 { 0 } else { 4 * u64::from(pieces * streams) * u64::from(shape.taps - 1) * u64::from(shape.channels) }
    }

    /// Convolution in place; `false`, and nothing done, if the window is wider than the kernels take. `halo` is as large as
    /// [`Conv::halo_bytes`] says.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &ConvShape, halo: Address) -> Result<bool, Error> {
        let function = shape.taps.checked_sub(*TAPS.start()).and_then(|at| self.conv.get(at as usize));
        let Some(function) = function else { return Ok(false) };
        let pieces = batch.tokens.div_ceil(PIECE);
        let (x, state) = (batch.operand(shape.x), batch.state.plus(shape.slot));
        let halo = if pieces < 2 { Address::NULL } else { halo };
        let silu = u32::from(shape.silu);
        let grid = (shape.channels.div_ceil(128), pieces, batch.streams);
        let config = LaunchConfig { grid_dim: grid, block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        for function in [&self.halo, function].into_iter().skip(usize::from(pieces < 2)) {
            let mut arguments = start(device, function);
            arguments.arg(&x).arg(&x).arg(&batch.stride).arg(&batch.stride).arg(&shape.weight).arg(&shape.bias);
            arguments.arg(&state).arg(&batch.state_stride).arg(&halo);
            arguments.arg(&batch.tokens).arg(&shape.channels).arg(&shape.taps).arg(&silu).arg(&PIECE).arg(&batch.gate);
            queue_as(&mut arguments, config)?;
        }
        Ok(true)
    }
}
