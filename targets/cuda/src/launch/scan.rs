//! `scan.cu`: the selective scan of many tokens, sums in an order of their own.

use super::{ScanShape, queue, start};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr, PushKernelArg};

/// Most warps of a block that walk, and those that serve them.
const MOST_WALKERS: u32 = 10;
const SERVANTS: u32 = 10;

/// A kernel: `struct Plan`.
#[derive(Clone, Debug)]
struct Prefill {
    function: CudaFunction,
    /// Widest state.
    d_state: u32,
    /// Channels of a walking warp.
    across: u32,
}

/// Selective scans with `d_state` up to [`SelectiveScan::MAX_STATE`].
#[derive(Clone, Debug)]
pub struct SelectiveScan {
    /// From few states to many.
    prefill: Vec<Prefill>,
}

/// `struct Scan` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Operands {
    x: Address,
    dt: Address,
    b: Address,
    c: Address,
    z: Address,
    y: Address,
    a: Address,
    d: Address,
    dt_bias: Address,
    gaps: Address,
    state: Address,
    state_stride: u64,
    /// Of x, dt, b, c, z and y.
    strides: [u32; 6],
    state_is_half: u32,
    tokens: u32,
    d_inner: u32,
    d_state: u32,
    heads: u32,
    walkers: u32,
}

// SAFETY: the same fields in the same order as the kernels' struct, which is checked below.
unsafe impl DeviceRepr for Operands {}

const _: () = assert!(size_of::<Operands>() == 12 * 8 + 12 * 4);

impl SelectiveScan {
    /// The widest state.
    pub const MAX_STATE: u32 = 256;

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/scan.bin"))?;
        let load = |(name, d_state, across)| -> Result<Prefill, Error> {
            let function = module.function(name)?;
            Ok(Prefill { function, d_state, across })
        };
        let prefill = [("scan_prefill_f32_2x8", 16, 4), ("scan_prefill_f32_8x8", 64, 4), ("scan_prefill_f32_8x32", Self::MAX_STATE, 1)];
        Ok(SelectiveScan { prefill: prefill.into_iter().map(load).collect::<Result<_, _>>()? })
    }

    /// Selective scan of the batch's tokens; `false`, and nothing done, if the state is wider than the kernels take.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &ScanShape) -> Result<bool, Error> {
        let Some(kernel) = self.prefill.iter().find(|kernel| kernel.d_state >= shape.d_state) else {
            return Ok(false);
        };
        let per_head = shape.channels / shape.heads.max(1);
        // Each processor has one block, or a few in turn.
        let each = (per_head.div_ceil(kernel.across) * shape.heads * batch.streams).div_ceil(device.processors());
        let walkers = each.div_ceil(each.div_ceil(MOST_WALKERS));
        let operands = Operands {
            x: batch.operand(shape.x),
            dt: batch.operand(shape.dt),
            b: batch.operand(shape.b),
            c: batch.operand(shape.c),
            z: if shape.has_z != 0 { batch.operand(shape.z) } else { Address::NULL },
            y: batch.operand(shape.out),
            a: shape.a,
            d: shape.d,
            dt_bias: shape.dt_bias,
            gaps: batch.gaps,
            state: batch.state.plus(shape.slot),
            state_stride: batch.state_stride,
            strides: [batch.stride; 6],
            state_is_half: shape.is_half,
            tokens: batch.tokens,
            d_inner: shape.channels,
            d_state: shape.d_state,
            heads: shape.heads,
            walkers,
        };
        let mut arguments = start(device, &kernel.function);
        arguments.arg(&operands);
        let grid = (per_head.div_ceil(walkers * kernel.across), shape.heads, batch.streams);
        queue(&mut arguments, grid, 32 * (walkers + SERVANTS), 0)?;
        Ok(true)
    }
}
