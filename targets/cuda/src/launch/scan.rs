//! `scan.cu`: the selective scan, many tokens or one.

use super::{ScanShape, queue_as, start};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};

/// A kernel for many tokens.
#[derive(Clone, Debug)]
struct Prefill {
    function: CudaFunction,
    /// Numbers of a state that a thread keeps.
    states: u32,
    /// Threads that share a channel.
    lanes: u32,
    /// Channels of a block.
    channels: u32,
    /// Tokens prepared together.
    tile: u32,
}

/// Selective scans with `d_state` up to [`SelectiveScan::MAX_STATE`].
#[derive(Clone, Debug)]
pub struct SelectiveScan {
    step: CudaFunction,
    /// From few states to many.
    prefill: Vec<Prefill>,
}

impl SelectiveScan {
    /// The widest state.
    pub const MAX_STATE: u32 = 256;

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/scan.bin"))?;
        let prefill = [(1, 16, 8, 32), (2, 8, 8, 32), (4, 16, 8, 16), (8, 32, 4, 8)];
        let load = |(states, lanes, channels, tile)| -> Result<Prefill, Error> {
            let function = module.function(&format!("scan_prefill_f32_{states}x{lanes}"))?;
            Ok(Prefill { function, states, lanes, channels, tile })
        };
        Ok(SelectiveScan { step: module.function("scan_step_f32")?, prefill: prefill.into_iter().map(load).collect::<Result<_, _>>()? })
    }

    /// Selective scan of the batch's tokens; `false`, and nothing done, if the state is wider than the kernels take.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &ScanShape) -> Result<bool, Error> {
        let per_head = shape.channels / shape.heads.max(1);
        if batch.tokens == 1 {
            let grid = (per_head.div_ceil(32), shape.heads, batch.streams);
            queue(device, &self.step, grid, (32, 8), 0, batch, shape)?;
            return Ok(true);
        }
        // The least work first; more threads a channel where channels are too few to fill the machine.
        let blocks = |kernel: &Prefill| shape.heads * per_head.div_ceil(kernel.channels) * batch.streams;
        let is_wide = |kernel: &&Prefill| kernel.states * kernel.lanes >= shape.d_state;
        let Some(kernel) =
            self.prefill.iter().filter(is_wide).find(|kernel| kernel.states > 1 || blocks(kernel) <= 2 * device.processors())
        else {
            return Ok(false);
        };
        let grid = (per_head.div_ceil(kernel.channels), shape.heads, batch.streams);
        queue(device, &kernel.function, grid, (2 * kernel.channels * kernel.lanes, 1), kernel.shared_bytes(), batch, shape)?;
        Ok(true)
    }
}

impl Prefill {
    /// `sizeof(ScanTiles)`.
    fn shared_bytes(&self) -> u32 {
        let Prefill { states, lanes, channels, tile, .. } = *self;
        2 * 4 * (2 * channels * (tile + 4) + tile * lanes * 2 * states + tile * (channels + 2))
    }
}

/// Queues a kernel with the parameters that all of them have.
fn queue(
    device: &Device,
    function: &CudaFunction,
    grid: (u32, u32, u32),
    block: (u32, u32),
    shared_bytes: u32,
    batch: &Batch,
    shape: &ScanShape,
) -> Result<(), Error> {
    let operand = |at| batch.operand(at);
    let z = if shape.has_z != 0 { operand(shape.z) } else { Address::NULL };
    let state = batch.state.plus(shape.slot);
    let (x, dt, b, c, y) = (operand(shape.x), operand(shape.dt), operand(shape.b), operand(shape.c), operand(shape.out));
    let mut arguments = start(device, function);
    for operand in [&x, &dt, &b, &c, &z, &y] {
        arguments.arg(operand);
    }
    for _ in 0..6 {
        arguments.arg(&batch.stride);
    }
    arguments.arg(&shape.a).arg(&shape.d).arg(&shape.dt_bias).arg(&batch.gaps).arg(&state).arg(&batch.state_stride);
    arguments.arg(&shape.is_half).arg(&batch.tokens).arg(&shape.channels).arg(&shape.d_state).arg(&shape.heads).arg(&batch.gate);
    let config = LaunchConfig { grid_dim: grid, block_dim: (block.0, block.1, 1), shared_mem_bytes: shared_bytes };
    queue_as(&mut arguments, config)
}
