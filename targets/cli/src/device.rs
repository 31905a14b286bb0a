//! Where a model runs: on the CPU, or on a GPU if there is one.

use clap::ValueEnum;
#[cfg(feature = "cuda")]
use std::io::Write;

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
    if target == Target::Cpu {
        return None;
    }
    let opened = brooklet_cuda::Device::open(0);
    if target == Target::Auto { opened.ok() } else { ready(opened) }
}

/// What was made on a GPU; where it could not be, a line says why, and that the CPU goes on.
#[cfg(feature = "cuda")]
pub(crate) fn ready<T>(made: Result<T, brooklet_cuda::Error>) -> Option<T> {
    made.inspect_err(|error| {
        let _ = writeln!(std::io::stderr(), "{error}; this runs on the CPU");
    })
    .ok()
}

/// A model on the GPU that was asked for, or none: then the CPU goes on.
#[cfg(feature = "cuda")]
pub(crate) fn on_gpu<'m>(target: Target, model: &brooklet::Model<'m>) -> Option<brooklet_cuda::CudaModel<'m>> {
    let device = gpu(target)?;
    ready(brooklet_cuda::CudaModel::with(&device, model, target.arithmetic()))
}

/// The runtime's own errors as they are: some are no failures.
#[cfg(feature = "cuda")]
pub(crate) fn plain(error: brooklet_cuda::Error) -> anyhow::Error {
    match error {
        brooklet_cuda::Error::Model(error) => error.into(),
        error => error.into(),
    }
}

/// Whether a stream on a GPU has failed, not its input.
pub(crate) fn is_lost(error: &anyhow::Error) -> bool {
    #[cfg(feature = "cuda")]
    return error.chain().any(|cause| cause.is::<brooklet_cuda::Error>());
    #[cfg(not(feature = "cuda"))]
    {
        let _ = error;
        false
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
