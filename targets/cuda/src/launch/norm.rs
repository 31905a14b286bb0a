//! `norm.cu`: norms.

use super::{launch, threads};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Norms by groups.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Numbers wait in shared memory.
    kept: CudaFunction,
    /// They wait where they will be.
    in_place: CudaFunction,
}

/// Widest norm whose numbers are kept in shared memory: what a block has without asking for more, but for a sum.
const MOST_KEPT: u32 = (48 << 10) / 4 - 32;
/// Threads of a block: small enough that one's sum, which few threads add up, leaves room for others' loads.
const THREADS: u32 = 256;

/// Where the gate comes, `silu(z)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// There is none.
    None,
    /// Before the norm; the operand's place in a frame.
    First(u32),
    /// Behind it.
    Last(u32),
}

/// A norm's operands and parameters.
#[derive(Clone, Copy, Debug)]
pub struct NormShape {
    /// Statistics: the number of `brooklet::ops::NormKind`.
    pub kind: u32,
    /// Place of the input in a frame, (groups, width).
    pub x: u32,
    /// Place of the output; may be the input's.
    pub out: u32,
    /// The gate.
    pub gating: Gating,
    /// Groups normalised on their own.
    pub groups: u32,
    /// Numbers of a group.
    pub width: u32,
    /// (groups, width), or null.
    pub weight: Address,
    /// (groups, width), or null.
    pub bias: Address,
    /// Added to the mean square.
    pub eps: f32,
}

impl Norm {
    /// Loads the kernel.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/norm.bin"))?;
        Ok(Norm { kept: module.function("norm_kept")?, in_place: module.function("norm_in_place")? })
    }

    /// Normalises every row of the batch.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &NormShape) -> Result<(), Error> {
        let NormShape { kind, x, out, gating, groups, width, weight, bias, eps } = *shape;
        let (gating, z) = match gating {
            Gating::None => (0u32, x),
            Gating::First(z) => (1, z),
            Gating::Last(z) => (2, z),
        };
        let grid = (groups, batch.rows(), 1);
        let (kernel, shared_bytes) = if width <= MOST_KEPT { (&self.kept, 4 * width) } else { (&self.in_place, 0) };
        let threads = threads(width, THREADS);
        launch!(device, kernel, grid, threads, shared_bytes, *batch, x, out, z, width, weight, bias, kind, gating, eps)
    }
}
