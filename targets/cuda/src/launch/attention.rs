//! `attention.cu`, `attend.cu`: attention over a bounded cache.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr};

/// Widest head.
pub(crate) const MAX_HEAD_DIM: u32 = 512;
/// Positions whose weights are rounded together.
const WEIGHT_GROUP: u64 = 64;
/// Bytes of scores beyond which the rows of a batch are handled some at a time.
const ROOM_BYTES: u64 = 64 << 20;
/// Threads that sum values up, for 8-bit caches: several teams.
const GATHERING: u32 = 512;

/// Attention over a bounded cache.
#[derive(Clone, Debug)]
pub struct Attention {
    remember: CudaFunction,
    score: CudaFunction,
    weigh: CudaFunction,
    gather: CudaFunction,
    /// Of many tokens, in the order of [`DIMS`].
    attend: Vec<CudaFunction>,
}

/// Head dimensions for which many tokens have a kernel.
const DIMS: [u32; 4] = [32, 64, 96, 128];
/// Fewest tokens that it is for, and most that one block takes.
const MANY_TOKENS: u32 = 16;
const BLOCK_TOKENS: u32 = 64;

/// Operands: `struct AttentionShape` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct AttentionShape {
    pub q: u32,
    pub k: u32,
    pub v: u32,
    pub out: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub half: u32,
    pub kind: u32,
    pub capacity: u32,
    pub sink: u32,
    pub slides: u32,
    pub turns: Address,
    pub slot: u64,
    pub scale: f32,
}

/// Working space: `struct Room` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Room {
    scores: Address,
    codes: Address,
    scales: Address,
    totals: Address,
}

// SAFETY: the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for AttentionShape {}
// SAFETY: as above.
unsafe impl DeviceRepr for Room {}

impl AttentionShape {
    /// Bytes of scores, codes, scales and totals of one row.
    fn row_bytes(&self) -> [u64; 4] {
        let (heads, capacity) = (u64::from(self.heads), u64::from(self.capacity));
        [4 * heads * capacity, 2 * heads * capacity, 4 * heads * capacity.div_ceil(WEIGHT_GROUP), 4 * heads]
    }

    /// Rows that are handled at once.
    fn rows_at_once(&self, rows: u32) -> u32 {
        let bytes: u64 = self.row_bytes().iter().sum();
        (ROOM_BYTES / bytes.max(1)).clamp(1, u64::from(rows)) as u32
    }
}

impl Attention {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/attention.bin"))?;
        let function = |name| module.function(name);
        let many = device.load(include_bytes!("../cubins/attend.bin"))?;
        Ok(Attention {
            remember: function("remember")?,
            score: function("score")?,
            weigh: function("weigh")?,
            gather: function("gather")?,
            attend: DIMS.iter().map(|dim| many.function(&format!("attend_{dim}"))).collect::<Result<_, _>>()?,
        })
    }

    /// Bytes of working space for batches of up to `rows` rows.
    pub fn room_bytes(rows: u32, shape: &AttentionShape) -> u64 {
        let rows = u64::from(shape.rows_at_once(rows));
        shape.row_bytes().iter().map(|bytes| (rows * bytes).next_multiple_of(16)).sum()
    }

    /// Rotates, stores and attends. All tokens of a stream at once: the cache must hold them without letting go of one.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &AttentionShape, room: Address) -> Result<(), Error> {
        let rows = batch.rows();
        launch!(device, &self.remember, (shape.kv_heads + shape.heads, rows, 1), 32, 0, *batch, *shape)?;
        if let Some(attend) = self.of_many(batch, shape) {
            let grid = (shape.heads, batch.tokens.div_ceil(BLOCK_TOKENS), batch.streams);
            // Two stages of keys, values and their scales.
            let shared_bytes = 2 * WEIGHT_GROUP as u32 * (2 * (shape.head_dim + 16) + 8);
            return launch!(device, attend, grid, 128, shared_bytes, *batch, *shape);
        }
        let at_once = shape.rows_at_once(rows);
        let mut end = room;
        let [scores, codes, scales, totals] = shape.row_bytes().map(|bytes| {
            let part = end;
            end = end.plus((u64::from(at_once) * bytes).next_multiple_of(16));
            part
        });
        let room = Room { scores, codes, scales, totals };
        let team = shape.head_dim.next_multiple_of(32);
        let teams = if shape.kind == 1 { (GATHERING / team).max(1) } else { 1 };
        for first in (0..rows).step_by(at_once as usize) {
            let rows = at_once.min(rows - first);
            let grid = (shape.capacity.div_ceil(64), shape.heads, rows);
            launch!(device, &self.score, grid, 256, 4 * shape.head_dim.next_multiple_of(4), *batch, *shape, room, first)?;
            launch!(device, &self.weigh, (shape.heads, rows, 1), 256, 0, *batch, *shape, room, first)?;
            launch!(device, &self.gather, (shape.heads, rows, 1), teams * team, 4 * teams * team, *batch, *shape, room, first, team)?;
        }
        Ok(())
    }

    /// The kernel of many tokens, if there is one for these.
    fn of_many(&self, batch: &Batch, shape: &AttentionShape) -> Option<&CudaFunction> {
        let is_aligned = [shape.q, shape.out, batch.stride].iter().all(|at| at.is_multiple_of(4))
            && [batch.frames.number(), batch.state.number(), batch.state_stride, shape.slot].iter().all(|at| at.is_multiple_of(16));
        let of_dim = DIMS.iter().position(|&dim| dim == shape.head_dim)?;
        self.attend.get(of_dim).filter(|_| shape.kind == 1 && batch.tokens >= MANY_TOKENS && is_aligned)
    }
}
