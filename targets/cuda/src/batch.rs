//! What kernels work on: `struct Batch` of `kernels/src/cuda/common.cuh`.

use crate::arena::Address;
use cudarc::driver::DeviceRepr;

/// Consecutive tokens of one stream, or of several; see `common.cuh` for each field.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Batch {
    /// (streams * tokens, stride) numbers.
    pub frames: Address,
    /// (streams, state_stride) bytes.
    pub state: Address,
    /// (streams) `u64`: position of each stream's first token of the whole batch.
    pub positions: Address,
    /// A `u64` in a routed block: positions that its caches hold.
    pub cached: Address,
    /// (rows): time before each token in steps of the model's own rate; null for 1.
    pub gaps: Address,
    /// A `u32` in a routed block: 0 if the token does not enter it.
    pub gate: Address,
    /// Bytes from one stream's state to the next.
    pub state_stride: u64,
    /// Numbers from frame to frame.
    pub stride: u32,
    /// Tokens of each stream.
    pub tokens: u32,
    /// Streams.
    pub streams: u32,
    /// Number in the whole batch of the first token here.
    pub first: u32,
    /// Step of the first run of a block with a rate of its own.
    pub start: u32,
    /// Steps from one run of it to the next.
    pub period: u32,
}

// SAFETY: the same fields in the same order as the kernels' struct, which is checked below.
unsafe impl DeviceRepr for Batch {}

const _: () = assert!(size_of::<Batch>() == 7 * 8 + 6 * 4);

impl Batch {
    /// Tokens in all.
    pub fn rows(&self) -> u32 {
        self.tokens * self.streams
    }
}
