//! The reference kernels: safe, scalar, in the order the numerics contract fixes.
//!
//! Rows or channels lie in lanes and sums run over the other axis, so that the compiler turns the inner loops into vector
//! code for whatever width it is told of, without changing a bit.

pub mod act;
mod attention;
mod conv;
mod diag;
mod gated_delta;
mod gates;
#[cfg(feature = "hadamard")]
mod hadamard;
#[cfg(feature = "narrow-states")]
pub mod int4;
mod matmul;
mod norm;
pub mod reduce;
mod rg_lru;
mod rotary;
mod scan;
mod ssd;
pub(crate) mod stored;
mod table;

/// Whether registers hold one number, as microcontrollers' do. It changes no bit, only what is done at once.
const SCALAR: bool = cfg!(any(target_arch = "arm", target_arch = "riscv32"));

#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) use attention::{LARGEST, Products, QUERY_GROUP, WEIGHT_GROUP};
pub(crate) use attention::{Plain, attend};
pub(crate) use conv::conv1d;
pub(crate) use diag::diag_step;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
pub(crate) use gated_delta::Head as DeltaHead;
pub(crate) use gated_delta::gated_delta_step;
pub(crate) use gates::{gru_step, lstm_step};
#[cfg(feature = "hadamard")]
pub(crate) use hadamard::hadamard;
pub(crate) use matmul::{SILENT, matmul, quantize_activations};
pub(crate) use norm::norm;
pub(crate) use rg_lru::rg_lru_step;
pub(crate) use rotary::rotate;
pub(crate) use scan::scan;
pub(crate) use ssd::ssd;
pub(crate) use table::PORTABLE;
#[cfg(any(cortex_m_dsp, target_arch = "aarch64"))]
pub(crate) use table::REFERENCE;
