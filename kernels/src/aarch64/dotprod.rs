//! Products by `sdot`: four products of 8-bit numbers added to 32 bits, for four rows at once.

use super::codes::{Codes, Lines, Planes};
use super::walk::{self, Int8, Products, Walk};
use crate::quant::{GROUP, Matrix, TILE_ROWS};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::aarch64::*;
use core::arch::asm;

/// See [`crate::portable::matmul`].
#[target_feature(enable = "neon,dotprod")]
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    // SAFETY: this function has the feature that `Dot` asks for.
    unsafe { walk::matmul::<Dot>(matrix, x, out) }
}

/// Cores with FEAT_DotProd.
pub(super) struct Dot;

impl Walk for Dot {
    #[inline(always)]
    unsafe fn walk<C: Codes>(planes: &Planes<'_, C>, x: Int8<'_>, out: RowsMut<'_>) {
        // SAFETY: the same demand.
        unsafe { walk::tile_rows::<Dot, C>(planes, x, out) }
    }
}

impl Products for Dot {
    const FEW: usize = 4;

    #[inline(always)]
    unsafe fn add<const N: usize>(sums: &mut [[int32x4_t; 4]; N], lines: impl Fn(usize) -> Lines, x: [&[i8; GROUP]; N]) {
        // SAFETY: 32 readable bytes each; the caller's promise is that of `sdot`.
        unsafe {
            let (mut first, mut second) = ([vdupq_n_s8(0); N], [vdupq_n_s8(0); N]);
            for t in 0..N {
                first[t] = vld1q_s8(x[t].as_ptr());
                second[t] = vld1q_s8(x[t].as_ptr().add(16));
            }
            add_lines::<N, 0, 1>(sums, lines(0), first);
            add_lines::<N, 2, 3>(sums, lines(1), first);
            add_lines::<N, 0, 1>(sums, lines(2), second);
            add_lines::<N, 2, 3>(sums, lines(3), second);
        }
    }
}

/// Two words, times words `FIRST` and `SECOND` of the sixteen codes of each vector.
///
/// # Safety
///
/// The CPU must have FEAT_DotProd.
#[inline(always)]
unsafe fn add_lines<const N: usize, const FIRST: i32, const SECOND: i32>(
    sums: &mut [[int32x4_t; 4]; N],
    [first, second]: Lines,
    x: [int8x16_t; N],
) {
    for j in 0..TILE_ROWS / 4 {
        for t in 0..N {
            // SAFETY: the same demand.
            sums[t][j] = unsafe { sdot::<FIRST>(sums[t][j], first[j], x[t]) };
        }
    }
    for j in 0..TILE_ROWS / 4 {
        for t in 0..N {
            // SAFETY: the same demand.
            sums[t][j] = unsafe { sdot::<SECOND>(sums[t][j], second[j], x[t]) };
        }
    }
}

/// `sum[i] + w[4 i] * x[4 LANE] + .. + w[4 i + 3] * x[4 LANE + 3]`.
///
/// # Safety
///
/// The CPU must have FEAT_DotProd.
#[inline(always)]
unsafe fn sdot<const LANE: i32>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches only its operands.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
