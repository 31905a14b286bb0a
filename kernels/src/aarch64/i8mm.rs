//! Products by `smmla`: two rows by two vectors, eight columns at once. One vector alone goes by `sdot`.
//!
//! Sums stay as the instruction leaves them, (row 0, vector 0), (row 0, vector 1), (row 1, vector 0), (row 1, vector 1), until all groups
//! are added: scales and factors come in that order instead.

use super::codes::{Codes, Planes};
use super::dotprod::Dot;
use super::walk::{self, BATCH, Int8, Walk};
use crate::quant::{GROUP, Matrix, TILE_ROWS};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::aarch64::*;
use core::arch::asm;
use core::hint::black_box;

/// See [`crate::portable::matmul`].
#[target_feature(enable = "neon,dotprod,i8mm")]
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    // SAFETY: this function has the features that `MatrixProducts` asks for.
    unsafe { walk::matmul::<MatrixProducts>(matrix, x, out) }
}

/// Cores with FEAT_DotProd and FEAT_I8MM.
struct MatrixProducts;

/// Eight columns of a tile, two rows a register.
type Slab = [int8x16_t; TILE_ROWS / 2];

/// Sums of 16 rows, two rows by two vectors a register.
type PairSums = [float32x4_t; TILE_ROWS / 2];

impl Walk for MatrixProducts {
    #[inline(always)]
    unsafe fn walk<C: Codes>(planes: &Planes<'_, C>, x: Int8<'_>, mut out: RowsMut<'_>) {
        let vectors = x.vectors();
        if vectors == 1 {
            // SAFETY: `Dot` asks for a part of what this asks for.
            return unsafe { walk::tile_rows::<Dot, C>(planes, x, out) };
        }
        let tile_rows = planes.row_scales.iter().zip(planes.sub_scales.chunks_exact(x.groups)).zip(planes.tiles.chunks_exact(x.groups));
        for (i, ((row_scales, sub_scales), tiles)) in tile_rows.enumerate() {
            let row = i * TILE_ROWS;
            for first in (0..vectors).step_by(BATCH) {
                let last = vectors.min(first + BATCH) - 1;
                let pairs = (last - first) / 2 + 1;
                // SAFETY: NEON is part of every aarch64 core.
                let mut acc = [unsafe { [vdupq_n_f32(0.0); TILE_ROWS / 2] }; BATCH / 2];
                for (g, (tile, sub_scales)) in tiles.iter().zip(sub_scales).enumerate() {
                    // SAFETY: NEON is part of every aarch64 core.
                    let mut slabs = [unsafe { [vdupq_n_s8(0); TILE_ROWS / 2] }; 4];
                    for (k, slab) in slabs.iter_mut().enumerate() {
                        *slab = self::slab(&planes.codes, tile, k);
                    }
                    // In memory indeed: the sums take the registers.
                    let slabs = black_box(&slabs);
                    let scales = PairScales::new(&planes.codes, sub_scales);
                    let (twos, ones) = acc[..pairs].as_chunks_mut::<2>();
                    // SAFETY: vectors `first..=last` and group `g` are there; else the same demand.
                    unsafe {
                        for (i, acc) in twos.iter_mut().enumerate() {
                            add(acc, x, first + 4 * i, last, g, &scales, slabs);
                        }
                        if let [acc] = ones.as_chunks_mut::<1>().0 {
                            add(acc, x, first + 4 * twos.len(), last, g, &scales, slabs);
                        }
                    }
                }
                for (pair, acc) in acc.into_iter().enumerate().take(pairs) {
                    // SAFETY: NEON is part of every aarch64 core.
                    let sums = |turn: unsafe fn(float32x4_t, float32x4_t) -> float32x4_t| unsafe {
                        [turn(acc[0], acc[1]), turn(acc[2], acc[3]), turn(acc[4], acc[5]), turn(acc[6], acc[7])]
                    };
                    let t = first + 2 * pair;
                    walk::store(&mut out, t, row, sums(vuzp1q_f32), row_scales);
                    if t < last {
                        walk::store(&mut out, t + 1, row, sums(vuzp2q_f32), row_scales);
                    }
                }
            }
        }
    }
}

/// Columns `8 k..8 k + 8` of a tile: of two words with four rows each, the rows by pairs.
#[inline(always)]
fn slab<C: Codes>(codes: &C, tile: &C::Tile, k: usize) -> Slab {
    let [first, second] = codes.lines(tile, k);
    let mut slab = [first[0]; TILE_ROWS / 2];
    for j in 0..4 {
        // SAFETY: NEON is part of every aarch64 core.
        unsafe {
            let (first, second) = (vreinterpretq_s32_s8(first[j]), vreinterpretq_s32_s8(second[j]));
            slab[2 * j] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
            slab[2 * j + 1] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
        }
    }
    slab
}

/// What a group's sums begin with and are multiplied by, in the order of the sums.
struct PairScales {
    /// (8) x 2 rows, twice each: what the sum of activations counts for.
    offsets: [int16x8_t; TILE_ROWS / 4],
    /// (8) x 2 rows, twice each.
    factors: [float32x4_t; TILE_ROWS / 2],
}

impl PairScales {
    #[inline(always)]
    fn new<C: Codes>(codes: &C, sub_scales: &[i8; TILE_ROWS]) -> Self {
        let (offsets, factors) = codes.split(sub_scales);
        // SAFETY: NEON is part of every aarch64 core.
        unsafe {
            // Every row twice, then wider.
            let twice = |x: int8x16_t| {
                let (low, high) = (vzip1q_s8(x, x), vzip2q_s8(x, x));
                [vmovl_s8(vget_low_s8(low)), vmovl_high_s8(low), vmovl_s8(vget_low_s8(high)), vmovl_high_s8(high)]
            };
            let rows = twice(factors);
            let mut factors = [vdupq_n_f32(0.0); TILE_ROWS / 2];
            for j in 0..4 {
                factors[2 * j] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(rows[j])));
                factors[2 * j + 1] = vcvtq_f32_s32(vmovl_high_s16(rows[j]));
            }
            PairScales { offsets: twice(offsets), factors }
        }
    }

    /// `offsets * sum` for two vectors: the sum of 32 codes fits in 16 bits.
    #[inline(always)]
    fn begin(&self, sum0: i32, sum1: i32) -> [int32x4_t; TILE_ROWS / 2] {
        let [a, b, c, d] = self.offsets;
        // SAFETY: NEON is part of every aarch64 core.
        unsafe {
            let sums = vreinterpretq_s16_u32(vdupq_n_u32((sum0 as u32 & 0xffff) | ((sum1 as u32) << 16)));
            let low = vget_low_s16(sums);
            [
                vmull_s16(vget_low_s16(a), low),
                vmull_high_s16(a, sums),
                vmull_s16(vget_low_s16(b), low),
                vmull_high_s16(b, sums),
                vmull_s16(vget_low_s16(c), low),
                vmull_high_s16(c, sums),
                vmull_s16(vget_low_s16(d), low),
                vmull_high_s16(d, sums),
            ]
        }
    }
}

/// Adds one group of `N` pairs of vectors from `first` to their sums; the last pair may be the vector `last` twice.
///
/// # Safety
///
/// The CPU must have FEAT_I8MM, and the caller be compiled with it; `x` must have the group `g` and the vectors up to `last`.
#[inline(always)]
unsafe fn add<const N: usize>(
    acc: &mut [PairSums; N],
    x: Int8<'_>,
    first: usize,
    last: usize,
    g: usize,
    scales: &PairScales,
    slabs: &[Slab; 4],
) {
    // SAFETY: the caller's promise; NEON is part of every aarch64 core.
    unsafe {
        let (mut isums, mut codes, mut group_scales) = ([scales.begin(0, 0); N], [[vdupq_n_s8(0); 4]; N], [vdupq_n_f32(0.0); N]);
        for p in 0..N {
            let t = first + 2 * p;
            let (codes0, scale0, sum0) = x.group(t, g);
            let (codes1, scale1, sum1) = x.group(last.min(t + 1), g);
            isums[p] = scales.begin(sum0, sum1);
            codes[p] = columns(codes0, codes1);
            let scale = vset_lane_f32::<1>(scale1, vdup_n_f32(scale0));
            group_scales[p] = vcombine_f32(scale, scale);
        }
        for k in 0..4 {
            for j in 0..TILE_ROWS / 2 {
                for p in 0..N {
                    isums[p][j] = smmla(isums[p][j], slabs[k][j], codes[p][k]);
                }
            }
        }
        for p in 0..N {
            for j in 0..TILE_ROWS / 2 {
                // Integers below 2^24: the product of the floats is that of the integers, rounded once.
                let product = vmulq_f32(vcvtq_f32_s32(isums[p][j]), scales.factors[j]);
                acc[p][j] = vaddq_f32(acc[p][j], vmulq_f32(product, group_scales[p]));
            }
        }
    }
}

/// Eight columns a register, of two vectors.
#[inline(always)]
fn columns(x0: &[i8; GROUP], x1: &[i8; GROUP]) -> [int8x16_t; 4] {
    // SAFETY: 32 readable bytes each; NEON is part of every aarch64 core.
    unsafe {
        let load = |x: &[i8; GROUP], at: usize| vreinterpretq_s64_s8(vld1q_s8(x.as_ptr().add(at)));
        let (a0, a1, b0, b1) = (load(x0, 0), load(x1, 0), load(x0, 16), load(x1, 16));
        [
            vreinterpretq_s8_s64(vzip1q_s64(a0, a1)),
            vreinterpretq_s8_s64(vzip2q_s64(a0, a1)),
            vreinterpretq_s8_s64(vzip1q_s64(b0, b1)),
            vreinterpretq_s8_s64(vzip2q_s64(b0, b1)),
        ]
    }
}

/// `sum[2 r + t] + a[r][0] * b[t][0] + .. + a[r][7] * b[t][7]`, two rows by two vectors.
///
/// # Safety
///
/// The CPU must have FEAT_I8MM.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; the instruction touches only its operands.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
