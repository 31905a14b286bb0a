//! Quantized products in registers of 32 bytes: a tile's word is two of them, rows 0 to 7 and 8 to 15.
//!
//! Two back-ends differ in how four products of 8-bit numbers are added. AVX2 multiplies magnitudes by signed bytes and adds neighbours in
//! 16 bits, where two products of at most 128 * 127 fit. AVX-VNNI has `vpdpbusd`, as [`super::vnni`]: weights enter plus 128.

use super::avx2_planes as planes;
use super::vnni::{Planes, Vectors};
use super::{AHEAD_BYTES, prefetch};
use crate::quant::planes::Tile;
use crate::quant::{self, Coded, Matrix, Planes as Coding, Q4, Q8, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Groups of a panel: 20 KiB, which a first-level cache holds beside the vectors.
const PANEL_GROUPS: usize = 32;
/// Groups of a lone vector whose magnitudes are laid down at once: 4 KiB.
const LONE_GROUPS: usize = 128;

/// 16 rows: 0 to 7, 8 to 15.
type Pair = [__m256i; 2];

/// Four codes of a lone vector, in every lane, and their magnitudes.
#[derive(Clone, Copy)]
struct Lone {
    codes: __m256i,
    magnitudes: __m256i,
}

/// A tile, ready to be multiplied.
#[derive(Clone, Copy)]
struct Expanded {
    words: [Pair; 8],
    /// What sums start with, in units of `sum(x)`, in the low halves of the lanes.
    start: Pair,
    factor: [__m256; 2],
}

/// One step for each word of a tile. Written out: a loop might stay one, which asks each time how the word lies in its tile.
macro_rules! each_word {
    ($w:ident => $step:expr) => {{
        each_word!($w => $step; 0 1 2 3 4 5 6 7);
    }};
    ($w:ident => $step:expr; $($number:literal)*) => {$({
        let $w = $number;
        $step
    })*};
}

/// Whether [`plain`] multiplies with such weights: a lone vector gives them its signs, and -128 has no negative. No quantizer writes such a level.
pub(super) fn takes(weights: &Weights<'_>) -> bool {
    match weights {
        Weights::F32(_) | Weights::F16(_) => false,
        Weights::Q8(_) => true,
        Weights::Q4(q) => !q.table.contains(&i8::MIN),
        Weights::Planes(planes) => !planes.levels().contains(&i8::MIN),
    }
}

/// A module with the products of one back-end. Weights enter plus `$bias`; `$batch` vectors share one pass over a tile. `$dot` adds the products of
/// four weights of eight rows with four codes, `$dot_one` does so for a lone vector, [`Lone`], and weights above -128, and `$dot_unsigned` for weights that are
/// not below zero.
macro_rules! products {
    ($name:ident, $features:literal, $bias:literal, $batch:literal, $dot:expr, $dot_one:expr, $dot_unsigned:expr) => {
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
                    Weights::Planes(Coding::Q3(q)) => q3(q, x, out),
                    Weights::Planes(Coding::Q5(q)) => q5(q, x, out),
                    Weights::Planes(Coding::Q6(q)) => q6(q, x, out),
                    Weights::Planes(Coding::T2(q)) => t2(q, x, out),
                    _ => {}
                }
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q8(q: &Q8<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
                let bias = _mm256_set1_epi8($bias as u8 as i8);
                tile_rows(
                    &Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles },
                    x,
                    out,
                    &|tile, w, h| _mm256_xor_si256(half(&tile[w], h), bias),
                    &|sub| (_mm256_set1_epi32(-$bias & 0xffff), sub),
                    &$dot,
                    &|isum, w, x: Lone| $dot(isum, w, x.codes),
                );
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q4(q: &Q4<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
                let [table] = planes::tables([*q.table], $bias);
                let matrix = Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles };
                tile_rows(&matrix, x, out, &|tile, w, h| _mm256_shuffle_epi8(table, planes::nibbles(tile, w, h)), &picked(q.shift, $bias), &$dot, &$dot_one);
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q3(q: &Coded<'_, 3>, x: Vectors<'_>, out: RowsMut<'_>) {
                let [table] = planes::tables([quant::q3::table(q.levels)], $bias);
                let word = |tile: &Tile<3>, w, h| _mm256_shuffle_epi8(table, planes::code_q3(tile, w, h));
                tile_rows(&planes_of(q), x, out, &word, &picked(q.shift, $bias), &$dot, &$dot_one);
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q5(q: &Coded<'_, 5>, x: Vectors<'_>, out: RowsMut<'_>) {
                let tables = planes::tables(quant::q5::tables(q.levels), $bias);
                tile_rows(&planes_of(q), x, out, &|tile, w, h| planes::word_q5(tile, w, h, tables), &picked(q.shift, $bias), &$dot, &$dot_one);
            }

            #[inline(never)]
            #[target_feature(enable = $features)]
            fn q6(q: &Coded<'_, 6>, x: Vectors<'_>, out: RowsMut<'_>) {
                let tables = planes::tables(quant::q6::tables(q.levels), $bias);
                tile_rows(&planes_of(q), x, out, &|tile, w, h| planes::word_q6(tile, w, h, tables), &picked(q.shift, $bias), &$dot, &$dot_one);
            }

            /// The codes are their levels plus one.
            #[inline(never)]
            #[target_feature(enable = $features)]
            fn t2(q: &Coded<'_, 2>, x: Vectors<'_>, out: RowsMut<'_>) {
                let dot_one = |isum, w, x: Lone| $dot_unsigned(isum, w, x.codes);
                tile_rows(&planes_of(q), x, out, &|tile, w, h| planes::code_t2(tile, w, h), &picked(q.shift, 1), &$dot_unsigned, &dot_one);
            }

            /// Multiplies a matrix with some vectors: `word` gives half `h` of word `w` of a tile, each weight plus a bias; `split` turns the
            /// sub-scales of 8 rows into what their sums start with, in units of `sum(x)`, and the factors of the sums; for `dot` and `dot_one` see above.
            #[inline]
            #[target_feature(enable = $features)]
            fn tile_rows<T>(
                matrix: &Planes<'_, T>,
                x: Vectors<'_>,
                mut out: RowsMut<'_>,
                word: &impl Fn(&T, usize, usize) -> __m256i,
                split: &impl Fn(__m256i) -> (__m256i, __m256i),
                dot: &impl Fn(__m256i, __m256i, __m256i) -> __m256i,
                dot_one: &impl Fn(__m256i, __m256i, Lone) -> __m256i,
            ) {
                let scales = |sub: &[i8; TILE_ROWS], h: usize| {
                    // SAFETY: 8 of 16 readable bytes; the load asks for no alignment.
                    let sub = _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(sub.as_ptr().add(8 * h).cast()) });
                    let (start, factor) = split(sub);
                    (start, _mm256_cvtepi32_ps(factor))
                };
                if x.count == 1 {
                    return lone(matrix, x, out, word, &scales, dot_one);
                }
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
                        for ((tile, sub), panel) in tiles.iter().zip(sub_scales).zip(&mut panel) {
                            let mut expanded = Expanded {
                                words: [[_mm256_setzero_si256(); 2]; 8],
                                start: [_mm256_setzero_si256(); 2],
                                factor: [_mm256_setzero_ps(); 2],
                            };
                            for h in 0..2 {
                                for (w, pair) in expanded.words.iter_mut().enumerate() {
                                    pair[h] = word(tile, w, h);
                                }
                                (expanded.start[h], expanded.factor[h]) = scales(sub, h);
                            }
                            panel.write(expanded);
                        }
                        // SAFETY: the loop above wrote the tiles of these groups, at most as many as the panel has.
                        let tile = |g: usize| unsafe { panel.get_unchecked(g).assume_init_ref() };
                        let word = |g: usize, w: usize, h: usize| tile(g).words[w][h];
                        let scales = |g: usize, h: usize| (tile(g).start[h], tile(g).factor[h]);
                        let mut first = 0;
                        while first < x.count {
                            // SAFETY: `count` whole vectors lie in all three planes, and `first + t` is below that.
                            let operand = |t: usize, g: usize, w: usize| unsafe { x.broadcast((first + t) * x.groups + groups.start + g, w) };
                            first += match x.count - first {
                                $batch.. => block::<$batch, _>(groups.clone(), &word, &scales, &operand, dot, x, (first, i), row_scales, &mut out),
                                _ => block::<1, _>(groups.clone(), &word, &scales, &operand, dot, x, (first, i), row_scales, &mut out),
                            };
                        }
                    }
                }
            }

            /// A matrix times a lone vector, straight from its tiles: every row meets the same magnitudes, which are laid down once.
            #[inline]
            #[target_feature(enable = $features)]
            fn lone<T>(
                matrix: &Planes<'_, T>,
                x: Vectors<'_>,
                mut out: RowsMut<'_>,
                word: &impl Fn(&T, usize, usize) -> __m256i,
                scales: &impl Fn(&[i8; TILE_ROWS], usize) -> (__m256i, __m256),
                dot: &impl Fn(__m256i, __m256i, Lone) -> __m256i,
            ) {
                let mut magnitudes = [const { MaybeUninit::<[i32; 8]>::uninit() }; LONE_GROUPS];
                let pieces = x.groups.div_ceil(LONE_GROUPS).max(1);
                let ahead = AHEAD_BYTES / size_of::<T>();
                for piece in 0..pieces {
                    let groups = piece * x.groups / pieces..(piece + 1) * x.groups / pieces;
                    for (magnitudes, codes) in magnitudes.iter_mut().zip(&x.codes[groups.clone()]) {
                        // SAFETY: 32 readable and 32 writable bytes; neither asks for alignment.
                        unsafe { _mm256_storeu_si256(magnitudes.as_mut_ptr().cast(), _mm256_abs_epi8(_mm256_loadu_si256(codes.as_ptr().cast()))) };
                    }
                    let operand = |_, g: usize, w: usize| {
                        // SAFETY: the loop above wrote the magnitudes of these groups, which the vector has.
                        let (codes, magnitudes) = unsafe { (x.broadcast(groups.start + g, w), magnitudes.get_unchecked(g).assume_init_ref()) };
                        Lone { codes, magnitudes: _mm256_set1_epi32(magnitudes[w]) }
                    };
                    for (i, row_scales) in matrix.row_scales.iter().enumerate() {
                        let all = i * x.groups + groups.start..i * x.groups + groups.end;
                        let (Some(tiles), Some(sub_scales)) = (matrix.tiles.get(all.clone()), matrix.sub_scales.get(all)) else { return };
                        // SAFETY: both have the groups.
                        let word = |g: usize, w: usize, h: usize| unsafe {
                            if w == 0 && h == 0 {
                                prefetch(tiles.as_ptr().wrapping_add(g + ahead));
                            }
                            word(tiles.get_unchecked(g), w, h)
                        };
                        // SAFETY: as above.
                        let scales = |g: usize, h: usize| scales(unsafe { sub_scales.get_unchecked(g) }, h);
                        let row_scales = (piece + 1 == pieces).then_some(row_scales);
                        block::<1, _>(groups.clone(), &word, &scales, &operand, dot, x, (0, i), row_scales, &mut out);
                    }
                }
            }

            /// Some groups of a tile row times `N` vectors; `at` is the first vector and the tile row. What the groups before have summed
            /// lies in `out`; behind the last come the scales of the rows. `operand` gives four codes of a vector, a group and a word as `dot` takes
            /// them. Returns `N`.
            #[inline]
            #[target_feature(enable = $features)]
            fn block<const N: usize, X: Copy>(
                groups: Range<usize>,
                word: &impl Fn(usize, usize, usize) -> __m256i,
                scales: &impl Fn(usize, usize) -> (__m256i, __m256),
                operand: &impl Fn(usize, usize, usize) -> X,
                dot: &impl Fn(__m256i, __m256i, X) -> __m256i,
                x: Vectors<'_>,
                at: (usize, usize),
                row_scales: Option<&[f32; TILE_ROWS]>,
                out: &mut RowsMut<'_>,
            ) -> usize {
                let (first, tile_row) = at;
                let mut acc = [[_mm256_setzero_ps(); 2]; N];
                if groups.start > 0 {
                    for t in 0..N {
                        acc[t] = load(out, tile_row * TILE_ROWS, first + t);
                    }
                }
                for g in 0..groups.len() {
                    let at = |t: usize| (first + t) * x.groups + groups.start + g;
                    let mut isum = [[_mm256_setzero_si256(); 2]; N];
                    each_word!(w => for t in 0..N {
                        let x = operand(t, g, w);
                        for h in 0..2 {
                            isum[t][h] = dot(isum[t][h], word(g, w, h), x);
                        }
                    });
                    for h in 0..2 {
                        let (start, factor) = scales(g, h);
                        for t in 0..N {
                            // SAFETY: `count` whole vectors lie in all three planes, and `first + N` is at most that.
                            let (sum, scale) = unsafe { (*x.sums.get_unchecked(at(t)), *x.scales.get_unchecked(at(t))) };
                            // Low half times low half.
                            let isum = _mm256_add_epi32(isum[t][h], _mm256_madd_epi16(start, _mm256_set1_epi32(sum)));
                            let p = _mm256_mul_ps(_mm256_cvtepi32_ps(isum), factor);
                            acc[t][h] = _mm256_add_ps(acc[t][h], _mm256_mul_ps(p, _mm256_set1_ps(scale)));
                        }
                    }
                }
                for t in 0..N {
                    store(out, tile_row * TILE_ROWS, first + t, acc[t], row_scales);
                }
                N
            }
        }
    };
}

products!(
    plain,
    "avx2",
    0,
    3,
    // Weights keep their magnitude, as an unsigned byte; the codes take their signs.
    |isum, w, x| add_products(isum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
    // The other way round: both halves of a word share the magnitudes.
    |isum, w, x: Lone| add_products(isum, x.magnitudes, _mm256_sign_epi8(w, x.codes)),
    |isum, w, x| add_products(isum, w, x)
);
products!(
    dpbusd,
    "avx2,avxvnni",
    128,
    3,
    |isum, w, x| _mm256_dpbusd_avx_epi32(isum, w, x),
    |isum, w, x: Lone| _mm256_dpbusd_avx_epi32(isum, w, x.codes),
    |isum, w, x| _mm256_dpbusd_avx_epi32(isum, w, x)
);

impl Vectors<'_> {
    /// Four codes of word `w` of group `at`, counted through all vectors, in every lane.
    ///
    /// # Safety
    /// The vectors must have that group.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn broadcast(&self, at: usize, w: usize) -> __m256i {
        // SAFETY: as the caller promises.
        let codes = unsafe { self.codes.get_unchecked(at) };
        _mm256_set1_epi32(i32::from_le_bytes(codes.as_chunks::<4>().0[w].map(|x| x as u8)))
    }
}

/// Adds the products of four unsigned bytes with four signed ones, of which two fit in 16 bits, to each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(isum: __m256i, w: __m256i, x: __m256i) -> __m256i {
    _mm256_add_epi32(isum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)))
}

/// The parts of a matrix of codes in planes.
fn planes_of<'a, const BITS: usize>(q: &Coded<'a, BITS>) -> Planes<'a, Tile<BITS>> {
    Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles }
}

/// What sums start with and the factors, from sub-scales that pick one of two tables: the second is the first plus `shift`, so that rows
/// which pick it start `shift * sum(x)` higher.
#[inline]
#[target_feature(enable = "avx2")]
fn picked(shift: i8, bias: i32) -> impl Fn(__m256i) -> (__m256i, __m256i) {
    let start = |shift: i8| _mm256_castsi256_ps(_mm256_set1_epi32((i32::from(shift) - bias) & 0xffff));
    let (first, second) = (start(0), start(shift));
    // A compiler that knows by how much to shift would shift bytes before they are widened, and widen them twice.
    let by = |count: i32| _mm_cvtsi32_si128(core::hint::black_box(count));
    let (by_one, by_all) = (by(1), by(31));
    move |sub| {
        // The lowest bit becomes the sign, by which a blend chooses.
        let picks = _mm256_castsi256_ps(_mm256_sll_epi32(sub, by_all));
        (_mm256_castps_si256(_mm256_blendv_ps(first, second, picks)), _mm256_sra_epi32(sub, by_one))
    }
}

/// 32 of 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn half<B>(bytes: &[B; 64], half: usize) -> __m256i {
    const { assert!(size_of::<B>() == 1) };
    debug_assert!(half < 2);
    // SAFETY: 32 readable bytes; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(32 * half).cast()) }
}

/// Writes the rows from `row` on, as far as the matrix has them, of vector `t`: times the rows' scales, if all has been summed.
#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut RowsMut<'_>, row: usize, t: usize, mut y: [__m256; 2], row_scales: Option<&[f32; TILE_ROWS]>) {
    if let Some(scales) = row_scales {
        // SAFETY: 16 readable floats; the loads ask for no alignment.
        let scales = unsafe { [_mm256_loadu_ps(scales.as_ptr()), _mm256_loadu_ps(scales.as_ptr().add(8))] };
        y = [_mm256_mul_ps(y[0], scales[0]), _mm256_mul_ps(y[1], scales[1])];
    }
    // SAFETY: 16 writable floats; the stores ask for no alignment.
    let store = |lanes: &mut [f32; TILE_ROWS]| unsafe {
        _mm256_storeu_ps(lanes.as_mut_ptr(), y[0]);
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), y[1]);
    };
    let Some(out) = out.row_mut(t).get_mut(row..) else { return };
    if let Some(out) = out.first_chunk_mut() {
        return store(out);
    }
    let mut lanes = [0.0; TILE_ROWS];
    store(&mut lanes);
    for (out, y) in out.iter_mut().zip(lanes) {
        *out = y;
    }
}

/// What [`store`] wrote, and nothing for the rows that the matrix does not have.
#[inline]
#[target_feature(enable = "avx2")]
fn load(out: &RowsMut<'_>, row: usize, t: usize) -> [__m256; 2] {
    let out = out.row(t).get(row..).unwrap_or_default();
    let mut lanes = [0.0; TILE_ROWS];
    let lanes = out.first_chunk().unwrap_or_else(|| {
        for (lane, out) in lanes.iter_mut().zip(out) {
            *lane = *out;
        }
        &lanes
    });
    // SAFETY: 16 readable floats; the loads ask for no alignment.
    unsafe { [_mm256_loadu_ps(lanes.as_ptr()), _mm256_loadu_ps(lanes.as_ptr().add(8))] }
}
