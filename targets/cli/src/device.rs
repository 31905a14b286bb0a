//! Where a model runs: on the CPU, or on a GPU if there is one.

use clap::ValueEnum;

/// `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// This machine's processor
    #[default]
    Cpu,
    /// An Nvidia GPU, with the CPU's bits; without one, the CPU, with a line that says so
    Cuda,
    /// The same in the order of sums that is fastest there: the last bits differ
    CudaFast,
    /// A GPU if there is one
    Auto,
}

/// The GPU that was asked for, or none.
#[cfg(feature = "cuda")]
pub(crate) fn gpu(target: Target) -> Option<brooklet_cuda::Device> {
    use std::io::Write;
    if target == Target::Cpu {
        return None;
    }
    match brooklet_cuda::Device::open(0) {
        Ok(device) => Some(device),
        Err(_) if target == Target::Auto => None,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}; this runs on the CPU");
            None
        }
    }
}

impl Target {
    /// How it adds up.
    #[cfg(feature = "cuda")]
    pub(crate) fn arithmetic(self) -> brooklet_cuda::Arithmetic {
        if self == Target::CudaFast { brooklet_cuda::Arithmetic::Fast } else { brooklet_cuda::Arithmetic::Exact }
    }
}

/// A build without the feature `cuda` has none.
#[cfg(not(feature = "cuda"))]
pub(crate) fn told_without_gpu(target: Target) {
    if matches!(target, Target::Cuda | Target::CudaFast) {
        eprintln!("this build has no kernels for GPUs (feature `cuda`); this runs on the CPU");
    }
}
