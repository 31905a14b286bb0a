//! `round.cu`: what enters products of many vectors, made and rounded.

use super::{Entering, Rounded, launch, threads};
use crate::arena::Address;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Shared memory of a block without asking for more.
const SHARED_BYTES: u32 = 48 << 10;
/// Threads of a block: several blocks share a processor, so that one's loads go on while another adds up.
const THREADS: u32 = 256;

/// Rounds vectors, or norms or gates of them.
#[derive(Clone, Debug)]
pub struct Round {
    round_made: CudaFunction,
}

impl Round {
    /// Loads the kernel.
    pub fn load(device: &Device) -> Result<Self, Error> {
        Ok(Round { round_made: device.load(include_bytes!("../cubins/round.bin"))?.function("round_made")? })
    }

    /// Makes and rounds `vectors` vectors of `cols` numbers; where `gate` is 0, nothing.
    pub fn run(&self, device: &Device, vectors: u32, from: &Entering, cols: u32, to: Rounded, gate: Address) -> Result<(), Error> {
        let shared_bytes = Entering::values_bytes(cols).and_then(|bytes| bytes.checked_add(4 * Entering::MOST_NORMS));
        let fitting = shared_bytes.filter(|&bytes| bytes <= SHARED_BYTES && Entering::normalises(cols, from.norm_groups));
        let shared_bytes = fitting.ok_or(Error::Launch { what: "a norm of this many groups, or this wide," })?;
        let threads = threads(cols.div_ceil(4), THREADS);
        launch!(device, &self.round_made, (vectors, 1, 1), threads, shared_bytes, *from, cols, to.codes, to.scales, to.sums, gate)
    }
}
