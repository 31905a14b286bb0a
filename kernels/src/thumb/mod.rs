//! Cortex-M cores with the DSP extension: two products an instruction, weights used where they lie.
//!
//! `build.rs` says which targets have it. The bits are the portable ones: integer sums are exact in any order, and the `f32` operations
//! on them are the same, in the same order.

mod dsp;
mod group;
mod q4;
mod q8;

pub(crate) use dsp::matmul;
