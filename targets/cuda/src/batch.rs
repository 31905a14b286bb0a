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

    /// One token of each stream. Without the times between tokens: what asks for single tokens does not know them.
    pub fn token(&self, token: u32) -> Batch {
        Batch {
            frames: self.frames.plus(4 * u64::from(token) * u64::from(self.stride)),
            gaps: Address::NULL,
            // One stream has no distance to the next.
            stride: if self.streams == 1 { self.stride } else { self.stride * self.tokens },
            tokens: 1,
            first: self.first + token * self.period,
            ..*self
        }
    }

    /// The tokens of one stream.
    pub fn stream(&self, stream: u32) -> Batch {
        let rows = u64::from(stream) * u64::from(self.tokens);
        Batch {
            frames: self.frames.plus(4 * rows * u64::from(self.stride)),
            state: self.state.plus(u64::from(stream) * self.state_stride),
            positions: self.positions.plus(8 * u64::from(stream)),
            gaps: if self.gaps == Address::NULL { Address::NULL } else { self.gaps.plus(4 * rows) },
            streams: 1,
            ..*self
        }
    }

    /// The tokens `first`, `first + period`, .. of the one stream, for a block whose first run is at step `start`.
    pub fn every(&self, first: u32, period: u32, start: u32) -> Batch {
        let tokens = (self.tokens - first).div_ceil(period);
        Batch {
            frames: self.frames.plus(4 * u64::from(first) * u64::from(self.stride)),
            gaps: Address::NULL,
            // A lone token has no distance to the next; several lie inside the frames, so that nothing overflows.
            stride: if tokens == 1 { self.stride } else { self.stride * period },
            tokens,
            first: self.first + first,
            start,
            period,
            ..*self
        }
    }

    /// Whether these operands, and all states, begin on multiples of 16 bytes.
    pub(crate) fn is_in_fours(&self, operands: &[u32]) -> bool {
        let are_frames = self.rows() == 1 || self.stride.is_multiple_of(4);
        are_frames && self.state_stride.is_multiple_of(16) && operands.iter().all(|&at| self.operand(at).number().is_multiple_of(16))
    }

    /// Where an operand begins in the first frame.
    pub fn operand(&self, at: u32) -> Address {
        self.frames.plus(4 * u64::from(at))
    }
}
