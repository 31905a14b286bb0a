//! Products on cores without dot products: pairs of 8-bit products in 16 bits, pairs of those added to 32.

use super::codes::{Codes, Lines, Planes};
use super::walk::{self, Int8, Products, Walk};
use crate::quant::{GROUP, Matrix};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::aarch64::*;
use core::arch::asm;

/// See [`crate::portable::matmul`].
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    // SAFETY: `Pairs` asks for nothing beyond NEON.
    unsafe { walk::matmul::<Pairs>(matrix, x, out) }
}

/// Every aarch64 core.
struct Pairs;

impl Walk for Pairs {
    #[inline(always)]
    unsafe fn walk<C: Codes>(planes: &Planes<'_, C>, x: Int8<'_>, out: RowsMut<'_>) {
        // SAFETY: nothing is asked for.
        unsafe { walk::tile_rows::<Pairs, C>(planes, x, out) }
    }
}

impl Products for Pairs {
    const FEW: usize = 1;

    #[inline(always)]
    unsafe fn add<const N: usize>(sums: &mut [[int32x4_t; 4]; N], lines: impl Fn(usize) -> Lines, x: [&[i8; GROUP]; N]) {
        for (sums, x) in sums.iter_mut().zip(x) {
            let (words, _) = x.as_chunks::<4>();
            // SAFETY: NEON is part of every aarch64 core, and no pointer is involved.
            unsafe {
                // Of four columns, the sums of the first two and of the last two: rows (0, 1), (2, 3), ..
                let mut pairs = [vdupq_n_s32(0); 8];
                for k in 0..4 {
                    let [first, second] = lines(k);
                    let (x0, x1) = (repeat(&words[2 * k]), repeat(&words[2 * k + 1]));
                    for j in 0..4 {
                        // Two products of at most 128 * 127 fit in 16 bits.
                        let low = vmull_s8(vget_low_s8(first[j]), vget_low_s8(x0));
                        let low = vmlal_s8(low, vget_low_s8(second[j]), vget_low_s8(x1));
                        let high = upper_products(first[j], x0, second[j], x1);
                        pairs[2 * j] = vpadalq_s16(pairs[2 * j], low);
                        pairs[2 * j + 1] = vpadalq_s16(pairs[2 * j + 1], high);
                    }
                }
                for j in 0..4 {
                    sums[j] = vaddq_s32(sums[j], vpaddq_s32(pairs[2 * j], pairs[2 * j + 1]));
                }
            }
        }
    }
}

/// `a[i] * x[i] + b[i] * y[i]` of the upper halves. Where `x` repeats itself the compiler takes its lower half instead, and moves `a` and
/// `b` down with an instruction each.
#[inline(always)]
fn upper_products(a: int8x16_t, x: int8x16_t, b: int8x16_t, y: int8x16_t) -> int16x8_t {
    let sum: int16x8_t;
    // SAFETY: NEON is part of every aarch64 core; the instructions touch only their operands.
    unsafe {
        asm!(
            "smull2 {sum:v}.8h, {a:v}.16b, {x:v}.16b",
            "smlal2 {sum:v}.8h, {b:v}.16b, {y:v}.16b",
            sum = out(vreg) sum, a = in(vreg) a, x = in(vreg) x, b = in(vreg) b, y = in(vreg) y,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Four codes, once for each of four rows.
#[inline(always)]
fn repeat(x: &[i8; 4]) -> int8x16_t {
    // SAFETY: NEON is part of every aarch64 core.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(|x| x as u8)))) }
}
