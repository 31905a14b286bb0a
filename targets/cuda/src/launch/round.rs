//! `round.cu`: norms and gates of vectors, rounded to int8.

use super::entering::{Entering, EnteringKind};
use super::overlap::overlapping;
use super::{Rounded, threads};
use crate::arena::Address;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Most norms in a vector.
const MOST_NORMS: u32 = 64;
/// Shared memory of a block without asking for more, of which the vectors' sums must fit in.
const SHARED_BYTES: u32 = 48 << 10;

/// Rounds vectors, or norms or gates of them.
#[derive(Clone, Debug)]
pub struct Round {
    kernels: Vec<CudaFunction>,
}

impl Round {
    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/round.bin"))?;
        let kernels = EnteringKind::ALL.iter().map(|kind| module.function(&format!("round_{}", kind.name()))).collect::<Result<_, _>>()?;
        Ok(Round { kernels })
    }

    /// Rounds `vectors` vectors of `cols` numbers. With several norms each takes whole groups of 32 columns, and there are at most 64.
    pub fn run(
        &self,
        device: &Device,
        vectors: u32,
        kind: EnteringKind,
        from: &Entering,
        cols: u32,
        to: Rounded,
        gate: Address,
    ) -> Result<(), Error> {
        let groups = cols.div_ceil(32);
        let shared_bytes = 4 * (groups.saturating_add(MOST_NORMS));
        let whole_norms = from.norm_groups == 1 || cols.is_multiple_of(from.norm_groups.max(1) * 32);
        if from.norm_groups == 0 || from.norm_groups > MOST_NORMS || !whole_norms || shared_bytes > SHARED_BYTES {
            return Err(Error::Launch { what: "a norm of this many groups, or this wide," });
        }
        let kernel = &self.kernels[kind as usize];
        overlapping!(device, kernel, (vectors, 1), threads(groups * 8, 512), shared_bytes, *from, cols, to.codes, to.scales, to.sums, gate)
    }
}
