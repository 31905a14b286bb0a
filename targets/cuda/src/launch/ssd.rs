//! `ssd.cu`: the state-space dual recurrence of many tokens, in chunks on tensor cores.

use super::overlap::allow_shared;
use super::{SsdShape, queue_as, start};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};

/// Threads of a block: three warpgroups.
const THREADS: u32 = 3 * 128;
/// Tokens of a chunk, channels of a block, and numbers of d_state in a panel.
const PANEL: u32 = 64;
/// Panels of d_state that have a kernel.
const PANELS: [u32; 3] = [1, 2, 4];
/// Most stages of a block's ring (`STAGES`).
const MOST_STAGES: u32 = 4;
/// `sizeof(Ends)`.
const ENDS_BYTES: u32 = 3 * MOST_STAGES * 8;

/// State-space dual recurrences with `d_state` up to [`StateSpaceDual::MAX_STATE`].
#[derive(Clone, Debug)]
pub struct StateSpaceDual {
    /// For each width of states, and the stages for which a block has shared memory.
    kernels: Vec<(CudaFunction, u32)>,
}

impl StateSpaceDual {
    /// The widest state.
    pub const MAX_STATE: u32 = PANELS[2] * PANEL;
    /// Shorter sequences go token by token elsewhere.
    pub const SHORTEST: u32 = 8;

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/ssd.bin"))?;
        let mut kernels = Vec::new();
        for panels in PANELS {
            let function = module.function(&format!("ssd_prefill_f32_{}", panels * PANEL))?;
            let most_bytes = allow_shared(device, &function)?;
            let stages = most_bytes.saturating_sub(ENDS_BYTES) / stage_bytes(panels);
            kernels.push((function, stages.min(MOST_STAGES)));
        }
        Ok(StateSpaceDual { kernels })
    }

    /// The recurrence over the batch's tokens; `false`, and nothing done, if there are few of them, in a block that a token enters or not, or if the
    /// state is wider than the kernels or this GPU's shared memory take.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &SsdShape) -> Result<bool, Error> {
        let Some(kind) = PANELS.iter().position(|&panels| shape.d_state <= panels * PANEL) else { return Ok(false) };
        let (function, stages) = &self.kernels[kind];
        if *stages == 0 || batch.tokens < Self::SHORTEST || batch.gate != Address::NULL {
            return Ok(false);
        }
        let operand = |at| batch.operand(at);
        let state = batch.state.plus(shape.slot);
        let (x, dt, b, c, y) = (operand(shape.x), operand(shape.dt), operand(shape.b), operand(shape.c), operand(shape.out));
        let mut arguments = start(device, function);
        for operand in [&x, &dt, &b, &c, &y] {
            arguments.arg(operand);
        }
        for _ in 0..5 {
            arguments.arg(&batch.stride);
        }
        arguments.arg(&shape.a).arg(&shape.d).arg(&shape.dt_bias).arg(&shape.dt_lo).arg(&shape.dt_hi).arg(&batch.gaps);
        arguments.arg(&state).arg(&batch.state_stride).arg(&shape.is_half).arg(&batch.tokens);
        arguments.arg(&shape.heads).arg(&shape.head_dim).arg(&shape.groups).arg(&shape.d_state).arg(stages);
        let grid_dim = (shape.heads, shape.head_dim.div_ceil(PANEL), batch.streams);
        let shared_mem_bytes = stages * stage_bytes(PANELS[kind]) + ENDS_BYTES;
        queue_as(&mut arguments, LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes })?;
        Ok(true)
    }
}

/// `sizeof(Stage)` of f32 operands, which are pairs of bf16: panels of b, c, x and scores, and four numbers a token.
const fn stage_bytes(panels: u32) -> u32 {
    2 * 2 * PANEL * PANEL * (2 * panels + 2) + 4 * 4 * PANEL
}
