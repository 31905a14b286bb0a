//! `scan.cu`: the selective scan of many tokens, sums in an order of their own.

use super::ScanShape;
use super::overlap::{allow_shared, overlapping};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr};

/// A kernel: `struct Plan`.
#[derive(Clone, Debug)]
struct Prefill {
    function: CudaFunction,
    plan: Plan,
    /// Most warps of a block that walk.
    most_walkers: u32,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    states: u32,
    lanes: u32,
    tile: u32,
    stage: u32,
    most_walkers: u32,
    sharers: u32,
}

impl Plan {
    const fn d_state(self) -> u32 {
        self.states * self.lanes
    }

    /// Channels of a walking warp.
    const fn across(self) -> u32 {
        32 / self.lanes
    }

    const fn threads(self, walkers: u32) -> u32 {
        32 * (2 * walkers + self.sharers)
    }

    /// What a block of so many walkers shares: two tiles of b and c, of dt and dt * x, and of sums.
    const fn shared_bytes(self, walkers: u32) -> u32 {
        let steps = 2 * self.most_walkers * self.across() * self.stage;
        2 * 4 * self.tile / self.stage * (self.stage * 2 * self.d_state() + steps + walkers * (32 * self.stage + 8))
    }
}

/// From few states to many, from few walkers to many.
const PLANS: [(&str, Plan); 4] = [
    ("scan_prefill_f32_2x8_few", Plan { states: 2, lanes: 8, tile: 32, stage: 4, most_walkers: 4, sharers: 1 }),
    ("scan_prefill_f32_2x8", Plan { states: 2, lanes: 8, tile: 32, stage: 4, most_walkers: 10, sharers: 1 }),
    ("scan_prefill_f32_8x8", Plan { states: 8, lanes: 8, tile: 16, stage: 1, most_walkers: 9, sharers: 2 }),
    ("scan_prefill_f32_8x32", Plan { states: 8, lanes: 32, tile: 8, stage: 1, most_walkers: 8, sharers: 4 }),
];

/// Selective scans with `d_state` up to [`SelectiveScan::MAX_STATE`].
#[derive(Clone, Debug)]
pub struct SelectiveScan {
    /// In the order of [`PLANS`].
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
    pub const MAX_STATE: u32 = PLANS[3].1.d_state();

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/scan.bin"))?;
        let load = |(name, plan): (&str, Plan)| -> Result<Prefill, Error> {
            let function = module.function(name)?;
            let most_bytes = allow_shared(device, &function)?;
            let fits = |walkers: &u32| plan.shared_bytes(*walkers) <= most_bytes;
            let most_walkers = (1..=plan.most_walkers).rev().find(fits).unwrap_or(0);
            Ok(Prefill { function, plan, most_walkers })
        };
        Ok(SelectiveScan { prefill: PLANS.into_iter().map(load).collect::<Result<_, _>>()? })
    }

    /// Selective scan of the batch's tokens; `false`, and nothing done, if the state is wider than the kernels or this GPU's shared memory take.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &ScanShape) -> Result<bool, Error> {
        let per_head = shape.channels / shape.heads.max(1);
        // Walkers of a block, if each processor has one.
        let each = |plan: Plan| (per_head.div_ceil(plan.across()) * shape.heads * batch.streams).div_ceil(device.processors());
        let width = PLANS.iter().map(|(_, plan)| plan.d_state()).find(|&d_state| d_state >= shape.d_state);
        let mut kernels = self.prefill.iter().filter(|kernel| Some(kernel.plan.d_state()) == width && kernel.most_walkers > 0);
        // With more walkers than a block can have, there are a few blocks in turn.
        let Some(kernel) = kernels.clone().find(|kernel| each(kernel.plan) <= kernel.most_walkers).or(kernels.next_back()) else {
            return Ok(false);
        };
        let plan = kernel.plan;
        let walkers = each(plan).div_ceil(each(plan).div_ceil(kernel.most_walkers));
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
        let grid = (per_head.div_ceil(walkers * plan.across()), shape.heads * batch.streams);
        overlapping!(device, &kernel.function, grid, plan.threads(walkers), plan.shared_bytes(walkers), operands)?;
        Ok(true)
    }
}
