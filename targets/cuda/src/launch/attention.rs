//! `attention.cu`: attention over a bounded cache.

use super::launch;
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, DeviceRepr};

/// Widest head.
pub(crate) const MAX_HEAD_DIM: u32 = 512;
/// Positions that make up a part worth a block of its own.
const PART: u32 = 256;
/// Most parts of a cache.
const MAX_PARTS: u32 = 64;

/// Attention over a bounded cache.
#[derive(Clone, Debug)]
pub struct Attention {
    remember: CudaFunction,
    /// By width of a head: 32, 64, 128, 256, 512.
    attend: [CudaFunction; 5],
    join: CudaFunction,
}

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

// SAFETY: the same fields in the same order as the kernels' struct.
unsafe impl DeviceRepr for AttentionShape {}

/// Parts into which a cache is cut so that its heads keep the whole GPU busy.
fn parts(device: &Device, rows: u32, shape: &AttentionShape) -> u32 {
    let busy = (4 * device.processors()).div_ceil((rows * shape.heads).max(1));
    busy.min(shape.capacity.div_ceil(PART)).clamp(1, MAX_PARTS)
}

impl Attention {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/attention.bin"))?;
        let function = |name| module.function(name);
        let attend =
            [function("attend_32")?, function("attend_64")?, function("attend_128")?, function("attend_256")?, function("attend_512")?];
        Ok(Attention { remember: function("remember")?, attend, join: function("join")? })
    }

    /// Bytes of working space for the parts of a cache, batches of up to `rows` rows.
    pub fn parts_bytes(device: &Device, rows: u32, shape: &AttentionShape) -> u64 {
        let most = (1..=rows).map(|rows| u64::from(rows) * u64::from(parts(device, rows, shape))).max().unwrap_or(1);
        most * u64::from(shape.heads) * u64::from(2 + shape.head_dim) * 4
    }

    /// Rotates, stores and attends. All tokens of a stream at once: the cache must hold them without letting go of one.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &AttentionShape, room: Address) -> Result<(), Error> {
        let rows = batch.rows();
        launch!(device, &self.remember, (shape.kv_heads + shape.heads, rows, 1), 32, 0, *batch, *shape)?;
        let count = parts(device, rows, shape);
        let width = (shape.head_dim.div_ceil(32).next_power_of_two().ilog2() as usize).min(self.attend.len() - 1);
        let shared_bytes = 4 * (2 + shape.head_dim) * 4;
        launch!(device, &self.attend[width], (shape.heads, rows, count), 128, shared_bytes, *batch, *shape, room)?;
        if count > 1 {
            launch!(device, &self.join, (shape.heads, rows, 1), 128, 0, *batch, *shape, room, count)?;
        }
        Ok(())
    }
}
