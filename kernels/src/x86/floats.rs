//! Products of float matrices, the 16 rows of a tile in a register.

use super::{AHEAD_BYTES, prefetch, store};
use crate::quant::{GROUP, Matrix, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use core::arch::x86_64::*;

/// 2^112: moves the exponent bias of half precision to that of single precision.
const REBIAS: f32 = f32::from_bits((112 + 127) << 23);
/// What `fpclass` calls NaN, infinity, negative infinity and signalling NaN.
const NOT_FINITE: i32 = 0x99;
/// Vectors that share one pass over two tile rows: enough sums to hide the time of an addition.
const VECTORS: usize = 4;

/// See [`crate::portable::matmul`]. Only for float matrices.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn matmul(matrix: &Matrix<'_>, x: &[f32], stride: usize, out: RowsMut<'_>) {
    let groups = matrix.groups().max(1);
    match &matrix.weights {
        Weights::F32(words) => f32_tiles(words, groups, x, stride, out),
        Weights::F16(words) => f16_tiles(words, groups, x, stride, out),
        // The executor asks `Format::is_quantized` which kind to prepare.
        _ => {}
    }
}

/// See `float_tiles` in [`crate::portable`]; vector `t` of `x` starts at `t * stride`, and has at least `groups * 32` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn f32_tiles(words: &[[f32; TILE_ROWS]], groups: usize, x: &[f32], stride: usize, out: RowsMut<'_>) {
    // SAFETY: 16 readable floats; the load asks for no alignment.
    let load = |word: &[f32; TILE_ROWS]| unsafe { _mm512_loadu_ps(word.as_ptr()) };
    tiles(words, groups, x, stride, out, &load, &load);
}

/// The same, of halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn f16_tiles(words: &[[u16; TILE_ROWS]], groups: usize, x: &[f32], stride: usize, out: RowsMut<'_>) {
    // SAFETY: 32 readable bytes; the load asks for no alignment.
    let halves = |word: &[u16; TILE_ROWS]| unsafe { _mm256_loadu_si256(word.as_ptr().cast()) };
    let load = |word: &[u16; TILE_ROWS]| _mm512_cvtph_ps(halves(word));
    let (kept, rebias) = (_mm512_set1_epi32(0x8fff_ffff_u32 as i32), _mm512_set1_ps(REBIAS));
    // As the portable kernel converts: what is not a number in a damaged file becomes some number.
    let load_anything = |word: &[u16; TILE_ROWS]| {
        // The sign is where it belongs, and in three bits of the exponent that are cleared.
        let moved = _mm512_and_si512(_mm512_slli_epi32::<13>(_mm512_cvtepi16_epi32(halves(word))), kept);
        _mm512_mul_ps(_mm512_castsi512_ps(moved), rebias)
    };
    tiles(words, groups, x, stride, out, &load, &load_anything);
}

/// `load` converts finite weights, `load_anything` also the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn tiles<W>(
    words: &[[W; TILE_ROWS]],
    groups: usize,
    x: &[f32],
    stride: usize,
    mut out: RowsMut<'_>,
    load: &impl Fn(&[W; TILE_ROWS]) -> __m512,
    load_anything: &impl Fn(&[W; TILE_ROWS]) -> __m512,
) {
    let words = words.as_chunks::<GROUP>().0;
    let tile_rows = out.width().div_ceil(TILE_ROWS);
    let vectors = x.len().checked_div(stride).unwrap_or(0).min(out.rows());
    if words.len() < tile_rows.saturating_mul(groups) || stride < groups * GROUP {
        return;
    }
    for i in (0..tile_rows).step_by(2) {
        let is_pair = i + 1 < tile_rows;
        let mut first = 0;
        let x = |first: usize| x.get(first * stride..).unwrap_or_default();
        while first < vectors {
            let left = vectors - first;
            if is_pair && left >= VECTORS {
                first += block::<2, VECTORS, W>(words, groups, i, x(first), stride, first, &mut out, load, load_anything);
            } else if is_pair {
                first += block::<2, 1, W>(words, groups, i, x(first), stride, first, &mut out, load, load_anything);
            } else if left >= VECTORS {
                first += block::<1, VECTORS, W>(words, groups, i, x(first), stride, first, &mut out, load, load_anything);
            } else {
                first += block::<1, 1, W>(words, groups, i, x(first), stride, first, &mut out, load, load_anything);
            }
        }
    }
}

/// The `R` tile rows from `tile_row` times the `V` vectors of `x`, which become number `first` and following. Returns `V`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn block<const R: usize, const V: usize, W>(
    words: &[[[W; TILE_ROWS]; GROUP]],
    groups: usize,
    tile_row: usize,
    x: &[f32],
    stride: usize,
    first: usize,
    out: &mut RowsMut<'_>,
    load: &impl Fn(&[W; TILE_ROWS]) -> __m512,
    load_anything: &impl Fn(&[W; TILE_ROWS]) -> __m512,
) -> usize {
    let acc = sums::<R, V, W>(words, groups, tile_row, x, stride, load);
    for r in 0..R {
        for t in 0..V {
            let mut y = acc[r][t];
            // A weight that is no finite number leaves such a sum.
            if _mm512_fpclass_ps_mask::<NOT_FINITE>(y) != 0 {
                let x = x.get(t * stride..).unwrap_or_default();
                y = sums::<1, 1, W>(words, groups, tile_row + r, x, stride, load_anything)[0][0];
            }
            store(out, (tile_row + r) * TILE_ROWS, first + t, y);
        }
    }
    V
}

/// (tile rows, vectors) of sums, 16 rows each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sums<const R: usize, const V: usize, W>(
    words: &[[[W; TILE_ROWS]; GROUP]],
    groups: usize,
    tile_row: usize,
    x: &[f32],
    stride: usize,
    load: &impl Fn(&[W; TILE_ROWS]) -> __m512,
) -> [[__m512; V]; R] {
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    for g in 0..groups {
        for r in 0..R {
            if let (1, Some(later)) = (V, words.get((tile_row + r) * groups + g + AHEAD_BYTES / size_of::<[[W; TILE_ROWS]; GROUP]>())) {
                prefetch(later);
            }
        }
        let mut sum = [[_mm512_setzero_ps(); V]; R];
        for column in 0..GROUP {
            let mut w = [_mm512_setzero_ps(); R];
            for (r, w) in w.iter_mut().enumerate() {
                // SAFETY: the caller counted `groups` blocks for each of its tile rows.
                *w = load(unsafe { &words.get_unchecked((tile_row + r) * groups + g)[column] });
            }
            for t in 0..V {
                // SAFETY: the caller has `V` vectors of `stride` numbers in `x`, which are no fewer than the groups'.
                let x = _mm512_set1_ps(unsafe { *x.get_unchecked(t * stride + g * GROUP + column) });
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
    acc
}
