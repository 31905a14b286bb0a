//! Quantized products in registers of 32 bytes: a tile's word is two of them, rows 0 to 7 and 8 to 15.
//!
//! Two back-ends differ in how four products of 8-bit numbers are added. AVX2 multiplies magnitudes by signed bytes and adds neighbours in
//! 16 bits, where two products of at most 128 * 127 fit. AVX-VNNI has `vpdpbusd`, as [`super::vnni`]: weights enter plus 128.

use super::vnni::{Planes, Vectors};
use super::{AHEAD_BYTES, prefetch};
use crate::quant::{Matrix, Q4, Q8, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::x86_64::*;
use core::borrow::Borrow;
use core::mem::MaybeUninit;

/// Groups of a panel: 20 KiB, which a first-level cache holds beside the vectors.
const PANEL_GROUPS: usize = 32;

/// 16 rows: 0 to 7, 8 to 15.
type Pair = [__m256i; 2];

/// A tile, ready to be multiplied.
#[derive(Clone, Copy)]
struct Expanded {
    words: [Pair; 8],
    /// What sums start with, in units of `sum(x)`, in the low halves of the lanes.
    start: Pair,
    factor: [__m256; 2],
}

/// A module with the products of one back-end. Weights enter plus `$bias`; `$dot` adds the products of four weights of eight rows with
/// four codes; `$batch` vectors share one pass over a tile.
macro_rules! products {
    ($name:ident, $features:literal, $bias:literal, $batch:literal, $dot:expr) => {
        pub(super) mod $name {
            use super::*;

            /// See [`crate::portable::matmul`]. Only for quantized matrices.
            #[target_feature(enable = $features)]
            pub(in super::super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
                let groups = matrix.groups().max(1);
                let Activations::Int8 { codes, scales, sums } = x else { return };
                let x = Vectors::new(codes, scales, sums, groups, out.rows());
                match &matrix.weights {
                    Weights::Q8(q) => q8(q, x, out),
                    Weights::Q4(q) => q4(q, x, out),
                    _ => {}
                }
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q8(q: &Q8<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
                let bias = _mm256_set1_epi8($bias as u8 as i8);
                let start = _mm256_set1_epi32(-$bias & 0xffff);
                tile_rows(
                    &Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles },
                    x,
                    out,
                    &|tile, w| {
                        let [low, high] = halves(&tile[w]);
                        [_mm256_xor_si256(low, bias), _mm256_xor_si256(high, bias)]
                    },
                    &|sub| (start, sub),
                );
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q4(q: &Q4<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
                // SAFETY: `table` is 16 readable bytes; the load asks for no alignment.
                let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(q.table.as_ptr().cast()) });
                let table = _mm256_xor_si256(table, _mm256_set1_epi8($bias as u8 as i8));
                let (low, one) = (_mm256_set1_epi8(15), _mm256_set1_epi32(1));
                // The second table is the first plus `shift`: rows that pick it start `shift * sum(x)` higher.
                let start = |shift: i8| _mm256_set1_epi32((i32::from(shift) - $bias) & 0xffff);
                let (first, second) = (start(0), start(q.shift));
                tile_rows(
                    &Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles },
                    x,
                    out,
                    &|tile, w| {
                        let mut pair = halves(&tile[w / 2]);
                        for half in &mut pair {
                            let codes = if w % 2 == 0 { *half } else { _mm256_srli_epi16::<4>(*half) };
                            *half = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low));
                        }
                        pair
                    },
                    &|sub| {
                        let picks = _mm256_cmpeq_epi32(_mm256_and_si256(sub, one), one);
                        (_mm256_blendv_epi8(first, second, picks), _mm256_srai_epi32::<1>(sub))
                    },
                );
            }

            /// Multiplies a matrix with some vectors: `word` gives word `w` of a tile, each weight plus the bias; `split` turns the
            /// sub-scales of 8 rows into what their sums start with, in units of `sum(x)`, and the factors of the sums.
            #[inline]
            #[target_feature(enable = $features)]
            fn tile_rows<T>(
                matrix: &Planes<'_, T>,
                x: Vectors<'_>,
                mut out: RowsMut<'_>,
                word: &impl Fn(&T, usize) -> Pair,
                split: &impl Fn(__m256i) -> (__m256i, __m256i),
            ) {
                let mut panel = [const { MaybeUninit::<Expanded>::uninit() }; PANEL_GROUPS];
                let pieces = x.groups.div_ceil(PANEL_GROUPS);
                for (i, row_scales) in matrix.row_scales.iter().enumerate() {
                    for piece in 0..pieces {
                        let groups = piece * x.groups / pieces..(piece + 1) * x.groups / pieces;
                        let row_scales = (piece + 1 == pieces).then_some(row_scales);
                        let all = i * x.groups + groups.start..i * x.groups + groups.end;
                        let (Some(tiles), Some(sub_scales)) = (matrix.tiles.get(all.clone()), matrix.sub_scales.get(all.clone())) else {
                            return;
                        };
                        let expand = |tile: &T, sub: &[i8; TILE_ROWS]| {
                            let mut expanded = Expanded {
                                words: [[_mm256_setzero_si256(); 2]; 8],
                                start: [_mm256_setzero_si256(); 2],
                                factor: [_mm256_setzero_ps(); 2],
                            };
                            for (w, pair) in expanded.words.iter_mut().enumerate() {
                                *pair = word(tile, w);
                            }
                            for h in 0..2 {
                                // SAFETY: 8 of 16 readable bytes; the load asks for no alignment.
                                let sub = _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(sub.as_ptr().add(8 * h).cast()) });
                                let (start, factor) = split(sub);
                                (expanded.start[h], expanded.factor[h]) = (start, _mm256_cvtepi32_ps(factor));
                            }
                            expanded
                        };
                        if x.count == 1 {
                            let tile = |g: usize| {
                                if let Some(later) = matrix.tiles.get(all.start + g + AHEAD_BYTES / size_of::<T>()) {
                                    prefetch(later);
                                }
                                expand(&tiles[g], &sub_scales[g])
                            };
                            block::<1, _>(groups, &tile, x, (0, i), row_scales, &mut out);
                            continue;
                        }
                        for ((tile, sub), panel) in tiles.iter().zip(sub_scales).zip(&mut panel) {
                            panel.write(expand(tile, sub));
                        }
                        // SAFETY: the loop above wrote the tiles of these groups, at most as many as the panel has.
                        let tile = |g: usize| unsafe { panel[g].assume_init_ref() };
                        let mut first = 0;
                        while first < x.count {
                            first += match x.count - first {
                                $batch.. => block::<$batch, _>(groups.clone(), &tile, x, (first, i), row_scales, &mut out),
                                _ => block::<1, _>(groups.clone(), &tile, x, (first, i), row_scales, &mut out),
                            };
                        }
                    }
                }
            }

            /// Some groups of a tile row times `N` vectors; `at` is the first vector and the tile row. What the groups before have summed
            /// lies in `out`; behind the last come the scales of the rows. Returns `N`.
            #[inline]
            #[target_feature(enable = $features)]
            fn block<const N: usize, E: Borrow<Expanded>>(
                groups: core::ops::Range<usize>,
                tile: &impl Fn(usize) -> E,
                x: Vectors<'_>,
                at: (usize, usize),
                row_scales: Option<&[f32; TILE_ROWS]>,
                out: &mut RowsMut<'_>,
            ) -> usize {
                let dot = $dot;
                let (first, tile_row) = at;
                let mut acc = [[_mm256_setzero_ps(); N]; 2];
                if groups.start > 0 {
                    for t in 0..N {
                        [acc[0][t], acc[1][t]] = load(out, tile_row * TILE_ROWS, first + t);
                    }
                }
                for g in groups.clone() {
                    let at = |t: usize| (first + t) * x.groups + g;
                    let tile = tile(g - groups.start);
                    let tile = tile.borrow();
                    let mut isum = [[_mm256_setzero_si256(); N]; 2];
                    for t in 0..N {
                        // SAFETY: `count` whole vectors lie in all three planes, and `first + N` is at most that.
                        let sum = _mm256_set1_epi32(unsafe { *x.sums.get_unchecked(at(t)) });
                        for h in 0..2 {
                            // Low half times low half.
                            isum[h][t] = _mm256_madd_epi16(tile.start[h], sum);
                        }
                    }
                    for w in 0..8 {
                        for t in 0..N {
                            // SAFETY: as above.
                            let codes = unsafe { x.codes.get_unchecked(at(t)) };
                            let x = _mm256_set1_epi32(i32::from_le_bytes(codes.as_chunks::<4>().0[w].map(|x| x as u8)));
                            for h in 0..2 {
                                isum[h][t] = dot(isum[h][t], tile.words[w][h], x);
                            }
                        }
                    }
                    for t in 0..N {
                        // SAFETY: as above.
                        let scale = _mm256_set1_ps(unsafe { *x.scales.get_unchecked(at(t)) });
                        for h in 0..2 {
                            let p = _mm256_mul_ps(_mm256_cvtepi32_ps(isum[h][t]), tile.factor[h]);
                            acc[h][t] = _mm256_add_ps(acc[h][t], _mm256_mul_ps(p, scale));
                        }
                    }
                }
                for t in 0..N {
                    store(out, tile_row * TILE_ROWS, first + t, [acc[0][t], acc[1][t]], row_scales.unwrap_or(&[1.0; TILE_ROWS]));
                }
                N
            }
        }
    };
}

products!(plain, "avx2", 0, 2, |isum, w, x| {
    // Weights keep their magnitude, as an unsigned byte; the codes take their signs.
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_add_epi32(isum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
});
products!(dpbusd, "avx2,avxvnni", 128, 3, |isum, w, x| _mm256_dpbusd_avx_epi32(isum, w, x));

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn halves<B>(bytes: &[B; 64]) -> Pair {
    const { assert!(size_of::<B>() == 1) };
    // SAFETY: 64 readable bytes; the loads ask for no alignment.
    unsafe { [_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(bytes.as_ptr().add(32).cast())] }
}

/// Writes the rows from `row` on, as far as the matrix has them, of vector `t`.
#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut RowsMut<'_>, row: usize, t: usize, y: [__m256; 2], scales: &[f32; TILE_ROWS]) {
    let mut lanes = [0.0; TILE_ROWS];
    for (half, (lanes, scales)) in y.into_iter().zip(lanes.as_chunks_mut::<8>().0.iter_mut().zip(scales.as_chunks::<8>().0)) {
        // SAFETY: 8 readable and 8 writable floats; neither asks for alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_mul_ps(half, _mm256_loadu_ps(scales.as_ptr()))) };
    }
    let Some(out) = out.row_mut(t).get_mut(row..) else { return };
    for (out, y) in out.iter_mut().zip(lanes) {
        *out = y;
    }
}

/// What [`store`] wrote, and nothing for the rows that the matrix does not have.
#[inline]
#[target_feature(enable = "avx2")]
fn load(out: &RowsMut<'_>, row: usize, t: usize) -> [__m256; 2] {
    let mut lanes = [0.0; TILE_ROWS];
    for (lane, out) in lanes.iter_mut().zip(out.row(t).get(row..).unwrap_or_default()) {
        *lane = *out;
    }
    // SAFETY: 16 readable floats; the loads ask for no alignment.
    unsafe { [_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8))] }
}
