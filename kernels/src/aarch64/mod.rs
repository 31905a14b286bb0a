//! Products by the vector instructions of 64-bit Arm cores. NEON is part of every one, so the portable kernels are vector code already;
//! what the compiler does not find by itself is written here: 8-bit products, look-ups of 4-bit codes, conversion of halves.
//!
//! | table | core has | a group of 32 columns takes |
//! |---|---|---|
//! | [`neon`] | any (Cortex-A53, A72) | widening products of pairs, 16 rows by 2 columns in 6 instructions |
//! | [`dotprod`] | FEAT_DotProd (A55, A76, Neoverse N1) | `sdot`: 4 rows by 4 columns |
//! | [`i8mm`] | FEAT_I8MM (A510, A715, Neoverse V1, N2) | `smmla`: 2 rows by 8 columns by 2 vectors; one vector by `sdot` |
//!
//! Stable Rust has no names yet for the last two instructions: they are assembly of one line.

mod codes;
mod conv;
#[cfg(feature = "std")]
mod dotprod;
mod floats;
#[cfg(feature = "std")]
mod i8mm;
mod lanes;
mod neon;
#[cfg(feature = "planes")]
mod planes;
mod round;
mod scan;
mod stored;
mod walk;

use crate::portable::REFERENCE;
use crate::table::KernelTable;

/// What needs no more than NEON.
const COMMON: KernelTable = KernelTable {
    quantize_activations: round::quantize_activations,
    conv1d: conv::conv1d,
    scan: scan::scan,
    ssd: stored::ssd,
    gated_delta_step: stored::gated_delta_step,
    ..REFERENCE
};
static NEON: KernelTable = KernelTable { name: "neon", matmul: neon::matmul, ..COMMON };
#[cfg(feature = "std")]
static DOTPROD: KernelTable = KernelTable { name: "dotprod", matmul: dotprod::matmul, ..COMMON };
#[cfg(feature = "std")]
static I8MM: KernelTable = KernelTable { name: "i8mm", matmul: i8mm::matmul, ..COMMON };

/// The NEON table: for every core, without asking.
pub(crate) fn neon() -> Option<&'static KernelTable> {
    Some(&NEON)
}

/// The table of cores with dot products.
#[cfg(feature = "std")]
pub(crate) fn dotprod() -> Option<&'static KernelTable> {
    std::arch::is_aarch64_feature_detected!("dotprod").then_some(&DOTPROD)
}

/// The table of cores with 8-bit matrix products.
#[cfg(feature = "std")]
pub(crate) fn i8mm() -> Option<&'static KernelTable> {
    (dotprod().is_some() && std::arch::is_aarch64_feature_detected!("i8mm")).then_some(&I8MM)
}
