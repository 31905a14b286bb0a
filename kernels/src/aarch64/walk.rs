//! The walk over a matrix of 8-bit products: tile rows, batches of vectors, groups. How a core multiplies is [`Products`].

use super::codes::{Codes, Lines, Planes};
use super::floats;
#[cfg(feature = "planes")]
use crate::quant;
use crate::quant::{GROUP, Matrix, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::aarch64::*;
use core::hint::black_box;

/// Vectors that share one look at a tile: the more, the fewer times its codes are expanded. Their sums lie on the stack.
pub(super) const BATCH: usize = 32;

/// Sums of 16 rows.
pub(super) type Sums = [float32x4_t; 4];

/// The int8 vectors of one product.
#[derive(Clone, Copy)]
pub(super) struct Int8<'a> {
    /// (vectors, groups)
    codes: &'a [[i8; GROUP]],
    /// (vectors, groups)
    scales: &'a [f32],
    /// (vectors, groups)
    sums: &'a [i32],
    pub(super) groups: usize,
}

impl<'a> Int8<'a> {
    /// Whole vectors in all three planes.
    pub(super) fn vectors(&self) -> usize {
        self.codes.len().min(self.scales.len()).min(self.sums.len()) / self.groups
    }

    /// Group `g` of vector `t`: codes, scale, sum of codes.
    ///
    /// # Safety
    ///
    /// `t` must be below `vectors()`, `g` below `groups`.
    #[inline(always)]
    pub(super) unsafe fn group(&self, t: usize, g: usize) -> (&'a [i8; GROUP], f32, i32) {
        let at = t * self.groups + g;
        // SAFETY: the caller's promise.
        unsafe { (self.codes.get_unchecked(at), *self.scales.get_unchecked(at), *self.sums.get_unchecked(at)) }
    }
}

/// A core's way through the planes of a matrix.
pub(super) trait Walk {
    /// `out[t] = matrix * x[t]`.
    ///
    /// # Safety
    ///
    /// The CPU must have the features of the implementation, and the caller be compiled with them.
    unsafe fn walk<C: Codes>(planes: &Planes<'_, C>, x: Int8<'_>, out: RowsMut<'_>);
}

/// A core's way to multiply a tile by vectors.
pub(super) trait Products {
    /// Vectors that share the registers with codes straight from the tile; more of them find it expanded in memory.
    const FEW: usize;

    /// Adds the exact products of 16 rows with `N` vectors.
    ///
    /// # Safety
    ///
    /// As for [`Walk::walk`].
    unsafe fn add<const N: usize>(sums: &mut [[int32x4_t; 4]; N], lines: impl Fn(usize) -> Lines, x: [&[i8; GROUP]; N]);
}

/// See [`crate::portable::matmul`].
///
/// # Safety
///
/// As for [`Walk::walk`].
#[inline(always)]
pub(super) unsafe fn matmul<W: Walk>(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    // Nothing to sum without a column.
    let groups = matrix.groups().max(1);
    match (&matrix.weights, x) {
        (Weights::Q8(q), Activations::Int8 { codes, scales, sums }) => {
            let x = Int8 { codes: codes.as_chunks().0, scales, sums, groups };
            // SAFETY: the same demand.
            unsafe { W::walk(&Planes::from(*q), x, out) }
        }
        (Weights::Q4(q), Activations::Int8 { codes, scales, sums }) => {
            let x = Int8 { codes: codes.as_chunks().0, scales, sums, groups };
            // SAFETY: the same demand.
            unsafe { W::walk(&Planes::from(*q), x, out) }
        }
        #[cfg(feature = "planes")]
        (Weights::Planes(planes), Activations::Int8 { codes, scales, sums }) => {
            let x = Int8 { codes: codes.as_chunks().0, scales, sums, groups };
            // SAFETY: the same demand.
            unsafe {
                match *planes {
                    quant::Planes::Q3(q) => W::walk(&Planes::from(q), x, out),
                    quant::Planes::Q5(q) => W::walk(&Planes::from(q), x, out),
                    quant::Planes::Q6(q) => W::walk(&Planes::from(q), x, out),
                    quant::Planes::T2(q) => W::walk(&Planes::from(q), x, out),
                }
            }
        }
        (Weights::F32(words), Activations::Float { x, stride }) => floats::tile_rows(words, groups, x, stride, out),
        (Weights::F16(words), Activations::Float { x, stride }) => floats::tile_rows(words, groups, x, stride, out),
        // The executor asks `Format::is_quantized` which kind to prepare.
        _ => {}
    }
}

/// What a group's sums begin with and are multiplied by.
struct Scales {
    /// (16): what the sum of activations counts for.
    offsets: [int16x8_t; 2],
    /// (16)
    factors: [float32x4_t; 4],
}

impl Scales {
    #[inline(always)]
    fn new<C: Codes>(codes: &C, sub_scales: &[i8; TILE_ROWS]) -> Self {
        let (offsets, factors) = codes.split(sub_scales);
        // SAFETY: NEON is part of every aarch64 core.
        unsafe {
            let (low, high) = (vmovl_s8(vget_low_s8(factors)), vmovl_high_s8(factors));
            Scales {
                offsets: [vmovl_s8(vget_low_s8(offsets)), vmovl_high_s8(offsets)],
                factors: [
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                    vcvtq_f32_s32(vmovl_high_s16(low)),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                    vcvtq_f32_s32(vmovl_high_s16(high)),
                ],
            }
        }
    }

    /// `offsets * sum`: the sum of 32 codes fits in 16 bits.
    #[inline(always)]
    fn begin(&self, sum: i32) -> [int32x4_t; 4] {
        let [low, high] = self.offsets;
        let sum = sum as i16;
        // SAFETY: NEON is part of every aarch64 core.
        unsafe {
            [
                vmull_n_s16(vget_low_s16(low), sum),
                vmull_high_n_s16(low, sum),
                vmull_n_s16(vget_low_s16(high), sum),
                vmull_high_n_s16(high, sum),
            ]
        }
    }

    /// `acc + (isum * factor) * scale`. Integers below 2^24 times a factor: the product of the floats is that of the integers, rounded
    /// once.
    #[inline(always)]
    fn add(&self, acc: &mut Sums, isum: [int32x4_t; 4], scale: f32) {
        for j in 0..4 {
            // SAFETY: NEON is part of every aarch64 core.
            unsafe {
                let p = vmulq_f32(vcvtq_f32_s32(isum[j]), self.factors[j]);
                acc[j] = vaddq_f32(acc[j], vmulq_n_f32(p, scale));
            }
        }
    }
}

/// `out[t] = matrix * x[t]`, a tile row after the other.
///
/// # Safety
///
/// As for [`Walk::walk`].
#[inline(always)]
pub(super) unsafe fn tile_rows<P: Products, C: Codes>(planes: &Planes<'_, C>, x: Int8<'_>, mut out: RowsMut<'_>) {
    let vectors = x.vectors();
    let tile_rows = planes.row_scales.iter().zip(planes.sub_scales.chunks_exact(x.groups)).zip(planes.tiles.chunks_exact(x.groups));
    for (i, ((row_scales, sub_scales), tiles)) in tile_rows.enumerate() {
        let row = i * TILE_ROWS;
        if vectors == 1 {
            // SAFETY: there is a vector 0; else the same demand.
            let acc = unsafe { one::<P, C>(&planes.codes, sub_scales, tiles, x) };
            store(&mut out, 0, row, acc, row_scales);
            continue;
        }
        for first in (0..vectors).step_by(BATCH) {
            let len = (vectors - first).min(BATCH);
            // SAFETY: NEON is part of every aarch64 core.
            let mut acc = [unsafe { [vdupq_n_f32(0.0); 4] }; BATCH];
            for (g, (tile, sub_scales)) in tiles.iter().zip(sub_scales).enumerate() {
                let scales = Scales::new(&planes.codes, sub_scales);
                // SAFETY: vectors `first..first + len` are there; else the same demand.
                unsafe {
                    if C::AS_STORED || len <= P::FEW {
                        batch::<P>(&mut acc[..len], x, first, g, &scales, |k| planes.codes.lines(tile, k));
                    } else {
                        let mut expanded = [[[vdupq_n_s8(0); 4]; 2]; 4];
                        for (k, lines) in expanded.iter_mut().enumerate() {
                            *lines = planes.codes.lines(tile, k);
                        }
                        // In memory indeed: the sums take the registers.
                        let expanded = black_box(&expanded);
                        batch::<P>(&mut acc[..len], x, first, g, &scales, |k| expanded[k]);
                    }
                }
            }
            for (t, acc) in acc.into_iter().enumerate().take(len) {
                store(&mut out, first + t, row, acc, row_scales);
            }
        }
    }
}

/// The sums of one tile row and the one vector there is.
///
/// # Safety
///
/// As for [`Walk::walk`]; `x` must have a vector.
#[inline(always)]
unsafe fn one<P: Products, C: Codes>(codes: &C, sub_scales: &[[i8; TILE_ROWS]], tiles: &[C::Tile], x: Int8<'_>) -> Sums {
    // SAFETY: NEON is part of every aarch64 core.
    let mut acc = unsafe { [vdupq_n_f32(0.0); 4] };
    for (g, (tile, sub_scales)) in tiles.iter().zip(sub_scales).enumerate() {
        let scales = Scales::new(codes, sub_scales);
        // SAFETY: there are as many groups as tiles; else the same demand.
        let (x, scale, sum) = unsafe { x.group(0, g) };
        let mut isum = [scales.begin(sum)];
        // SAFETY: the same demand.
        unsafe { P::add(&mut isum, |k| codes.lines(tile, k), [x]) };
        scales.add(&mut acc, isum[0], scale);
    }
    acc
}

/// Adds one group of the vectors from `first` to their sums, four vectors at a time.
///
/// # Safety
///
/// As for [`Walk::walk`]; `x` must have the vectors `first..first + acc.len()` and the group `g`.
#[inline(always)]
unsafe fn batch<P: Products>(acc: &mut [Sums], x: Int8<'_>, first: usize, g: usize, scales: &Scales, lines: impl Fn(usize) -> Lines) {
    let (fours, rest) = acc.as_chunks_mut::<4>();
    let behind = first + 4 * fours.len();
    for (i, acc) in fours.iter_mut().enumerate() {
        // SAFETY: the same demands.
        unsafe { block::<P, 4>(acc, x, first + 4 * i, g, scales, &lines) };
    }
    let (twos, ones) = rest.as_chunks_mut::<2>();
    if let [acc] = twos {
        // SAFETY: the same demands.
        unsafe { block::<P, 2>(acc, x, behind, g, scales, &lines) };
    }
    if let [acc] = ones.as_chunks_mut::<1>().0 {
        // SAFETY: the same demands.
        unsafe { block::<P, 1>(acc, x, behind + 2 * twos.len(), g, scales, &lines) };
    }
}

/// Adds one group of `N` vectors to their sums.
///
/// # Safety
///
/// As for [`batch`].
#[inline(always)]
unsafe fn block<P: Products, const N: usize>(
    acc: &mut [Sums; N],
    x: Int8<'_>,
    first: usize,
    g: usize,
    scales: &Scales,
    lines: &impl Fn(usize) -> Lines,
) {
    let mut codes = [&[0; GROUP]; N];
    let mut group_scales = [0.0; N];
    let mut isums = [scales.begin(0); N];
    for t in 0..N {
        let sum;
        // SAFETY: the caller's promise.
        (codes[t], group_scales[t], sum) = unsafe { x.group(first + t, g) };
        isums[t] = scales.begin(sum);
    }
    // SAFETY: the caller's promise.
    unsafe { P::add(&mut isums, lines, codes) };
    for t in 0..N {
        scales.add(&mut acc[t], isums[t], group_scales[t]);
    }
}

/// Scales and writes the sums of vector `t` with the rows from `row`.
#[inline(always)]
pub(super) fn store(out: &mut RowsMut<'_>, t: usize, row: usize, acc: Sums, row_scales: &[f32; TILE_ROWS]) {
    let Some(out) = out.row_mut(t).get_mut(row..) else { return };
    let mut y = [0.0; TILE_ROWS];
    for j in 0..4 {
        // SAFETY: four floats from `4 * j` are in both arrays; NEON is part of every aarch64 core.
        unsafe { vst1q_f32(y.as_mut_ptr().add(4 * j), vmulq_f32(acc[j], vld1q_f32(row_scales.as_ptr().add(4 * j)))) };
    }
    if let Some(out) = out.first_chunk_mut() {
        *out = y;
        return;
    }
    for (out, y) in out.iter_mut().zip(y) {
        *out = y;
    }
}
