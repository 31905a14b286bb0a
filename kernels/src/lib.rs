//! Numeric kernels of Brooklet: loops over slices, and nothing else.
//!
//! This crate knows no file, no model and no plan. It has these parts:
//!
//! - [`quant`]: how weights lie in memory (tiles of 16 rows x 32 columns), with pack and unpack as the oracle;
//! - [`portable`]: the reference kernels, always built; every other back-end must give the same bits;
//! - `x86`: the same, compiled for wider registers (only handed out after the CPU was asked);
//! - `aarch64`: products by the vector instructions of 64-bit Arm cores;
//! - `thumb`: products in assembly for Cortex-M cores with the DSP extension;
//! - [`KernelTable`]: one plain function pointer per kernel, chosen once by [`detect`].
//!
//! # The numerics contract
//!
//! Outputs are the same bits on every CPU, so every `f32` sum has one order, written here and followed by each back-end:
//! integer dot products are exact per group of 32 columns; groups are added in ascending order; sums over a vector use
//! 16 partial sums and a fixed tree ([`portable::reduce`]). There is no fused multiply-add and no reassociation.
//! `docs/numerics.md` states it in full, with the error of the elementary functions.
#![no_std]
#![warn(missing_docs)]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[macro_use]
mod state;
#[macro_use]
mod table;
#[cfg(target_arch = "aarch64")]
mod aarch64;
mod detect;
pub mod portable;
pub mod quant;
#[cfg(feature = "std")]
mod read;
mod rows;
mod sqrt;
#[cfg(cortex_m_dsp)]
mod thumb;
#[cfg(all(target_arch = "x86_64", feature = "std"))]
mod x86;

pub use detect::{available, detect};
#[cfg(feature = "std")]
pub use read::read_all;
pub use rows::{Rows, RowsMut};
pub use state::StateMut;
#[cfg(feature = "narrow-states")]
pub use table::Int4;
pub use table::{
    Activations, Attention, Cache, Conv1d, DiagSsm, GatedDelta, Gru, KernelTable, Lstm, Norm, NormKind, RgLru, Rotary, Scan, Ssd, Stepping,
};
