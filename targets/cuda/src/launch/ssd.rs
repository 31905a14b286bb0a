//! `ssd.cu`: the state-space dual recurrence, in chunks on tensor cores or token by token.

use super::{SsdShape, queue_as, start};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};

/// Threads of a block that works in chunks.
const THREADS: u32 = 256;
/// Tokens of a chunk of f32 operands.
const CHUNK: u32 = 32;
/// Most channels of a head in a block.
const CHANNELS: u32 = 64;
/// Threads of a block that goes token by token, and its channels.
const SERIAL: (u32, u32) = (128, 16);

/// A kernel that works in chunks.
#[derive(Clone, Debug)]
struct Chunks {
    function: CudaFunction,
    /// Widest state.
    d_state: u32,
    /// Its blocks that fit on a processor at once; none if its shared memory does not.
    per_processor: u32,
}

/// State-space dual recurrences with `d_state` up to [`StateSpaceDual::MAX_STATE`].
#[derive(Clone, Debug)]
pub struct StateSpaceDual {
    /// Of one channel and of four a thread.
    serial: [CudaFunction; 2],
    /// From narrow states to wide.
    chunks: Vec<Chunks>,
}

/// How a sequence is cut, and what its pieces need to hand their states on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Pieces, each walked by blocks of its own.
    pub count: u32,
    /// Bytes of exchanged states.
    pub exchange_bytes: u64,
    /// Bytes of flags, which must be zero before the first launch.
    pub flag_bytes: u64,
}

impl StateSpaceDual {
    /// The widest state.
    pub const MAX_STATE: u32 = 256;

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/ssd.bin"))?;
        let serial = [module.function("ssd_serial_f32_1")?, module.function("ssd_serial_f32_4")?];
        let mut chunks = Vec::new();
        for d_state in [32, 64, 128, 256] {
            let function = module.function(&format!("ssd_prefill_f32_{d_state}"))?;
            let bytes = shared_bytes(d_state);
            // A processor with less shared memory than that goes token by token.
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let per_processor = match function.set_attribute(attribute, bytes as i32) {
                Ok(()) => function
                    .occupancy_max_active_blocks_per_multiprocessor(THREADS, bytes as usize, None)
                    .map_err(Error::driver("asking for a kernel's occupancy"))?,
                Err(_) => 0,
            };
            chunks.push(Chunks { function, d_state, per_processor });
        }
        Ok(StateSpaceDual { serial, chunks })
    }

    /// The kernel in chunks for a shape, if there is one.
    fn chunks_for(&self, shape: &SsdShape) -> Option<&Chunks> {
        self.chunks.iter().find(|kernel| kernel.d_state >= shape.d_state && kernel.per_processor > 0)
    }

    /// How sequences of so many tokens are best cut: so that all blocks fit on the machine at once.
    pub fn segments(&self, device: &Device, shape: &SsdShape, tokens: u32, streams: u32) -> Segments {
        let whole = Segments { count: 1, exchange_bytes: 0, flag_bytes: 0 };
        let Some(kernel) = self.chunks_for(shape) else { return whole };
        let blocks = shape.heads * shape.head_dim.div_ceil(CHANNELS) * streams;
        let count = (kernel.per_processor * device.processors() / blocks.max(1)).min(tokens.div_ceil(CHUNK)).min(MOST_SEGMENTS);
        if count < 2 {
            return whole;
        }
        let blocks = u64::from(blocks) * u64::from(count);
        let floats = blocks * u64::from(kernel.d_state / 16 * THREADS * 4) + blocks;
        Segments { count, exchange_bytes: 4 * floats, flag_bytes: 4 * (blocks + 1) }
    }

    /// The recurrence over the batch's tokens; `false`, and nothing done, if the state is wider than the kernels take. `exchange` and
    /// `flags` are as large as `segments` says.
    pub fn run(
        &self,
        device: &Device,
        batch: &Batch,
        shape: &SsdShape,
        segments: &Segments,
        [exchange, flags]: [Address; 2],
    ) -> Result<bool, Error> {
        if shape.d_state > Self::MAX_STATE {
            return Ok(false);
        }
        let chunks = if batch.tokens > SHORTEST { self.chunks_for(shape) } else { None };
        let (function, grid, threads, shared_bytes) = match chunks {
            Some(kernel) => {
                let grid = (shape.heads * segments.count, shape.head_dim.div_ceil(CHANNELS), batch.streams);
                (&kernel.function, grid, THREADS, shared_bytes(kernel.d_state))
            }
            None => {
                let in_fours = [shape.head_dim, shape.x, shape.out, batch.stride].iter().all(|n| n % 4 == 0);
                let in_fours = in_fours && [shape.slot, batch.state_stride].iter().all(|bytes| bytes % 16 == 0);
                let grid = (shape.head_dim.div_ceil(SERIAL.1), shape.heads, batch.streams);
                (&self.serial[usize::from(in_fours)], grid, SERIAL.0, 0)
            }
        };
        let count = if chunks.is_some() { segments.count } else { 1 };
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
        arguments.arg(&shape.heads).arg(&shape.head_dim).arg(&shape.groups).arg(&shape.d_state);
        arguments.arg(&count).arg(&exchange).arg(&flags).arg(&batch.gate);
        queue_as(&mut arguments, LaunchConfig { grid_dim: grid, block_dim: (threads, 1, 1), shared_mem_bytes: shared_bytes })?;
        Ok(true)
    }
}

/// Sequences up to this length go token by token.
const SHORTEST: u32 = 8;
/// More pieces cost more to join than they save.
const MOST_SEGMENTS: u32 = 8;

/// `sizeof(SsdShared)` of f32 operands, which are pairs of bf16.
fn shared_bytes(d_state: u32) -> u32 {
    let pairs = CHUNK * (3 * (d_state + 8) + 2 * (CHANNELS + 8) + (CHUNK + 8)) + CHANNELS * (d_state + 8);
    2 * 2 * pairs + 2 * 4 * CHUNK * 4
}
