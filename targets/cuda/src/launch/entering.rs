//! What enters a quantized matrix (`entering.cuh`).

use crate::arena::Address;
use cudarc::driver::DeviceRepr;

/// Vectors for a product: as they are, to be rounded, or rounded before. `struct Entering` of the kernels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entering {
    /// (vectors, cols)
    pub x: Address,
    /// (vectors, cols): the gate.
    pub z: Address,
    /// (cols): the norm's weights, or null.
    pub weight: Address,
    /// (vectors, groups * 32): codes rounded before.
    pub codes: Address,
    /// (vectors, groups)
    pub scales: Address,
    /// (vectors, groups)
    pub sums: Address,
    /// Numbers from one vector of `x` to the next.
    pub stride: u32,
    /// The same of `z`.
    pub z_stride: u32,
    /// Groups normalised on their own: each whole groups of 32 columns, unless there is one.
    pub norm_groups: u32,
    /// Whether `eps` is added to the root instead of under it.
    pub eps_outside: u32,
    /// Added to the mean square.
    pub eps: f32,
}

impl Default for Entering {
    fn default() -> Self {
        let null = Address::NULL;
        Entering {
            x: null,
            z: null,
            weight: null,
            codes: null,
            scales: null,
            sums: null,
            stride: 0,
            z_stride: 0,
            norm_groups: 1,
            eps_outside: 0,
            eps: 0.0,
        }
    }
}

// SAFETY: the same fields in the same order as the kernels' struct, whose size is checked below.
unsafe impl DeviceRepr for Entering {}

const _: () = assert!(size_of::<Entering>() == 72);

/// How the numbers that enter come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnteringKind {
    /// `x`.
    Plain,
    /// `rms_norm(x) * weight`.
    Rms,
    /// `rms_norm(x * silu(z)) * weight`.
    GatedRms,
    /// `rms_norm(x) * weight * silu(z)`.
    RmsGated,
    /// `silu(x) * z`.
    SiluMultiply,
}

impl EnteringKind {
    /// All of them.
    pub const ALL: [EnteringKind; 5] =
        [EnteringKind::Plain, EnteringKind::Rms, EnteringKind::GatedRms, EnteringKind::RmsGated, EnteringKind::SiluMultiply];

    /// The kernels' name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            EnteringKind::Plain => "plain",
            EnteringKind::Rms => "rms",
            EnteringKind::GatedRms => "gated_rms",
            EnteringKind::RmsGated => "rms_gated",
            EnteringKind::SiluMultiply => "silu_multiply",
        }
    }
}
