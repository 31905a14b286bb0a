//! `exact_ssd.cu`: the state-space dual recurrence with the CPU's bits, of one token or of many.

use super::SsdShape;
use super::overlap::{allow_shared, overlapping};
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Widest states that have kernels.
const STATES: [u32; 3] = [64, 128, 256];
/// Channels of a block of one token, and its threads.
const STEP: (u32, u32) = (16, 128);
/// Warps of a block of many tokens, and channels of a warp.
const PREFILL: (u32, u32) = (4, 4);
/// Threads of such a block: two warps more.
const PREFILL_THREADS: u32 = 32 * (PREFILL.0 + 2);
/// Steps whose b and c are copied together, and how many such copies there is room for; tokens whose inputs are prepared together, and how many such lots.
const ROOM: [u32; 4] = [8, 3, 32, 4];

/// State-space dual recurrences in the CPU's order.
#[derive(Clone, Debug)]
pub(super) struct ExactSsd {
    /// For states of each width.
    step: Vec<CudaFunction>,
    /// The same, over f32 and over f16; and whether their shared memory is to be had.
    prefill: Vec<([CudaFunction; 2], bool)>,
}

impl ExactSsd {
    /// Loads the kernels.
    pub(super) fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/exact_ssd.bin"))?;
        let step = STATES.iter().map(|states| module.function(&format!("exact_ssd_step_{states}"))).collect::<Result<_, _>>()?;
        let mut prefill = Vec::new();
        for states in STATES {
            let functions = [
                module.function(&format!("exact_ssd_prefill_{states}_f32"))?,
                module.function(&format!("exact_ssd_prefill_{states}_f16"))?,
            ];
            let most = functions.iter().map(|function| allow_shared(device, function)).collect::<Result<Vec<_>, _>>()?;
            prefill.push((functions, most.iter().all(|&most| most >= room_bytes(states))));
        }
        Ok(ExactSsd { step, prefill })
    }

    /// Queues it; `false`, and nothing done, for a shape that the kernels do not take.
    pub(super) fn run(&self, device: &Device, batch: &Batch, shape: &SsdShape) -> Result<bool, Error> {
        let SsdShape { x, b, c, out, head_dim, d_state, slot, .. } = *shape;
        let Some(kind) = STATES.iter().position(|&states| d_state <= states) else { return Ok(false) };
        let rows = shape.heads * batch.streams;
        if !batch.is_in_fours(&[x, out]) || !head_dim.is_multiple_of(4) || !batch.state.plus(slot).number().is_multiple_of(16) {
            return Ok(false);
        }
        if batch.tokens == 1 {
            overlapping!(device, &self.step[kind], (head_dim.div_ceil(STEP.0), rows), STEP.1, 0, *batch, *shape)?;
            return Ok(true);
        }
        let (functions, has_room) = &self.prefill[kind];
        if !has_room || !batch.is_in_fours(&[b, c]) || !d_state.is_multiple_of(4) {
            return Ok(false);
        }
        let (function, (warps, channels)) = (&functions[shape.is_half as usize], PREFILL);
        let grid = (head_dim.div_ceil(warps * channels), rows);
        overlapping!(device, function, grid, PREFILL_THREADS, room_bytes(STATES[kind]), *batch, *shape)?;
        Ok(true)
    }
}

/// `sizeof(SsdRoom)`.
fn room_bytes(states: u32) -> u32 {
    let (warps, channels) = PREFILL;
    let [tile, stages, lot, lots] = ROOM;
    let ring = lots * lot + tile;
    4 * (stages * tile * 2 * states + warps * ring * channels + ring + lots * lot + 2 * lot * warps * channels)
}
