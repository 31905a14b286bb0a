//! What enters a quantized matrix (`entering.cuh`).

use super::Rounded;
use crate::arena::Address;
use cudarc::driver::DeviceRepr;

/// Vectors for a product: as they are, made of others, or rounded before. `struct Entering` of the kernels.
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
    /// How the numbers come about.
    pub kind: EnteringKind,
    /// Groups normalised on their own, up to 64, each a multiple of 64 wide unless there is one.
    pub norm_groups: u32,
    /// Whether `eps` is added to the root instead of under it.
    pub eps_outside: u32,
    /// Added to the mean square.
    pub eps: f32,
}

impl Entering {
    /// Vectors rounded before.
    pub(crate) fn rounded(Rounded { codes, scales, sums }: Rounded) -> Self {
        Entering { codes, scales, sums, kind: EnteringKind::Rounded, ..Entering::default() }
    }

    /// Most groups that a norm may have.
    pub const MOST_NORMS: u32 = 64;

    /// Bytes of shared memory that a vector's values take: `struct Values` of the kernels. `None` when that overflows.
    pub(super) fn values_bytes(cols: u32) -> Option<u32> {
        (cols.div_ceil(64).checked_mul(4)?.checked_next_multiple_of(32)? + 4).checked_mul(64)
    }

    /// Whether a norm of `cols` numbers can have so many groups here.
    pub fn normalises(cols: u32, norm_groups: u32) -> bool {
        norm_groups == 1 || (norm_groups <= Self::MOST_NORMS && norm_groups != 0 && cols.is_multiple_of(64 * norm_groups))
    }
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
            kind: EnteringKind::Plain,
            norm_groups: 1,
            eps_outside: 0,
            eps: 0.0,
        }
    }
}

// SAFETY: the same fields in the same order as the kernels' struct, whose size is checked below.
unsafe impl DeviceRepr for Entering {}

const _: () = assert!(size_of::<Entering>() == 72);

/// How the numbers that enter come about: `enum EnteringKind` of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EnteringKind {
    /// Codes, scales and sums are there already.
    Rounded = 0,
    /// `x`.
    Plain = 1,
    /// `rms_norm(x) * weight`.
    Rms = 2,
    /// `rms_norm(x * silu(z)) * weight`.
    GatedRms = 3,
    /// `silu(x) * z`.
    SiluMultiply = 4,
}
