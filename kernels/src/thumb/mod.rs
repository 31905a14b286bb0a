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
mod helium;
mod q4;
mod q8;
mod round;

use crate::portable::REFERENCE;
use crate::table::KernelTable;

/// The table of a core with the DSP extension: the target says so, nothing is to be asked.
pub(crate) static DSP: KernelTable =
    KernelTable { name: "cortex-m dsp", matmul: dsp::matmul, quantize_activations: round::quantize_activations, ..REFERENCE };

/// The table of a core with Helium.
#[cfg(cortex_m_helium)]
pub(crate) static HELIUM: KernelTable =
    KernelTable { name: "cortex-m helium", matmul: helium::matmul, quantize_activations: round::quantize_activations, ..REFERENCE };
