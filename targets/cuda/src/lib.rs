//! Brooklet on Nvidia GPUs: the same `.brook` file, by kernels of its own.
//!
//! The road through this crate:
//!
//! 1. [`Device::open`] finds the driver and a GPU, or says in one line why it cannot; the caller goes on with the CPU.
//! 2. [`arena`] is all the memory that a session takes, allocated once.
//! 3. [`launch`] has one file for each file of kernels (`kernels/src/cuda/*.cu`), which were compiled beforehand (`build_cubins.py`).
//!
//! Nothing here is needed to build or to run on a machine without a GPU: the driver is looked for when it is asked for.
#![warn(missing_docs)]

pub mod arena;
mod bandwidth;
pub mod batch;
mod cubins;
mod device;
mod error;
mod fuse;
mod input;
pub mod launch;
mod model;
mod registered;
mod session;
mod tensors;

pub use bandwidth::copy_bytes_per_second;
pub use cudarc;
pub use device::{Device, Module};
pub use error::Error;
pub use model::{Arithmetic, CudaModel};
pub use session::{CudaSession, Options, Timed};
pub use tensors::{Matrix, format_number};
