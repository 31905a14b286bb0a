//! Recurrences with the CPU's bits: `walk.cu` those of any shape, token by token, where no faster kernel takes them.

use super::exact_conv::ExactConv;
use super::exact_delta::ExactDelta;
use super::exact_lru::ExactLru;
use super::exact_scan::ExactScan;
use super::exact_ssd::ExactSsd;
use super::{launch, threads};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr};

/// Recurrences in the CPU's order. Slots are bytes from a state's start, operands places in a frame.
#[derive(Clone, Debug)]
pub struct Walk {
    exact_conv: ExactConv,
    exact_delta: ExactDelta,
    exact_lru: ExactLru,
    exact_scan: ExactScan,
    exact_ssd: ExactSsd,
    conv1d: CudaFunction,
    scan: CudaFunction,
    ssd: CudaFunction,
    gated_delta: CudaFunction,
}

/// A causal convolution's operands.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    /// (channels), in place.
    pub x: u32,
    /// Channels.
    pub channels: u32,
    /// Width of the window.
    pub taps: u32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// (taps, channels)
    pub weight: Address,
    /// (channels), or null.
    pub bias: Address,
    /// (taps - 1, channels)
    pub slot: u64,
}

/// A selective scan's operands: `struct ScanShape` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ScanShape {
    pub x: u32,
    pub dt: u32,
    pub b: u32,
    pub c: u32,
    pub z: u32,
    pub out: u32,
    pub has_z: u32,
    pub channels: u32,
    pub d_state: u32,
    pub heads: u32,
    pub is_half: u32,
    pub a: Address,
    pub d: Address,
    pub dt_bias: Address,
    pub slot: u64,
}

/// A state-space dual recurrence's operands: `struct SsdShape` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct SsdShape {
    pub x: u32,
    pub dt: u32,
    pub b: u32,
    pub c: u32,
    pub out: u32,
    pub heads: u32,
    pub head_dim: u32,
    pub groups: u32,
    pub d_state: u32,
    pub is_half: u32,
    pub z: u32,
    pub has_gate: u32,
    pub dt_lo: f32,
    pub dt_hi: f32,
    pub a: Address,
    pub d: Address,
    pub dt_bias: Address,
    pub slot: u64,
}

/// A gated delta rule's operands: `struct DeltaShape` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DeltaShape {
    pub q: u32,
    pub k: u32,
    pub v: u32,
    pub a: u32,
    pub b: u32,
    pub out: u32,
    pub heads: u32,
    pub key_heads: u32,
    pub key_dim: u32,
    pub value_dim: u32,
    pub is_half: u32,
    pub scale: f32,
    pub beta_scale: f32,
    pub eps: f32,
    pub decay: Address,
    pub dt_bias: Address,
    pub slot: u64,
}

// SAFETY: the same fields in the same order as the kernels' structs.
unsafe impl DeviceRepr for ScanShape {}
// SAFETY: as above.
unsafe impl DeviceRepr for SsdShape {}
// SAFETY: as above.
unsafe impl DeviceRepr for DeltaShape {}

impl Walk {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/walk.bin"))?;
        let function = |name| module.function(name);
        Ok(Walk {
            exact_conv: ExactConv::load(device)?,
            exact_delta: ExactDelta::load(device)?,
            exact_lru: ExactLru::load(device)?,
            exact_scan: ExactScan::load(device)?,
            exact_ssd: ExactSsd::load(device)?,
            conv1d: function("walk_conv1d")?,
            scan: function("walk_scan")?,
            ssd: function("walk_ssd")?,
            gated_delta: function("walk_gated_delta")?,
        })
    }

    /// Causal depthwise convolution.
    pub fn conv1d(&self, device: &Device, batch: &Batch, shape: &ConvShape) -> Result<(), Error> {
        if self.exact_conv.run(device, batch, shape)? {
            return Ok(());
        }
        let ConvShape { x, channels, taps, silu, weight, bias, slot } = *shape;
        let grid = (channels.div_ceil(128), batch.streams, 1);
        launch!(device, &self.conv1d, grid, 128, 0, *batch, x, channels, taps, u32::from(silu), weight, bias, slot)
    }

    /// Selective scan.
    pub fn scan(&self, device: &Device, batch: &Batch, shape: &ScanShape) -> Result<(), Error> {
        if self.exact_scan.run(device, batch, shape)? {
            return Ok(());
        }
        launch!(device, &self.scan, (shape.channels.div_ceil(64), batch.streams, 1), 64, 0, *batch, *shape)
    }

    /// State-space dual recurrence.
    pub fn ssd(&self, device: &Device, batch: &Batch, shape: &SsdShape) -> Result<(), Error> {
        if self.exact_ssd.run(device, batch, shape)? {
            return Ok(());
        }
        launch!(device, &self.ssd, (shape.heads, batch.streams, 1), threads(shape.head_dim, 256), 0, *batch, *shape)
    }

    /// Gated delta rule.
    pub fn gated_delta(&self, device: &Device, batch: &Batch, shape: &DeltaShape) -> Result<(), Error> {
        if self.exact_delta.run(device, batch, shape)? {
            return Ok(());
        }
        launch!(device, &self.gated_delta, (shape.heads, batch.streams, 1), threads(shape.value_dim, 256), 0, *batch, *shape)
    }

    /// Real-gated linear recurrent unit: operands x, input gate and recurrence gate, each (width).
    pub fn rg_lru(&self, device: &Device, batch: &Batch, operands: [u32; 3], width: u32, decay: Address, slot: u64) -> Result<(), Error> {
        self.exact_lru.run(device, batch, operands, width, decay, slot)
    }
}
