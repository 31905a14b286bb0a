//! Kernels with their launches: one file for each source in `kernels/src/cuda`.
//!
//! A launcher loads its source's kernels once; its functions queue one kernel each on the device's stream. Addresses come from an
//! [`crate::arena::Arena`], spans and shapes from a checked program.

mod attention;
mod cluster;
mod diag_ssm;
mod elementwise;
mod entering;
mod exact_conv;
mod exact_delta;
mod exact_lru;
mod exact_scan;
mod exact_ssd;
mod gates;
mod head;
mod input;
mod matmul;
mod matmul_float;
mod matvec;
mod memory;
mod moe;
mod multiply;
mod norm;
mod overlap;
mod product;
mod round;
mod route;
mod scan;
mod ssd;
mod walk;

pub(crate) use attention::MAX_HEAD_DIM;
pub use attention::{Attention, AttentionShape};
pub use diag_ssm::{DiagShape, DiagSsm};
pub use elementwise::{Elementwise, Pairwise};
pub use entering::{Entering, EnteringKind};
pub use gates::Gates;
pub use head::{Draw, Head, MOST_CANDIDATES};
pub use input::{Input, StandIn};
pub use matmul::Matmul;
pub use matmul_float::MatmulFloat;
pub use matvec::Matvec;
pub use memory::Memory;
pub(crate) use moe::MAX_EXPERTS;
pub use moe::{Moe, RouterShape};
pub use multiply::{Multiply, Outcome, Rounded, Vectors, Which};
pub use norm::{Gating, Norm, NormShape};
pub use product::{After, MOST_TAPS, Product};
pub use round::Round;
pub use route::Route;
pub(crate) use route::{ENTRY_BYTES, GATE_AT};
pub use scan::SelectiveScan;
pub use ssd::StateSpaceDual;
pub use walk::{ConvShape, DeltaShape, ScanShape, SsdShape, Walk};

use crate::device::Device;
use crate::error::Error;
use cudarc::driver::{CudaFunction, LaunchArgs, LaunchConfig};

/// Threads of a block that shares `items` pieces of work: whole warps.
pub(crate) fn threads(items: u32, most: u32) -> u32 {
    items.next_multiple_of(32).clamp(32, most)
}

/// Starts a launch of `function`.
pub(crate) fn start<'a>(device: &'a Device, function: &'a CudaFunction) -> LaunchArgs<'a> {
    device.stream().launch_builder(function)
}

/// Queues a kernel whose arguments were added in the order of its parameters.
pub(crate) fn queue(launch: &mut LaunchArgs<'_>, grid: (u32, u32, u32), block: u32, shared_bytes: u32) -> Result<(), Error> {
    queue_as(launch, LaunchConfig { grid_dim: grid, block_dim: (block, 1, 1), shared_mem_bytes: shared_bytes })
}

/// The same for a block of two dimensions.
pub(crate) fn queue_as(launch: &mut LaunchArgs<'_>, config: LaunchConfig) -> Result<(), Error> {
    // SAFETY: a launcher gives its kernel's parameters in order and in type, addresses of an arena, and spans that lie in the frame: the
    // program was checked when it was loaded.
    unsafe { launch.launch(config) }.map(|_| ()).map_err(Error::driver("starting a kernel"))
}

/// Queues a kernel: `launch!(device, function, grid, threads, shared bytes, arguments..)`.
macro_rules! launch {
    ($device:expr, $function:expr, $grid:expr, $threads:expr, $shared_bytes:expr, $($argument:expr),+ $(,)?) => {{
        #[allow(unused_imports)]
        use cudarc::driver::PushKernelArg;
        $crate::launch::queue($crate::launch::start($device, $function)$(.arg(&$argument))+, $grid, $threads, $shared_bytes)
    }};
}
pub(crate) use launch;
