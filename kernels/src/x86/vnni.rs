//! Quantized products by `vpdpbusd`: four products of 8-bit numbers added to 32 bits, for the 16 rows of a tile at once.
//!
//! The instruction multiplies unsigned by signed bytes. Weights enter as `w + 128`, which adds `128 * sum(x)` to a group's
//! sum; every sum therefore starts at `-128 * sum(x)`, and the integers are exact, like the portable ones.

use super::expand_q4;
use crate::portable;
use crate::quant::{GROUP, Matrix, Q4, Q8, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::x86_64::*;

/// Vectors that share one pass over a tile: with 8 words of weights and 8 sums they fit the 32 registers.
const BATCH: usize = 8;

/// The int8 vectors of one product.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    /// (vectors, groups)
    codes: &'a [[i8; GROUP]],
    /// (vectors, groups)
    scales: &'a [f32],
    /// (vectors, groups)
    sums: &'a [i32],
    groups: usize,
}

/// See [`portable::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    let groups = matrix.groups();
    match (&matrix.weights, x) {
        (Weights::Q8(q), Activations::Int8 { codes, scales, sums }) => {
            let x = Vectors { codes: codes.as_chunks().0, scales, sums, groups };
            q8(q, x, out);
        }
        (Weights::Q4(q), Activations::Int8 { codes, scales, sums }) => {
            let x = Vectors { codes: codes.as_chunks().0, scales, sums, groups };
            q4(q, x, out);
        }
        // Floats gain nothing from integer instructions.
        (_, x) => portable::matmul(matrix, x, out, |tile, table, out| expand_q4(tile, table, out)),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q8(q: &Q8<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
    let flip = _mm512_set1_epi8(-128);
    let start = _mm512_set1_epi32(0xff80); // -128 in the low halves
    tile_rows(
        x,
        out,
        q.row_scales,
        q.sub_scales,
        q.tiles,
        |tile| {
            let mut words = [_mm512_setzero_si512(); 8];
            for (word, tile) in words.iter_mut().zip(tile) {
                // SAFETY: 64 readable bytes; the load asks for no alignment.
                *word = _mm512_xor_si512(unsafe { _mm512_loadu_si512(tile.as_ptr().cast()) }, flip);
            }
            words
        },
        |sub| (start, sub),
    );
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4(q: &Q4<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
    // SAFETY: `table` is 16 readable bytes; the load asks for no alignment.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(q.table.as_ptr().cast()) });
    let table = _mm512_xor_si512(table, _mm512_set1_epi8(-128));
    let low = _mm512_set1_epi8(15);
    let (one, low_half) = (_mm512_set1_epi32(1), _mm512_set1_epi32(0xffff));
    let start = _mm512_set1_epi32(-128);
    let shift = _mm512_set1_epi32(i32::from(q.shift));
    tile_rows(
        x,
        out,
        q.row_scales,
        q.sub_scales,
        q.tiles,
        |tile| {
            let mut words = [_mm512_setzero_si512(); 8];
            for (pair, tile) in words.as_chunks_mut::<2>().0.iter_mut().zip(tile) {
                // SAFETY: 64 readable bytes; the load asks for no alignment.
                let codes = unsafe { _mm512_loadu_si512(tile.as_ptr().cast()) };
                pair[0] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, low));
                pair[1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low));
            }
            words
        },
        |sub| {
            // The second table is the first plus `shift`: rows that pick it start `shift * sum(x)` higher.
            let picks = _mm512_test_epi32_mask(sub, one);
            let start = _mm512_mask_add_epi32(start, picks, start, shift);
            (_mm512_and_si512(start, low_half), _mm512_srai_epi32::<1>(sub))
        },
    );
}

/// Walks the tile rows of a matrix; `expand` gives the eight words of a tile plus 128, `split` turns sub-scales into what a sum
/// starts with, in units of `sum(x)` (low halves of the lanes), and the factor of the sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile_rows<T>(
    x: Vectors<'_>,
    mut out: RowsMut<'_>,
    row_scales: &[[f32; TILE_ROWS]],
    sub_scales: &[[i8; TILE_ROWS]],
    tiles: &[T],
    expand: impl Fn(&T) -> [__m512i; 8],
    split: impl Fn(__m512i) -> (__m512i, __m512i),
) {
    let groups = x.groups;
    let vectors = (x.codes.len() / groups).min(x.scales.len() / groups).min(x.sums.len() / groups);
    let planes = row_scales.iter().zip(sub_scales.chunks_exact(groups)).zip(tiles.chunks_exact(groups));
    for (i, ((row_scales, sub_scales), tiles)) in planes.enumerate() {
        let row = i * TILE_ROWS;
        let wanted = out.width().saturating_sub(row).min(TILE_ROWS);
        let mask = ((1u32 << wanted) - 1) as u16;
        // SAFETY: 16 readable floats; the load asks for no alignment.
        let row_scales = unsafe { _mm512_loadu_ps(row_scales.as_ptr()) };
        let mut first = 0;
        while first < vectors {
            let mut sums = [_mm512_setzero_ps(); BATCH];
            let len = match vectors - first {
                BATCH.. => pass::<BATCH, T>(x, first, sub_scales, tiles, &expand, &split, &mut sums),
                4.. => pass::<4, T>(x, first, sub_scales, tiles, &expand, &split, &mut sums),
                2.. => pass::<2, T>(x, first, sub_scales, tiles, &expand, &split, &mut sums),
                _ => pass::<1, T>(x, first, sub_scales, tiles, &expand, &split, &mut sums),
            };
            for (t, sum) in sums.iter().enumerate().take(len) {
                if let Some(out) = out.row_mut(first + t).get_mut(row..) {
                    // SAFETY: the mask lets `wanted` lanes through, the floats that are left of the row.
                    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, _mm512_mul_ps(*sum, row_scales)) };
                }
            }
            first += len;
        }
    }
}

/// One tile row times the `N` vectors from `first`; the sums go to the first `N` of `out`. Returns `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn pass<const N: usize, T>(
    x: Vectors<'_>,
    first: usize,
    sub_scales: &[[i8; TILE_ROWS]],
    tiles: &[T],
    expand: &impl Fn(&T) -> [__m512i; 8],
    split: &impl Fn(__m512i) -> (__m512i, __m512i),
    out: &mut [__m512; BATCH],
) -> usize {
    let mut acc = [_mm512_setzero_ps(); N];
    for (g, (tile, sub)) in tiles.iter().zip(sub_scales).enumerate() {
        let words = expand(tile);
        // SAFETY: 16 readable bytes; the load asks for no alignment.
        let sub = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(sub.as_ptr().cast()) });
        let (start, factor) = split(sub);
        let factor = _mm512_cvtepi32_ps(factor);
        for (t, acc) in acc.iter_mut().enumerate() {
            let at = (first + t) * x.groups + g;
            // SAFETY: the caller counted the whole vectors in all three planes and gives `first + N` at most that many.
            let (codes, scale, sum) = unsafe { (x.codes.get_unchecked(at), *x.scales.get_unchecked(at), *x.sums.get_unchecked(at)) };
            // Low half times low half: one instruction where a 32-bit product takes two.
            let mut isum = _mm512_madd_epi16(start, _mm512_set1_epi32(sum));
            for (word, x) in words.iter().zip(codes.as_chunks::<4>().0) {
                isum = _mm512_dpbusd_epi32(isum, *word, _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8))));
            }
            let p = _mm512_mul_ps(_mm512_cvtepi32_ps(isum), factor);
            *acc = _mm512_add_ps(*acc, _mm512_mul_ps(p, _mm512_set1_ps(scale)));
        }
    }
    for (out, acc) in out.iter_mut().zip(acc) {
        *out = acc;
    }
    N
}
