//! Quantized products by `vpdpbusd`: four products of 8-bit numbers added to 32 bits, for the 16 rows of a tile at once.
//!
//! The instruction multiplies unsigned by signed bytes. Weights enter as `w + 128`, which adds `128 * sum(x)` to a group's
//! sum; every sum therefore starts at `-128 * sum(x)`, and the integers are exact, like the portable ones.
//!
//! A format is two functions, handed to [`products`]: how a tile becomes eight words, and what its sub-scales say. One or two
//! vectors meet the tiles as they come from memory ([`stream`]); more share tiles that were expanded once ([`panels`]).

use super::{AHEAD_BYTES, floats, load, mask, planes, prefetch, store};
use crate::quant::{GROUP, Matrix, Q4, Q8, TILE_ROWS, Weights};
use crate::rows::RowsMut;
use crate::table::Activations;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::sync::atomic::{Ordering, compiler_fence};

/// Vectors that share one pass over tiles as they come: with a tile's words their sums fit the 32 registers.
const STREAM: usize = 8;
/// Bytes of tiles that stay near for the next few vectors.
const NEAR_BYTES: usize = 64 * 1024;
/// Tiles of a matrix up to which they are likely to be in a cache.
const PAIRS_BYTES: usize = 48 * 1024;
/// From this many vectors and groups on, tiles are expanded into a panel.
const PANEL_VECTORS: usize = 32;
const PANEL_MIN_GROUPS: usize = 8;
/// Groups of a narrow matrix: a row of its tiles fits the registers.
const NARROW_GROUPS: usize = 2;
/// Vectors that meet a narrow matrix's tiles together: their sums do not wait for each other.
const NARROW_BLOCK: usize = 4;
/// Vectors that meet a row of a narrow matrix's tiles, once these are expanded.
const NARROW_VECTORS: usize = 32;
/// Groups of a panel: with two tile rows it takes 36 KiB, which a first-level cache holds.
const PANEL_GROUPS: usize = 32;
/// Vectors that share one pass over a panel: with two tile rows their sums fit the 32 registers.
const BLOCK: usize = 6;

/// The int8 vectors of one product.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a> {
    /// (vectors, groups)
    pub(super) codes: &'a [[i8; GROUP]],
    /// (vectors, groups)
    pub(super) scales: &'a [f32],
    /// (vectors, groups)
    pub(super) sums: &'a [i32],
    pub(super) groups: usize,
    /// Whole vectors in all three planes.
    pub(super) count: usize,
    /// The last group, where its second half is padding; no group otherwise.
    half_group: usize,
}

impl<'a> Vectors<'a> {
    /// As many as `wanted`, or as there are.
    pub(super) fn new(codes: &'a [i8], scales: &'a [f32], sums: &'a [i32], groups: usize, wanted: usize) -> Self {
        let codes = codes.as_chunks().0;
        let shortest = codes.len().min(scales.len()).min(sums.len());
        // Small matrices are done in less time than a division takes.
        let count = if wanted.saturating_mul(groups) <= shortest { wanted } else { shortest / groups };
        Vectors { codes, scales, sums, groups, count, half_group: usize::MAX }
    }

    /// The same, for a matrix of `cols` columns: padding need not be multiplied.
    fn of_columns(self, cols: usize) -> Self {
        let is_half = (1..=GROUP / 2).contains(&(cols % GROUP));
        Vectors { half_group: if is_half { cols / GROUP } else { usize::MAX }, ..self }
    }
}

/// The scales and tiles of a matrix.
pub(super) struct Planes<'a, T> {
    /// (tile_rows) x 16
    pub(super) row_scales: &'a [[f32; TILE_ROWS]],
    /// (tile_rows, groups) x 16
    pub(super) sub_scales: &'a [[i8; TILE_ROWS]],
    /// (tile_rows, groups)
    pub(super) tiles: &'a [T],
}

/// See [`crate::portable::matmul`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: RowsMut<'_>) {
    let groups = matrix.groups().max(1);
    match (&matrix.weights, x) {
        (Weights::Q8(q), Activations::Int8 { codes, scales, sums }) => {
            q8(q, Vectors::new(codes, scales, sums, groups, out.rows()).of_columns(matrix.cols), out);
        }
        (Weights::Q4(q), Activations::Int8 { codes, scales, sums }) => {
            q4(q, Vectors::new(codes, scales, sums, groups, out.rows()).of_columns(matrix.cols), out);
        }
        (Weights::Planes(planes), Activations::Int8 { codes, scales, sums }) => {
            planes::matmul(planes, Vectors::new(codes, scales, sums, groups, out.rows()).of_columns(matrix.cols), out);
        }
        (_, Activations::Float { x, stride }) => floats::matmul(matrix, x, stride, out),
        // The executor asks `Format::is_quantized` which kind to prepare.
        _ => {}
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q8(q: &Q8<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
    let flip = _mm512_set1_epi8(-128);
    let start = _mm512_set1_epi32(0xff80); // -128 in the low halves
    products(
        &Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles },
        x,
        out,
        move |tile, w| {
            // SAFETY: 64 readable bytes; the load asks for no alignment.
            _mm512_xor_si512(unsafe { _mm512_loadu_si512(tile[w].as_ptr().cast()) }, flip)
        },
        move |sub| (start, sub),
    );
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn q4(q: &Q4<'_>, x: Vectors<'_>, out: RowsMut<'_>) {
    // SAFETY: `table` is 16 readable bytes; the load asks for no alignment.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(q.table.as_ptr().cast()) });
    let table = _mm512_xor_si512(table, _mm512_set1_epi8(-128));
    let one = _mm512_set1_epi32(1);
    // The second table is the first plus `shift`: rows that pick it start `shift * sum(x)` higher.
    let start = |shift: i8| _mm512_set1_epi32((i32::from(shift) - 128) & 0xffff);
    let (first, second) = (start(0), start(q.shift));
    let matrix = Planes { row_scales: q.row_scales, sub_scales: q.sub_scales, tiles: q.tiles };
    // A compiler that knows by how much to shift would shift bytes before they are widened, which takes four instructions.
    let by_one = _mm_cvtsi32_si128(core::hint::black_box(1));
    let split = move |sub| {
        let picks = _mm512_test_epi32_mask(sub, one);
        (_mm512_mask_mov_epi32(first, picks, second), _mm512_sra_epi32(sub, by_one))
    };
    if std::is_x86_feature_detected!("avx512vbmi") {
        // The table lies four times in the register: whatever the two bits above a code are, they pick the same level.
        products(&matrix, x, out, move |tile, w| planes::look_up_whole(nibbles(tile, w), table), split);
    } else {
        let low = _mm512_set1_epi8(15);
        products(&matrix, x, out, move |tile, w| _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles(tile, w), low)), split);
    }
}

/// Word `w` of a tile in the lower halves of the bytes, and something else in the upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(tile: &[[u8; 64]; 4], w: usize) -> __m512i {
    // SAFETY: 64 readable bytes; the load asks for no alignment.
    let codes = unsafe { _mm512_loadu_si512(tile[w / 2].as_ptr().cast()) };
    if w.is_multiple_of(2) { codes } else { _mm512_srli_epi16::<4>(codes) }
}

/// Multiplies a matrix with some vectors.
///
/// `word` gives word `w` of a tile, each weight plus a bias as an unsigned byte. `split` turns the sub-scales of 16 rows into what
/// their sums start with, in units of `sum(x)` (in the low halves of the lanes: the negative bias, and what a row's sub-scale adds to its weights,
/// which must keep them in 8 bits), and the factors of the sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn products<T>(
    matrix: &Planes<'_, T>,
    x: Vectors<'_>,
    mut out: RowsMut<'_>,
    word: impl Fn(&T, usize) -> __m512i + Copy,
    split: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) {
    let groups = x.groups;
    let tile_rows = matrix.row_scales.len();
    if tile_rows.saturating_mul(groups) > matrix.tiles.len().min(matrix.sub_scales.len()) {
        return;
    }
    if x.count >= PANEL_VECTORS && groups >= PANEL_MIN_GROUPS {
        return panels(matrix, tile_rows, x, &mut out, word, split);
    }
    if x.count >= STREAM && groups <= NARROW_GROUPS {
        let halves = 2 * groups - usize::from(x.half_group == groups - 1);
        return match halves {
            1 => narrow::<1, T>(matrix, tile_rows, x, &mut out, &word, &split),
            2 => narrow::<2, T>(matrix, tile_rows, x, &mut out, &word, &split),
            3 => narrow::<3, T>(matrix, tile_rows, x, &mut out, &word, &split),
            _ => narrow::<4, T>(matrix, tile_rows, x, &mut out, &word, &split),
        };
    }
    // Tile rows that the nearest caches keep for the next few vectors.
    let near = if x.count > STREAM { (NEAR_BYTES / size_of::<T>() / groups).max(1) } else { tile_rows.max(1) };
    for from in (0..tile_rows).step_by(near) {
        let part = from..(from + near).min(tile_rows);
        let mut first = 0;
        while first < x.count {
            first += match x.count - first {
                STREAM.. => stream::<STREAM, T>(matrix, part.clone(), x, first, &mut out, word, split),
                4.. => stream::<4, T>(matrix, part.clone(), x, first, &mut out, word, split),
                2.. => stream::<2, T>(matrix, part.clone(), x, first, &mut out, word, split),
                _ => stream::<1, T>(matrix, part.clone(), x, first, &mut out, word, split),
            };
        }
    }
}

/// Some tile rows times the `N` vectors from `first`, of which there are at least so many. Returns `N`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn stream<const N: usize, T>(
    matrix: &Planes<'_, T>,
    tile_rows: Range<usize>,
    x: Vectors<'_>,
    first: usize,
    out: &mut RowsMut<'_>,
    word: impl Fn(&T, usize) -> __m512i + Copy,
    split: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) -> usize {
    let mut i = tile_rows.start;
    // Few vectors leave registers free for a second tile row: what is fetched of a vector serves both. A matrix that comes from memory
    // is read in order, which is what reaches its speed.
    let in_pairs = N <= 2 && size_of_val(matrix.tiles) <= PAIRS_BYTES;
    while i < tile_rows.end {
        i += match tile_rows.end - i {
            4.. if in_pairs && N == 1 => rows::<N, 4, T>(matrix, i, x, first, out, word, split),
            2.. if in_pairs => rows::<N, 2, T>(matrix, i, x, first, out, word, split),
            _ => rows::<N, 1, T>(matrix, i, x, first, out, word, split),
        };
    }
    N
}

/// The `R` tile rows from `i` times the `N` vectors from `first`. Returns `R`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn rows<const N: usize, const R: usize, T>(
    matrix: &Planes<'_, T>,
    i: usize,
    x: Vectors<'_>,
    first: usize,
    out: &mut RowsMut<'_>,
    word: impl Fn(&T, usize) -> __m512i + Copy,
    split: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) -> usize {
    let groups = x.groups;
    let ahead = AHEAD_BYTES / size_of::<T>();
    let here = i * groups..(i + R) * groups;
    let (Some(row_scales), Some(sub_scales), Some(tiles)) =
        (matrix.row_scales.get(i..i + R), matrix.sub_scales.get(here.clone()), matrix.tiles.get(here.clone()))
    else {
        return R;
    };
    for row_scales in row_scales {
        prefetch(core::ptr::from_ref(row_scales).wrapping_add(8));
    }
    let mut acc = [[_mm512_setzero_ps(); N]; R];
    for g in 0..groups {
        let mut factor = [_mm512_setzero_ps(); R];
        let mut isum = [[_mm512_setzero_si512(); N]; R];
        let at = |t: usize| (first + t) * groups + g;
        for r in 0..R {
            if R == 1 {
                prefetch(tiles.as_ptr().wrapping_add(r * groups + g + ahead));
            }
            if R == 1 && g % 4 == 0 {
                prefetch(sub_scales.as_ptr().wrapping_add(r * groups + g + ahead));
            }
            // SAFETY: 16 readable bytes of as many tiles as `R` rows have; the load asks for no alignment.
            let sub = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(sub_scales.get_unchecked(r * groups + g).as_ptr().cast()) });
            let (start, of_sum) = split(sub);
            factor[r] = _mm512_cvtepi32_ps(of_sum);
            for t in 0..N {
                // SAFETY: `count` whole vectors lie in all three planes, and `first + N` is at most that.
                let sum = unsafe { *x.sums.get_unchecked(at(t)) };
                // Low half times low half: one instruction where a 32-bit product takes two.
                isum[r][t] = _mm512_madd_epi16(start, _mm512_set1_epi32(sum));
            }
        }
        macro_rules! multiply {
            ($($w:literal)*) => {$({
                if N > 1 {
                    // Word by word: shuffles in one burst would keep the multipliers waiting.
                    compiler_fence(Ordering::SeqCst);
                }
                let mut words = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    // SAFETY: as for the sub-scales.
                    words[r] = word(unsafe { tiles.get_unchecked(r * groups + g) }, $w);
                }
                for t in 0..N {
                    // SAFETY: as above.
                    let codes = unsafe { x.codes.get_unchecked(at(t)) };
                    let x = _mm512_set1_epi32(i32::from_le_bytes(codes.as_chunks::<4>().0[$w].map(|x| x as u8)));
                    for r in 0..R {
                        isum[r][t] = _mm512_dpbusd_epi32(isum[r][t], words[r], x);
                    }
                }
            })*};
        }
        // Written out: a loop over words might stay one, which asks each time how the word lies in its tile.
        multiply!(0 1 2 3);
        if g != x.half_group {
            multiply!(4 5 6 7);
        }
        for t in 0..N {
            // SAFETY: as above.
            let scale = _mm512_set1_ps(unsafe { *x.scales.get_unchecked(at(t)) });
            for r in 0..R {
                let p = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[r][t]), factor[r]);
                acc[r][t] = _mm512_add_ps(acc[r][t], _mm512_mul_ps(p, scale));
            }
        }
    }
    for r in 0..R {
        // SAFETY: 16 readable floats; the load asks for no alignment.
        let row_scales = unsafe { _mm512_loadu_ps(row_scales[r].as_ptr()) };
        for t in 0..N {
            store(out, (i + r) * TILE_ROWS, first + t, _mm512_mul_ps(acc[r][t], row_scales));
        }
    }
    R
}

/// A matrix of one or two groups, of which the last may be half of one: `HALVES` halves in all. A row of tiles stays in registers while vectors go by,
/// [`NARROW_BLOCK`] at a time, of which there are at least so many.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn narrow<const HALVES: usize, T>(
    matrix: &Planes<'_, T>,
    tile_rows: usize,
    x: Vectors<'_>,
    out: &mut RowsMut<'_>,
    word: &impl Fn(&T, usize) -> __m512i,
    split: &impl Fn(__m512i) -> (__m512i, __m512i),
) {
    let groups = HALVES.div_ceil(2);
    if x.groups != groups || x.count < NARROW_BLOCK {
        return;
    }
    for begin in (0..x.count).step_by(NARROW_VECTORS) {
        // The last blocks may take vectors again, so that they are whole.
        let begin = begin.min(x.count - NARROW_BLOCK);
        let end = (begin + NARROW_VECTORS).min(x.count);
        // What every sum starts with, (vectors, groups).
        let mut starts = [0; NARROW_VECTORS * NARROW_GROUPS];
        for (start, sum) in starts.iter_mut().zip(&x.sums[begin * groups..end * groups]) {
            *start = -128 * sum;
        }
        for i in 0..tile_rows {
            let at = i * groups;
            let (Some(row_scales), Some(sub_scales), Some(tiles)) =
                (matrix.row_scales.get(i), matrix.sub_scales.get(at..at + groups), matrix.tiles.get(at..at + groups))
            else {
                return;
            };
            // Each weight plus 128, table picks included.
            let mut words = [[_mm512_setzero_si512(); 4]; HALVES];
            let mut factors = [_mm512_setzero_ps(); NARROW_GROUPS];
            for (g, (tile, sub)) in tiles.iter().zip(sub_scales).enumerate() {
                let (added, factor) = expansion(sub, split);
                factors[g] = factor;
                for half in 2 * g..HALVES.min(2 * g + 2) {
                    for w in 0..4 {
                        words[half][w] = _mm512_add_epi8(added, word(tile, 4 * (half - 2 * g) + w));
                    }
                }
            }
            // SAFETY: 16 readable floats; the load asks for no alignment.
            let row_scales = unsafe { _mm512_loadu_ps(row_scales.as_ptr()) };
            for first in (begin..end).step_by(NARROW_BLOCK) {
                let first = first.min(end - NARROW_BLOCK);
                // From one place each to what the block has, so that every distance is known when this is compiled.
                let at = first * groups;
                // SAFETY: `count` whole vectors lie in all three planes, and `end` is at most that; the sums of those from `begin` on were written.
                let (codes, scales, starts) = unsafe {
                    (x.codes.as_ptr().add(at).cast::<i32>(), x.scales.as_ptr().add(at), starts.as_ptr().add(at - begin * groups))
                };
                let mut acc = [_mm512_setzero_ps(); NARROW_BLOCK];
                for g in 0..groups {
                    // SAFETY: as above.
                    let mut isum = [0, 1, 2, 3].map(|t| _mm512_set1_epi32(unsafe { *starts.add(t * groups + g) }));
                    for half in 2 * g..HALVES.min(2 * g + 2) {
                        for w in 0..4 {
                            for t in 0..NARROW_BLOCK {
                                let word = (t * groups + g) * (GROUP / 4) + 4 * (half - 2 * g) + w;
                                // SAFETY: as above; a group is eight words.
                                let x = unsafe { codes.add(word).read_unaligned() };
                                isum[t] = _mm512_dpbusd_epi32(isum[t], words[half][w], _mm512_set1_epi32(x));
                            }
                        }
                    }
                    for t in 0..NARROW_BLOCK {
                        // SAFETY: as above.
                        let scale = _mm512_set1_ps(unsafe { *scales.add(t * groups + g) });
                        let p = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[t]), factors[g]);
                        acc[t] = _mm512_add_ps(acc[t], _mm512_mul_ps(p, scale));
                    }
                }
                for (t, acc) in acc.into_iter().enumerate() {
                    store(out, i * TILE_ROWS, first + t, _mm512_mul_ps(acc, row_scales));
                }
            }
        }
    }
}

/// What is added to the words of a tile to make them weights plus 128, table picks included, and the factor of their sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn expansion(sub: &[i8; TILE_ROWS], split: &impl Fn(__m512i) -> (__m512i, __m512i)) -> (__m512i, __m512) {
    // The lowest byte of each lane, four times.
    let lowest = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    // SAFETY: 16 readable bytes; the load asks for no alignment.
    let sub = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(sub.as_ptr().cast()) });
    let (start, factor) = split(sub);
    (_mm512_xor_si512(_mm512_shuffle_epi8(start, lowest), _mm512_set1_epi8(-128)), _mm512_cvtepi32_ps(factor))
}

/// A tile, ready to be multiplied: each weight plus 128, table picks included.
#[derive(Clone, Copy)]
#[repr(C)]
struct Expanded {
    words: [__m512i; 8],
    factor: __m512,
}

/// (groups, tile rows) of a panel; only the first groups may be there.
type Panel<const R: usize> = [[MaybeUninit<Expanded>; R]; PANEL_GROUPS];

/// Many vectors: each tile is expanded once, then meets them all, [`BLOCK`] at a time. Long rows are cut into pieces, between which
/// `out` holds the sums as they are. Not inlined: a call for few vectors should not have to set up this much stack.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn panels<T>(
    matrix: &Planes<'_, T>,
    tile_rows: usize,
    x: Vectors<'_>,
    out: &mut RowsMut<'_>,
    word: impl Fn(&T, usize) -> __m512i + Copy,
    split: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) {
    let mut panel: Panel<2> = [const { [const { MaybeUninit::uninit() }; 2] }; PANEL_GROUPS];
    let mut single: Panel<1> = [const { [const { MaybeUninit::uninit() }; 1] }; PANEL_GROUPS];
    for i in (0..tile_rows).step_by(2) {
        if i + 1 < tile_rows {
            panel_rows(matrix, x, i, out, &mut panel, word, split);
        } else {
            panel_rows(matrix, x, i, out, &mut single, word, split);
        }
    }
}

/// The `R` tile rows from `i` times all vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn panel_rows<const R: usize, T>(
    matrix: &Planes<'_, T>,
    x: Vectors<'_>,
    i: usize,
    out: &mut RowsMut<'_>,
    panel: &mut Panel<R>,
    word: impl Fn(&T, usize) -> __m512i + Copy,
    split: impl Fn(__m512i) -> (__m512i, __m512i) + Copy,
) {
    let pieces = x.groups.div_ceil(PANEL_GROUPS);
    for piece in 0..pieces {
        let groups = piece * x.groups / pieces..(piece + 1) * x.groups / pieces;
        for r in 0..R {
            let row = (i + r) * x.groups;
            let all = row + groups.start..row + groups.end;
            let (Some(tiles), Some(sub_scales)) = (matrix.tiles.get(all.clone()), matrix.sub_scales.get(all)) else { return };
            for ((tile, sub), panel) in tiles.iter().zip(sub_scales).zip(panel.iter_mut()) {
                let (added, factor) = expansion(sub, &split);
                let mut words = [added; 8];
                for (w, sum) in words.iter_mut().enumerate() {
                    *sum = _mm512_add_epi8(*sum, word(tile, w));
                }
                panel[r].write(Expanded { words, factor });
            }
        }
        let Some(panel) = panel.get(..groups.len()) else { return };
        // SAFETY: the loop above wrote all `R` tiles of these groups.
        let panel = unsafe { &*(core::ptr::from_ref(panel) as *const [[Expanded; R]]) };
        let row_scales = if piece + 1 == pieces { matrix.row_scales.get(i..i + R) } else { None };
        // As even as can be: a block of one would leave most of the multipliers waiting.
        let blocks = x.count.div_ceil(BLOCK);
        for b in 0..blocks {
            let share = |of: usize| b * of / blocks..(b + 1) * of / blocks;
            let vectors = share(x.count);
            let next = share(R * groups.len());
            let row = (i + R) * x.groups + groups.start;
            if let Some(next) = matrix.tiles.get(row + next.start..row + next.end) {
                next.iter().for_each(|next| prefetch(next));
            }
            let at = (vectors.start, groups.start, i);
            match vectors.len() {
                6 => block::<6, R>(panel, x, at, row_scales, out),
                5 => block::<5, R>(panel, x, at, row_scales, out),
                4 => block::<4, R>(panel, x, at, row_scales, out),
                3 => block::<3, R>(panel, x, at, row_scales, out),
                2 => block::<2, R>(panel, x, at, row_scales, out),
                _ => block::<1, R>(panel, x, at, row_scales, out),
            }
        }
    }
}

/// A panel times `V` vectors; `at` is the first vector, the panel's first group and its first tile row. Behind the last piece of
/// the rows come their scales, (tile rows of the panel) x 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn block<const V: usize, const R: usize>(
    panel: &[[Expanded; R]],
    x: Vectors<'_>,
    at: (usize, usize, usize),
    row_scales: Option<&[[f32; TILE_ROWS]]>,
    out: &mut RowsMut<'_>,
) {
    let (first, first_group, tile_row) = at;
    let mut acc = [[_mm512_setzero_ps(); V]; R];
    if first_group > 0 {
        for r in 0..R {
            for t in 0..V {
                acc[r][t] = load(out, (tile_row + r) * TILE_ROWS, first + t);
            }
        }
    }
    // What every sum starts with, (V, groups).
    let mut starts = [[MaybeUninit::<i32>::uninit(); PANEL_GROUPS]; V];
    for (t, starts) in starts.iter_mut().enumerate() {
        let sums = x.sums.get((first + t) * x.groups + first_group..).unwrap_or_default();
        for (half, starts) in starts.as_chunks_mut::<16>().0.iter_mut().enumerate().take(panel.len().div_ceil(16)) {
            let sums = sums.get(16 * half..).unwrap_or_default();
            // SAFETY: the mask lets no more than the sums through that are left, and `starts` is 16 writable numbers.
            unsafe {
                let sums = _mm512_maskz_loadu_epi32(mask(0, sums.len()), sums.as_ptr());
                _mm512_storeu_si512(starts.as_mut_ptr().cast(), _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums)));
            }
        }
    }
    for (g, tiles) in panel.iter().enumerate() {
        let at = |t: usize| (first + t) * x.groups + first_group + g;
        let mut isum = [[_mm512_setzero_si512(); V]; R];
        for t in 0..V {
            // SAFETY: the loop above wrote at least as many as there are groups in the panel.
            let start = _mm512_set1_epi32(unsafe { starts[t][g].assume_init() });
            for r in 0..R {
                isum[r][t] = start;
            }
        }
        for w in 0..8 {
            // There are no registers for all words at once, however early the compiler would like to fetch them.
            compiler_fence(Ordering::SeqCst);
            for t in 0..V {
                // SAFETY: `count` whole vectors lie in all three planes, and `first + V` is at most that; the panel's groups are theirs.
                let codes = unsafe { x.codes.get_unchecked(at(t)) };
                let x = _mm512_set1_epi32(i32::from_le_bytes(codes.as_chunks::<4>().0[w].map(|x| x as u8)));
                for r in 0..R {
                    isum[r][t] = _mm512_dpbusd_epi32(isum[r][t], tiles[r].words[w], x);
                }
            }
        }
        compiler_fence(Ordering::SeqCst);
        for t in 0..V {
            // SAFETY: as above.
            let scale = _mm512_set1_ps(unsafe { *x.scales.get_unchecked(at(t)) });
            for r in 0..R {
                let p = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[r][t]), tiles[r].factor);
                acc[r][t] = _mm512_add_ps(acc[r][t], _mm512_mul_ps(p, scale));
            }
        }
    }
    for r in 0..R {
        if let Some(scales) = row_scales {
            // SAFETY: 16 readable floats; the load asks for no alignment.
            let scales = unsafe { _mm512_loadu_ps(scales[r].as_ptr()) };
            for t in 0..V {
                acc[r][t] = _mm512_mul_ps(acc[r][t], scales);
            }
        }
        for t in 0..V {
            store(out, (tile_row + r) * TILE_ROWS, first + t, acc[r][t]);
        }
    }
}
