//! `moe.cu`: mixture of experts around its products.

use super::elementwise::activation_number;
use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use brooklet::ops::{Activation, Span};
use cudarc::driver::{CudaFunction, DeviceRepr};

/// Most experts that a router chooses from: a bit for every 32 of them in a lane.
pub(crate) const MAX_EXPERTS: u32 = 2048;

/// Mixture of experts.
#[derive(Clone, Debug)]
pub struct Moe {
    choose: CudaFunction,
    between: CudaFunction,
    mix: CudaFunction,
}

/// A router: `struct RouterShape` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct RouterShape {
    pub scores: u32,
    pub experts: u32,
    pub top_k: u32,
    pub router: u32,
    pub renormalize: u32,
    pub groups: u32,
    pub top_groups: u32,
    pub eps: f32,
    pub scale: f32,
    pub bias: Address,
}

// SAFETY: the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for RouterShape {}

impl Moe {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/moe.bin"))?;
        let function = |name| module.function(name);
        Ok(Moe { choose: function("choose")?, between: function("between")?, mix: function("mix")? })
    }

    /// Chooses experts for each row, and their weights, both (rows, 32).
    pub fn choose(&self, device: &Device, batch: &Batch, router: &RouterShape, chosen: Address, weights: Address) -> Result<(), Error> {
        launch!(device, &self.choose, (batch.rows(), 1, 1), 32, 0, *batch, *router, chosen, weights)
    }

    /// Between an expert's matrices: hidden (rows, picks, width), of which the first `inner` remain.
    pub fn between(
        &self,
        device: &Device,
        batch: &Batch,
        hidden: Address,
        (picks, width, inner): (u32, u32, u32),
        gated: bool,
        f: Activation,
    ) -> Result<(), Error> {
        let (f, parameter) = activation_number(f);
        let grid = (inner.div_ceil(128), batch.rows(), picks);
        launch!(device, &self.between, grid, 128, 0, *batch, hidden, width, inner, u32::from(gated), f, parameter)
    }

    /// `out <-` the weighted sum of the experts' outputs, (rows, picks, width).
    pub fn mix(&self, device: &Device, batch: &Batch, experts: Address, weights: Address, picks: u32, out: Span) -> Result<(), Error> {
        let grid = (out.len.div_ceil(128), batch.rows(), 1);
        launch!(device, &self.mix, grid, 128, 0, *batch, experts, weights, picks, out.at, out.len)
    }
}
