//! Attention over an 8-bit cache by `vpdpbusd`: queries and weights have codes of 15 bits, in two parts of 7 and 8.
//!
//! The instruction multiplies unsigned by signed bytes. Keys and values enter as `code + 128`, which adds `128 * sum(codes)` of the
//! query or the weights to a sum; it is taken off again, and the integers are exact, like the portable ones.

use super::attention;
use super::attention::{SOFTMAX_PART, every_head, softmax_weights};
use super::lanes::{LANES, load, load_part, store, store_part};
use crate::portable::act::ROUND;
use crate::portable::{LARGEST, QUERY_GROUP, SILENT, WEIGHT_GROUP};
use crate::table::{Attention, Cache};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Bytes of a register: columns that are multiplied at once.
const PIECE: usize = 64;
/// Pieces of a group of columns.
const PIECES: usize = QUERY_GROUP / PIECE;
/// Of `n` positions' values, each head's softmax asks for those of `n / SHARE_ASKED`.
const SHARE_ASKED: usize = 8;
/// How far ahead of its use a cache line is asked for.
const AHEAD_BYTES: usize = 8192;

/// One key-value head's cache.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// (len, head_dim)
    keys: &'a [i8],
    /// (len, head_dim)
    values: &'a [i8],
    /// (len)
    key_scales: &'a [f32],
    /// (len)
    value_scales: &'a [f32],
}

/// See [`crate::portable::attend`]; caches of floats as without these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn attend(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    let is_done = match a.cache {
        Cache::F32 { .. } | Cache::Int4(_) => None,
        Cache::Int8 { key_scales, value_scales, keys, values } => every_head(a, scores, out, |first, q, scores, out| {
            let (positions, elements) = (first..first + a.len, first * a.head_dim..(first + a.len) * a.head_dim);
            let head = Head {
                keys: keys.get(elements.clone())?,
                values: values.get(elements)?,
                key_scales: key_scales.get(positions.clone())?,
                value_scales: value_scales.get(positions)?,
            };
            match (q.len() / a.head_dim, a.head_dim <= PIECE) {
                (4, true) => some_heads::<4, 1>(a, &head, q, scores, out),
                (3, true) => some_heads::<3, 1>(a, &head, q, scores, out),
                (2, true) => some_heads::<2, 1>(a, &head, q, scores, out),
                (_, true) => some_heads::<1, 1>(a, &head, q, scores, out),
                (4, false) => some_heads::<4, PIECES>(a, &head, q, scores, out),
                (3, false) => some_heads::<3, PIECES>(a, &head, q, scores, out),
                (2, false) => some_heads::<2, PIECES>(a, &head, q, scores, out),
                (_, false) => some_heads::<1, PIECES>(a, &head, q, scores, out),
            }
            Some(())
        }),
    };
    if is_done.is_none() {
        attention::attend(a, scores, out);
    }
}

/// `H` query heads of one key-value head, in groups of up to `P` pieces of columns; `scores` has room for `H * len` numbers.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn some_heads<const H: usize, const P: usize>(a: &Attention<'_>, cache: &Head<'_>, q: &[f32], scores: &mut [f32], out: &mut [f32]) {
    for group in (0..a.head_dim).step_by(QUERY_GROUP) {
        score::<H, P>(a, cache, q, group, scores);
    }
    let mut inverses = [_mm512_setzero_ps(); H];
    for (h, (scores, inverse)) in scores.chunks_exact_mut(a.len).zip(&mut inverses).enumerate() {
        // Each head asks for its share of the first values.
        let bytes = SOFTMAX_PART * a.head_dim / SHARE_ASKED;
        let begin = h * a.len.div_ceil(SOFTMAX_PART) * bytes;
        *inverse = _mm512_set1_ps(1.0 / softmax_weights(scores, |part| ask_for(cache.values, begin + part * bytes, bytes)));
    }
    for group in (0..a.head_dim).step_by(QUERY_GROUP) {
        sum_values::<H, P>(a.head_dim, cache, group, scores, inverses, out);
    }
}

/// Up to 64 rounded numbers.
#[derive(Clone, Copy)]
struct Codes {
    /// `code >> 7`
    high: __m512i,
    /// `code & 127`
    low: __m512i,
    sum: i32,
}

/// Up to 64 numbers, and zeros.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_piece(x: &[f32]) -> [__m512; 4] {
    let mut lanes = [_mm512_setzero_ps(); 4];
    for (i, lanes) in lanes.iter_mut().enumerate() {
        // A masked load of nothing is slow where there is no memory behind it.
        let Some(x) = x.get(i * LANES..).filter(|x| !x.is_empty()) else { break };
        *lanes = x.first_chunk().map_or_else(|| load_part(x), |x| load(x));
    }
    lanes
}

/// Rounds `64 * P` numbers together; returns codes and scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round<const P: usize>(lanes: [[__m512; 4]; P]) -> ([Codes; P], f32) {
    let mut largest = _mm512_setzero_ps();
    for lanes in lanes.as_flattened() {
        // A NaN is not greater: the second place stays.
        largest = _mm512_max_ps(_mm512_abs_ps(*lanes), largest);
    }
    let largest = _mm512_reduce_max_ps(largest);
    let is_silent = largest < SILENT;
    let inverse = _mm512_set1_ps(if is_silent { 0.0 } else { LARGEST / largest });
    let mut codes = [Codes { high: _mm512_setzero_si512(), low: _mm512_setzero_si512(), sum: 0 }; P];
    for (lanes, codes) in lanes.into_iter().zip(&mut codes) {
        let (mut low, mut high, mut code) = ([_mm_setzero_si128(); 4], [_mm_setzero_si128(); 4], [_mm512_setzero_si512(); 4]);
        for i in 0..4 {
            let bits = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(lanes[i], inverse), _mm512_set1_ps(ROUND)));
            low[i] = _mm512_cvtepi32_epi8(_mm512_and_si512(bits, _mm512_set1_epi32(127)));
            high[i] = _mm512_cvtepi32_epi8(_mm512_srli_epi32::<7>(bits));
            code[i] = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(bits));
        }
        let sum = _mm512_add_epi32(_mm512_add_epi32(code[0], code[1]), _mm512_add_epi32(code[2], code[3]));
        *codes = Codes { high: join(high), low: join(low), sum: _mm512_reduce_add_epi32(sum) };
    }
    (codes, if is_silent { 0.0 } else { largest / LARGEST })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn join([a, b, c, d]: [__m128i; 4]) -> __m512i {
    let x = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(x, c), d)
}

/// A group of a query's columns. A word is four columns; register `w` of a piece holds, in each quarter `l`, its word `4 * l + w` four times.
#[derive(Clone, Copy)]
struct Query<const P: usize> {
    /// (pieces, 4)
    high: [[__m512i; 4]; P],
    /// (pieces, 4)
    low: [[__m512i; 4]; P],
    /// What keys that are 128 too large add.
    excess: i32,
    scale: f32,
}

impl<const P: usize> Query<P> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(q: &[f32], scale: f32) -> Self {
        let mut pieces = [[_mm512_setzero_ps(); 4]; P];
        for (piece, q) in pieces.iter_mut().zip(q.chunks(PIECE)) {
            *piece = load_piece(q);
        }
        let (codes, own_scale) = round(pieces);
        let (mut high, mut low) = ([[_mm512_setzero_si512(); 4]; P], [[_mm512_setzero_si512(); 4]; P]);
        let mut sum = 0;
        for (p, codes) in codes.into_iter().enumerate() {
            high[p] = words(codes.high);
            low[p] = words(codes.low);
            sum += codes.sum;
        }
        Query { high, low, excess: 128 * sum, scale: own_scale * scale }
    }
}

/// The four words of each quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(x: __m512i) -> [__m512i; 4] {
    [_mm512_shuffle_epi32::<0x00>(x), _mm512_shuffle_epi32::<0x55>(x), _mm512_shuffle_epi32::<0xaa>(x), _mm512_shuffle_epi32::<0xff>(x)]
}

/// Asks for the cache lines of `codes` from `from` on, as far as there are any.
#[inline]
fn ask_for(codes: &[i8], from: usize, bytes: usize) {
    for at in (from..(from + bytes).min(codes.len())).step_by(64) {
        // SAFETY: a hint: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(at)) };
    }
}

/// Some columns of four positions, `code + 128`: those that the mask lets through, of rows of `width` from `codes` on. Behind position `last` comes
/// the last one again.
///
/// # Safety
/// These must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn four_rows(codes: *const i8, width: usize, last: usize, mask: __mmask64) -> [__m512i; 4] {
    let mut rows = [_mm512_set1_epi8(-128); 4];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = _mm512_xor_si512(*row, unsafe { _mm512_maskz_loadu_epi8(mask, codes.add(i.min(last) * width)) });
    }
    rows
}

/// The lanes of a piece that begins with `columns` columns left.
#[inline]
fn mask(columns: usize) -> __mmask64 {
    if columns >= PIECE { !0 } else { (1 << columns) - 1 }
}

/// `scores[h][j] = (q[h] . keys[j]) * scale`, (H, len): the share of the columns from `group` on. Behind the last of them come the keys' scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn score<const H: usize, const P: usize>(a: &Attention<'_>, cache: &Head<'_>, q: &[f32], group: usize, scores: &mut [f32]) {
    let width = a.head_dim;
    let columns = (width - group).min(QUERY_GROUP);
    let is_last = group + columns == width;
    let Some(last) = a.len.checked_sub(1) else { return };
    debug_assert!(cache.keys.len() == a.len * width && q.len() == H * width);
    let mut queries = [const { MaybeUninit::<Query<P>>::uninit() }; H];
    for (query, q) in queries.iter_mut().zip(q.chunks_exact(width)) {
        query.write(Query::new(&q[group..group + columns], a.scale));
    }
    // SAFETY: there are `H` queries of `width` columns, so all were written.
    let queries = queries.map(|query| unsafe { query.assume_init() });
    let masks: [_; P] = core::array::from_fn(|p| mask(columns.saturating_sub(p * PIECE)));
    for first in (0..a.len).step_by(LANES) {
        ask_for(cache.keys, first * width + AHEAD_BYTES, LANES * width);
        let mut rests = [[_mm512_setzero_si512(); 4]; H];
        for block in 0..4 {
            let first = first + 4 * block;
            if first > last {
                // What is missing is dropped.
                break;
            }
            let mut sums = [[_mm512_setzero_si512(); 2]; H];
            for p in 0..P {
                // SAFETY: `first` is a position, and the masked lanes end at `width`; there are `len * width` codes.
                let [a, b, c, d] = unsafe {
                    let codes = cache.keys.as_ptr().add(first * width + group + p * PIECE);
                    if first + 4 <= a.len { four_rows(codes, width, 3, masks[p]) } else { four_rows(codes, width, last - first, masks[p]) }
                };
                let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
                let words = [
                    _mm512_unpacklo_epi64(ab, cd),
                    _mm512_unpackhi_epi64(ab, cd),
                    _mm512_unpacklo_epi64(ab_high, cd_high),
                    _mm512_unpackhi_epi64(ab_high, cd_high),
                ];
                for (sums, query) in sums.iter_mut().zip(&queries) {
                    for w in 0..4 {
                        sums[0] = _mm512_dpbusd_epi32(sums[0], words[w], query.low[p][w]);
                        sums[1] = _mm512_dpbusd_epi32(sums[1], words[w], query.high[p][w]);
                    }
                }
            }
            for (rest, [low, high]) in rests.iter_mut().zip(sums) {
                rest[block] = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), low);
            }
        }
        let key_scales = load_part(&cache.key_scales[first..]);
        for ((rest, query), scores) in rests.into_iter().zip(&queries).zip(scores.chunks_exact_mut(a.len)) {
            let sum = _mm512_sub_epi32(quarters(rest), _mm512_set1_epi32(query.excess));
            let mut score = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(query.scale));
            if group > 0 {
                score = _mm512_add_ps(load_part(&scores[first..]), score);
            }
            store_part(&mut scores[first..], if is_last { _mm512_mul_ps(score, key_scales) } else { score });
        }
    }
}

/// The sums over the quarters of four registers: lane `4 * j + i` is that of lanes `i` of register `j`.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let halves = |a, b| _mm512_add_epi32(_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b));
    let (x, y) = (halves(a, b), halves(c, d));
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(x, y), _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y))
}

/// Rounded weights of some positions.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Weights {
    high: [[i8; 4]; WEIGHT_GROUP / 4],
    low: [[i8; 4]; WEIGHT_GROUP / 4],
    /// What values that are 128 too large add.
    excess: i32,
    scale: f32,
}

impl Weights {
    const NONE: Weights = Weights { high: [[0; 4]; 16], low: [[0; 4]; 16], excess: 0, scale: 0.0 };

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn new(weights: &[f32], value_scales: &[f32]) -> Weights {
        let (mut products, scales) = (load_piece(weights), load_piece(value_scales));
        for (product, scale) in products.iter_mut().zip(scales) {
            *product = _mm512_mul_ps(*product, scale);
        }
        let ([codes], scale) = round([products]);
        let mut rounded = Weights { excess: 128 * codes.sum, scale, ..Weights::NONE };
        // SAFETY: both are 64 writable bytes; the stores ask for no alignment.
        unsafe {
            _mm512_storeu_si512(rounded.high.as_mut_ptr().cast(), codes.high);
            _mm512_storeu_si512(rounded.low.as_mut_ptr().cast(), codes.low);
        }
        rounded
    }
}

/// The weights of the positions from `first` on, with their values' scales, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round_weights<const H: usize>(weights: &[f32], value_scales: &[f32], first: usize) -> [Weights; H] {
    let mut rounded = [Weights::NONE; H];
    let scales = &value_scales[first..value_scales.len().min(first + WEIGHT_GROUP)];
    for (rounded, weights) in rounded.iter_mut().zip(weights.chunks_exact(value_scales.len())) {
        *rounded = Weights::new(&weights[first..first + scales.len()], scales);
    }
    rounded
}

/// `out[h] = sum_j weights[h][j] * values[j] * inverse[h]` for the columns from `group` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sum_values<const H: usize, const P: usize>(
    width: usize,
    cache: &Head<'_>,
    group: usize,
    weights: &[f32],
    inverses: [__m512; H],
    out: &mut [f32],
) {
    let len = cache.value_scales.len();
    let columns = (width - group).min(QUERY_GROUP);
    let masks: [_; P] = core::array::from_fn(|p| mask(columns.saturating_sub(p * PIECE)));
    // (H, pieces, 4): lane `4 * l + i` of register `k` belongs to column `16 * l + 4 * k + i`.
    let mut sums = [[[_mm512_setzero_ps(); 4]; P]; H];
    for first in (0..len).step_by(WEIGHT_GROUP) {
        let positions = (len - first).min(WEIGHT_GROUP);
        ask_for(cache.values, first * width + AHEAD_BYTES, WEIGHT_GROUP * width);
        let rounded: [Weights; H] = round_weights(weights, cache.value_scales, first);
        for p in 0..P {
            let part = Part { values: cache.values, width, at: group + p * PIECE, positions: first..first + positions, mask: masks[p] };
            let halves = [part.products::<H, false>(&rounded), part.products::<H, true>(&rounded)];
            for (half, isums) in halves.into_iter().enumerate() {
                for h in 0..H {
                    for (k, isum) in isums[h].into_iter().enumerate() {
                        let sum = &mut sums[h][p][2 * half + k];
                        *sum = _mm512_add_ps(*sum, _mm512_mul_ps(_mm512_cvtepi32_ps(isum), _mm512_set1_ps(rounded[h].scale)));
                    }
                }
            }
        }
    }
    for ((out, sums), inverse) in out.chunks_exact_mut(width).zip(sums).zip(inverses) {
        for (p, sums) in sums.into_iter().enumerate().take(columns.div_ceil(PIECE)) {
            let mut columns = [[[0.0; 4]; 4]; 4];
            for (k, sum) in sums.into_iter().enumerate() {
                let mut lanes = [0.0; LANES];
                store(&mut lanes, _mm512_mul_ps(sum, inverse));
                for (l, lanes) in lanes.as_chunks::<4>().0.iter().enumerate() {
                    columns[l][k] = *lanes;
                }
            }
            let out = &mut out[group + p * PIECE..];
            let len = out.len().min(PIECE);
            out[..len].copy_from_slice(&columns.as_flattened().as_flattened()[..len]);
        }
    }
}

/// A piece of the columns of some values.
struct Part<'a> {
    /// (len, width)
    values: &'a [i8],
    width: usize,
    /// The first column.
    at: usize,
    positions: Range<usize>,
    /// The columns that there are.
    mask: __mmask64,
}

impl Part<'_> {
    /// The sums of products of half the columns: of each 16 the first 8, or the others. (H, 2): lane `4 * l + i` of register `k` belongs to column
    /// `16 * l + 4 * k + i`, plus 8 for the others.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn products<const H: usize, const OTHERS: bool>(&self, weights: &[Weights; H]) -> [[__m512i; 2]; H] {
        let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; H];
        let len = self.values.len() / self.width;
        for (four, first) in self.positions.clone().step_by(4).enumerate() {
            // SAFETY: `first` is a position, and the masked lanes end where it does; there are `len * width` codes.
            let [a, b, c, d] = unsafe {
                let codes = self.values.as_ptr().add(first * self.width + self.at);
                // Beyond the last position the last one again: its weight is 0.
                if first + 4 <= len {
                    four_rows(codes, self.width, 3, self.mask)
                } else {
                    four_rows(codes, self.width, len - first - 1, self.mask)
                }
            };
            let (ab, cd) = if OTHERS {
                (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d))
            } else {
                (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d))
            };
            let words = [_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd)];
            for h in 0..H {
                let low = _mm512_set1_epi32(i32::from_ne_bytes(weights[h].low[four].map(|x| x as u8)));
                let high = _mm512_set1_epi32(i32::from_ne_bytes(weights[h].high[four].map(|x| x as u8)));
                for k in 0..2 {
                    sums[h][k][0] = _mm512_dpbusd_epi32(sums[h][k][0], words[k], low);
                    sums[h][k][1] = _mm512_dpbusd_epi32(sums[h][k][1], words[k], high);
                }
            }
        }
        let mut whole = [[_mm512_setzero_si512(); 2]; H];
        for h in 0..H {
            let excess = _mm512_set1_epi32(weights[h].excess);
            for k in 0..2 {
                let [low, high] = sums[h][k];
                whole[h][k] = _mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32::<7>(high), low), excess);
            }
        }
        whole
    }
}
