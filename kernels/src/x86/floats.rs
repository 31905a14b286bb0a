//! Products of float matrices, the 16 rows of a tile in a register.

use crate::quant::{GROUP, TILE_ROWS};
use crate::rows::RowsMut;
use core::arch::x86_64::*;
use core::ops::Range;

/// 2^112: moves the exponent bias of half precision to that of single precision.
const REBIAS: f32 = f32::from_bits((112 + 127) << 23);
/// Vectors that share one pass over two tile rows: enough sums to hide the time of an addition.
const VECTORS: usize = 4;

/// See `float_tiles` in [`crate::portable`]; vector `t` of `x` starts at `t * stride`, and has at least `groups * 32` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f32_tiles(words: &[[f32; TILE_ROWS]], groups: usize, x: &[f32], stride: usize, out: RowsMut<'_>) {
    // SAFETY: 16 readable floats; the load asks for no alignment.
    tiles(words, groups, x, stride, out, &|word: &[f32; TILE_ROWS]| unsafe { _mm512_loadu_ps(word.as_ptr()) });
}

/// The same, of halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn f16_tiles(words: &[[u16; TILE_ROWS]], groups: usize, x: &[f32], stride: usize, out: RowsMut<'_>) {
    let (kept, rebias) = (_mm512_set1_epi32(0x8fff_ffff_u32 as i32), _mm512_set1_ps(REBIAS));
    tiles(words, groups, x, stride, out, &|word: &[u16; TILE_ROWS]| {
        // SAFETY: 32 readable bytes; the load asks for no alignment.
        let halves = _mm512_cvtepi16_epi32(unsafe { _mm256_loadu_si256(word.as_ptr().cast()) });
        // The sign is where it belongs, and in three bits of the exponent that are cleared. Not the CPU's own conversion: it agrees
        // on numbers, but not on what a damaged file may hold.
        let moved = _mm512_and_si512(_mm512_slli_epi32::<13>(halves), kept);
        _mm512_mul_ps(_mm512_castsi512_ps(moved), rebias)
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn tiles<W>(
    words: &[[W; TILE_ROWS]],
    groups: usize,
    x: &[f32],
    stride: usize,
    mut out: RowsMut<'_>,
    load: &impl Fn(&[W; TILE_ROWS]) -> __m512,
) {
    let words = words.as_chunks::<GROUP>().0;
    let tile_rows = out.width().div_ceil(TILE_ROWS);
    let vectors = x.len().checked_div(stride).unwrap_or(0).min(out.rows());
    if words.len() < tile_rows.saturating_mul(groups) || stride < groups * GROUP {
        return;
    }
    for i in (0..tile_rows).step_by(2) {
        let rows = i..(i + 2).min(tile_rows);
        let mut first = 0;
        while first < vectors {
            first += match (rows.len(), vectors - first) {
                (2, VECTORS..) => block::<2, VECTORS, W>(words, groups, rows.clone(), x, stride, first, &mut out, load),
                (2, _) => block::<2, 1, W>(words, groups, rows.clone(), x, stride, first, &mut out, load),
                (_, VECTORS..) => block::<1, VECTORS, W>(words, groups, rows.clone(), x, stride, first, &mut out, load),
                _ => block::<1, 1, W>(words, groups, rows.clone(), x, stride, first, &mut out, load),
            };
        }
    }
}

/// The `R` tile rows of `rows` times the `V` vectors from `first`. Returns `V`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn block<const R: usize, const V: usize, W>(
    words: &[[[W; TILE_ROWS]; GROUP]],
    groups: usize,
    rows: Range<usize>,
    x: &[f32],
    stride: usize,
    first: usize,
    out: &mut RowsMut<'_>,
    load: &impl Fn(&[W; TILE_ROWS]) -> __m512,
) -> usize {
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    for g in 0..groups {
        let mut sum = [[_mm512_setzero_ps(); V]; R];
        for column in 0..GROUP {
            let mut w = [_mm512_setzero_ps(); R];
            for (r, w) in w.iter_mut().enumerate() {
                // SAFETY: the caller counted `groups` blocks for each of its tile rows.
                *w = load(unsafe { &words.get_unchecked((rows.start + r) * groups + g)[column] });
            }
            for t in 0..V {
                // SAFETY: the caller has `first + V` vectors of `stride` numbers in `x`, which are no fewer than the groups'.
                let x = _mm512_set1_ps(unsafe { *x.get_unchecked((first + t) * stride + g * GROUP + column) });
                for r in 0..R {
                    sum[r][t] = _mm512_add_ps(sum[r][t], _mm512_mul_ps(w[r], x));
                }
            }
        }
        for r in 0..R {
            for t in 0..V {
                acc[r][t] = _mm512_add_ps(acc[r][t], sum[r][t]);
            }
        }
    }
    for r in 0..R {
        for t in 0..V {
            super::store(out, (rows.start + r) * TILE_ROWS, first + t, acc[r][t]);
        }
    }
    V
}
