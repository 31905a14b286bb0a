//! `diag_ssm.cu`: diagonal state-space models.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Diagonal state-space models.
#[derive(Clone, Debug)]
pub struct DiagSsm {
    diag_ssm: CudaFunction,
}

/// Operands: places in a frame.
#[derive(Clone, Copy, Debug)]
pub struct DiagShape {
    /// (channels), or (2, channels).
    pub x: u32,
    /// Whether `x` is complex.
    pub is_complex: bool,
    /// (channels), or (modes, 2, channels) without `c`.
    pub out: u32,
    /// Channels.
    pub channels: u32,
    /// Modes of a channel.
    pub modes: u32,
    /// Number of the `brooklet::ops::Stepping`.
    pub stepping: u32,
    /// (modes, 2, channels)
    pub a: Address,
    /// (modes, 2, channels), or null.
    pub c: Address,
    /// (channels), or null.
    pub d: Address,
    /// (modes, 2, channels)
    pub slot: u64,
}

impl DiagSsm {
    /// Loads the kernel.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/diag_ssm.bin"))?;
        Ok(DiagSsm { diag_ssm: module.function("diag_ssm")? })
    }

    /// Steps every token.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &DiagShape) -> Result<(), Error> {
        let DiagShape { x, is_complex, out, channels, modes, stepping, a, c, d, slot } = *shape;
        let grid = (channels.div_ceil(64), batch.streams, 1);
        let is_complex = u32::from(is_complex);
        launch!(device, &self.diag_ssm, grid, 64, 0, *batch, x, is_complex, out, channels, modes, stepping, a, c, d, slot)
    }
}
