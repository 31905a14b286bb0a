//! Cortex-M cores with the DSP extension: two products an instruction, weights used where they lie.
//!
//! `build.rs` says which targets have it. The bits are the portable ones: integer sums are exact in any order, and the `f32` operations
//! on them are the same, in the same order.

/// The assembly of whole functions begins without the features that the target has beyond its architecture.
#[cfg(not(cortex_m_v8))]
macro_rules! features {
    () => {
        ".fpu fpv4-sp-d16"
    };
}
#[cfg(cortex_m_v8)]
macro_rules! features {
    () => {
        ".cpu cortex-m33"
    };
}

mod dsp;
mod group;
#[cfg(cortex_m_helium)]
pub(crate) mod helium;
mod q4;
mod q8;
mod round;

pub(crate) use dsp::matmul;
pub(crate) use round::quantize_activations;
