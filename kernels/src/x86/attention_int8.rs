//! Attention over an 8-bit cache by `vpdpbusd`: queries and weights have codes of 15 bits, in two parts of 7 and 8.
//!
//! The instruction multiplies unsigned by signed bytes. Keys enter as `code + 128`, which adds `128 * sum(codes)` of the query to a sum; it is
//! taken off again. Weights are never below zero and enter as they are. The integers are exact, like the portable ones.
//!
//! A step deep in a context is a walk over memory: every row that is used asks for one further on, of the keys, then of the values, then of the next
//! head's keys, so that memory never waits; and the softmax goes with the values, where it takes no pass of its own.

use super::act::{each, exp};
use super::attention::{self, every_head};
use super::lanes::{self, LANES, TOGETHER, load, load_part, store, store_part, tree};
use crate::portable::act::ROUND;
use crate::portable::{LARGEST, QUERY_GROUP, SILENT, WEIGHT_GROUP};
use crate::table::{Attention, Cache};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use core::sync::atomic::{Ordering, compiler_fence};

/// Bytes of a register: columns that are multiplied at once.
const PIECE: usize = 64;
/// Pieces of a group of columns.
const PIECES: usize = QUERY_GROUP / PIECE;
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
    /// What is read after the values: the next head's keys, (len, head_dim), if there is one.
    next_keys: &'a [i8],
}

/// See [`crate::portable::attend`]; caches of floats as without these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn attend(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    let is_done = match a.cache {
        Cache::F32 { .. } | Cache::Int4(_) => None,
        Cache::Int8 { key_scales, value_scales, keys, values } => every_head(a, scores, out, |first, q, scores, out| {
            let elements = |first: usize| first * a.head_dim..(first + a.len) * a.head_dim;
            let head = Head {
                keys: keys.get(elements(first))?,
                values: values.get(elements(first))?,
                key_scales: key_scales.get(first..first + a.len)?,
                value_scales: value_scales.get(first..first + a.len)?,
                next_keys: keys.get(elements(first + a.capacity)).unwrap_or_default(),
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
        }),
    };
    if is_done.is_none() {
        attention::attend(a, scores, out);
    }
}

/// `H` query heads of one key-value head, in groups of up to `P` pieces of columns; `scores` has room for `H * len` numbers. `None` where a
/// value's scale is negative, which no rounding makes.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn some_heads<const H: usize, const P: usize>(
    a: &Attention<'_>,
    cache: &Head<'_>,
    q: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) -> Option<()> {
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); H];
    for group in (0..a.head_dim).step_by(QUERY_GROUP) {
        largest = score::<H, P>(a, cache, q, group, scores);
    }
    // Loops over registers, where `map` would be a call.
    for largest in &mut largest {
        *largest = _mm512_set1_ps(_mm512_reduce_max_ps(*largest));
    }
    let mut softmax = Softmax { largest, totals: [_mm512_setzero_ps(); H] };
    sum_values::<H, P, true>(a.head_dim, cache, 0, scores, &mut softmax, out)?;
    for group in (QUERY_GROUP..a.head_dim).step_by(QUERY_GROUP) {
        sum_values::<H, P, false>(a.head_dim, cache, group, scores, &mut softmax, out)?;
    }
    Some(())
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

/// What is to be asked for when the codes at `at` are used: those [`AHEAD_BYTES`] behind them, in `now` or behind its end in `then`; where these end
/// too, what is near anyway.
#[inline]
fn ahead(now: &[i8], then: &[i8], at: usize) -> *const i8 {
    let at = at + AHEAD_BYTES;
    let from = if at < now.len() { now.get(at..) } else { then.get(at - now.len()..) };
    from.filter(|codes| !codes.is_empty()).unwrap_or(now).as_ptr()
}

/// A piece of the columns of four positions, in rows of `width` from `codes` on. Where a head has fewer columns the next row's come behind them. The
/// same of later positions is asked for from `ahead` on.
///
/// # Safety
/// These must be readable, but for those ahead.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn four_rows(codes: *const i8, ahead: Option<*const i8>, width: usize) -> [__m512i; 4] {
    let mut rows = [_mm512_setzero_si512(); 4];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise; a hint reads nothing.
        unsafe {
            if let Some(ahead) = ahead {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(i * width));
            }
            *row = _mm512_loadu_si512(codes.add(i * width).cast());
        }
    }
    rows
}

/// `scores[h][j] = (q[h] . keys[j]) * scale`, (H, len): the share of the columns from `group` on. Behind the last of them come the keys' scales.
/// Returns, of each head, registers whose largest lane is the largest score so far.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn score<const H: usize, const P: usize>(a: &Attention<'_>, cache: &Head<'_>, q: &[f32], group: usize, scores: &mut [f32]) -> [__m512; H] {
    let width = a.head_dim;
    let columns = (width - group).min(QUERY_GROUP);
    let mut largest = [_mm512_set1_ps(f32::NEG_INFINITY); H];
    debug_assert!(cache.keys.len() == a.len * width && q.len() == H * width && scores.len() >= H * a.len);
    let mut queries = [const { MaybeUninit::<Query<P>>::uninit() }; H];
    for (query, q) in queries.iter_mut().zip(q.chunks_exact(width)) {
        query.write(Query::new(&q[group..group + columns], a.scale));
    }
    // SAFETY: there are `H` queries of `width` columns, so all were written.
    let queries = unsafe { &*(core::ptr::from_ref(&queries) as *const [Query<P>; H]) };
    let mut rest = [0; LANES * QUERY_GROUP];
    for first in (0..a.len).step_by(LANES) {
        let ahead = ahead(cache.keys, cache.values, first * width + group);
        let keys = &cache.keys[first * width + group..];
        // Whole pieces of all rows; beyond a row's columns the query's codes are 0.
        let (keys, stride) = if keys.len() >= (LANES - 1) * width + P * PIECE {
            (keys.as_ptr(), width)
        } else {
            for (rest, keys) in rest.chunks_exact_mut(P * PIECE).zip(keys.chunks(width)) {
                rest[..columns].copy_from_slice(&keys[..columns]);
            }
            (rest.as_ptr(), P * PIECE)
        };
        // SAFETY: sixteen rows of whole pieces, as was just seen to.
        let sums = unsafe { dot_products::<H, P>(keys, ahead, stride, queries) };
        let part = Part { first, len: a.len, has_before: group > 0, key_scales: (group + columns == width).then_some(cache.key_scales) };
        if first + LANES <= a.len {
            part.finish::<H, P, true>(sums, queries, scores, &mut largest);
        } else {
            part.finish::<H, P, false>(sums, queries, scores, &mut largest);
        }
    }
    largest
}

/// Sixteen positions' scores.
struct Part<'a> {
    first: usize,
    len: usize,
    /// Other columns' shares are there.
    has_before: bool,
    /// Behind the last columns: (len)
    key_scales: Option<&'a [f32]>,
}

impl Part<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn finish<const H: usize, const P: usize, const WHOLE: bool>(
        &self,
        sums: [__m512i; H],
        queries: &[Query<P>; H],
        scores: &mut [f32],
        largest: &mut [__m512; H],
    ) {
        let positions = if WHOLE { LANES } else { self.len - self.first };
        let lanes = lanes::mask(positions);
        for h in 0..H {
            let sum = _mm512_sub_epi32(sums[h], _mm512_set1_epi32(queries[h].excess));
            let mut score = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(queries[h].scale));
            let scores = &mut scores[h * self.len + self.first..][..positions];
            if self.has_before {
                score = _mm512_add_ps(load_part(scores), score);
            }
            if let Some(key_scales) = self.key_scales {
                score = _mm512_mul_ps(score, load_part(&key_scales[self.first..][..positions]));
            }
            store_part(scores, score);
            // A NaN is not greater: the second place stays.
            largest[h] = _mm512_mask_max_ps(largest[h], lanes, score, largest[h]);
        }
    }
}

/// The products of some queries' codes with the keys of sixteen positions, what the keys' excess adds included.
///
/// # Safety
/// Whole pieces must be readable from `keys` on, in rows of `width`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn dot_products<const H: usize, const P: usize>(
    keys: *const i8,
    ahead: *const i8,
    width: usize,
    queries: &[Query<P>; H],
) -> [__m512i; H] {
    let mut pairs = [[_mm512_setzero_si512(); H]; 2];
    for (half, pairs) in pairs.iter_mut().enumerate() {
        // (H, fours, parts)
        let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; H];
        for p in 0..P {
            let mut words = [[_mm512_setzero_si512(); 4]; 2];
            for (four, words) in words.iter_mut().enumerate() {
                let at = (8 * half + 4 * four) * width + p * PIECE;
                // SAFETY: the caller's promise.
                let mut rows = unsafe { four_rows(keys.add(at), Some(ahead.wrapping_add(at)), width) };
                for row in &mut rows {
                    *row = _mm512_xor_si512(*row, _mm512_set1_epi8(-128));
                }
                let [a, b, c, d] = rows;
                let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
                let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
                *words = [
                    _mm512_unpacklo_epi64(ab, cd),
                    _mm512_unpackhi_epi64(ab, cd),
                    _mm512_unpacklo_epi64(ab_high, cd_high),
                    _mm512_unpackhi_epi64(ab_high, cd_high),
                ];
            }
            for w in 0..4 {
                // There are no registers for all queries: each comes again from memory, for two products.
                compiler_fence(Ordering::SeqCst);
                for (sums, query) in sums.iter_mut().zip(queries) {
                    for (part, query) in [query.low[p][w], query.high[p][w]].into_iter().enumerate() {
                        for four in 0..2 {
                            sums[four][part] = _mm512_dpbusd_epi32(sums[four][part], words[four][w], query);
                        }
                    }
                }
            }
        }
        for (pair, sums) in pairs.iter_mut().zip(sums) {
            let whole = |[low, high]: [__m512i; 2]| _mm512_add_epi32(_mm512_slli_epi32::<7>(high), low);
            *pair = halves(whole(sums[0]), whole(sums[1]));
        }
    }
    let mut sums = [_mm512_setzero_si512(); H];
    for h in 0..H {
        sums[h] = quarters(pairs[0][h], pairs[1][h]);
    }
    sums
}

/// The sums over the quarters of four registers, in pairs from [`halves`]: lane `4 * j + i` is that of lanes `i` of register `j`.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarters(x: __m512i, y: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(x, y), _mm512_shuffle_i32x4::<0b11_01_11_01>(x, y))
}

/// Sums over two quarters each: the lower half of two registers is that of the first.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b))
}

/// What a softmax over some heads' scores has found.
struct Softmax<const H: usize> {
    /// The largest score in every lane.
    largest: [__m512; H],
    /// Sixteen partial sums of the weights.
    totals: [__m512; H],
}

/// Rounded weights of a group of positions, none below zero: they are what the instruction multiplies unsigned, with values as they are.
#[derive(Clone, Copy)]
struct Weights<const H: usize> {
    /// `code >> 7`, four positions in a word.
    high: [[u32; WEIGHT_GROUP / 4]; H],
    /// `code & 127`
    low: [[u32; WEIGHT_GROUP / 4]; H],
    scales: [f32; H],
}

impl<const H: usize> Weights<H> {
    const NONE: Self = Weights { high: [[0; 16]; H], low: [[0; 16]; H], scales: [0.0; H] };

    /// Rounds the weights of up to [`WEIGHT_GROUP`] positions from `first` on, times their values' scales. The first time scores become weights.
    /// Says whether none is below zero.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn round<const IS_FIRST: bool>(&mut self, value_scales: &[f32], first: usize, scores: &mut [f32], softmax: &mut Softmax<H>) -> bool {
        let len = value_scales.len();
        if first + WEIGHT_GROUP <= len {
            self.round_group::<IS_FIRST, true>(value_scales, first, WEIGHT_GROUP, scores, softmax)
        } else {
            self.round_group::<IS_FIRST, false>(value_scales, first, len - first, scores, softmax)
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn round_group<const IS_FIRST: bool, const WHOLE: bool>(
        &mut self,
        value_scales: &[f32],
        first: usize,
        positions: usize,
        scores: &mut [f32],
        softmax: &mut Softmax<H>,
    ) -> bool {
        let len = value_scales.len();
        let value_scales = &value_scales[first..][..positions];
        // (H, 4) x 16
        let mut weights = [[_mm512_setzero_ps(); 4]; H];
        let mut largest = [_mm512_setzero_ps(); 4];
        for h in 0..H {
            let scores = &mut scores[h * len + first..][..positions];
            weights[h] = load_piece(scores);
            if IS_FIRST {
                weights[h] = exp(each!(i < TOGETHER: _mm512_sub_ps(weights[h][i], softmax.largest[h])));
            }
            for (i, weight) in weights[h].iter_mut().enumerate() {
                // A masked load or store of nothing is slow where there is no memory behind it.
                if !WHOLE && i * LANES >= positions {
                    *weight = _mm512_setzero_ps();
                    continue;
                }
                let lanes = if WHOLE { !0 } else { lanes::mask(positions - i * LANES) };
                if IS_FIRST {
                    softmax.totals[h] = _mm512_mask_add_ps(softmax.totals[h], lanes, softmax.totals[h], *weight);
                    *weight = _mm512_maskz_mul_ps(lanes, *weight, load_part(&value_scales[i * LANES..]));
                    store_part(&mut scores[i * LANES..], *weight);
                }
                // A NaN is not greater: the second place stays.
                largest[h] = _mm512_max_ps(_mm512_abs_ps(*weight), largest[h]);
            }
        }
        // Each quarter of these is one head's.
        let largest = largest_of_quarters(largest);
        let is_loud = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(largest, _mm512_set1_ps(SILENT));
        let inverses = _mm512_maskz_div_ps(is_loud, _mm512_set1_ps(LARGEST), largest);
        let scales = _mm512_maskz_div_ps(is_loud, largest, _mm512_set1_ps(LARGEST));
        let mut all = _mm512_setzero_si512();
        for h in 0..H {
            let inverse = quarter(inverses, h);
            let mut codes = [_mm512_setzero_si512(); 4];
            for (code, weight) in codes.iter_mut().zip(weights[h]) {
                let bits = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(weight, inverse), _mm512_set1_ps(ROUND)));
                *code = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff));
            }
            // In each quarter: four codes of each register in turn. `store_words` puts the quarters in order.
            let (a, b) = (_mm512_packus_epi32(codes[0], codes[1]), _mm512_packus_epi32(codes[2], codes[3]));
            all = _mm512_or_si512(all, _mm512_or_si512(a, b));
            let low = |codes| _mm512_and_si512(codes, _mm512_set1_epi16(127));
            let high = |codes| _mm512_srli_epi16::<7>(codes);
            store_words(&mut self.low[h], _mm512_packus_epi16(low(a), low(b)));
            store_words(&mut self.high[h], _mm512_packus_epi16(high(a), high(b)));
            self.scales[h] = _mm512_cvtss_f32(quarter(scales, h));
        }
        _mm512_movepi16_mask(all) == 0
    }
}

/// Stores words of which number `4 * i + j` comes from lane `i` of quarter `j`'s place.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_words(words: &mut [u32; LANES], x: __m512i) {
    let x = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x);
    // SAFETY: 64 writable bytes; the store asks for no alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), x) }
}

/// The largest lane of four registers without NaN: in every lane of quarter `h` that of register `h`.
#[inline]
#[target_feature(enable = "avx512f")]
fn largest_of_quarters([a, b, c, d]: [__m512; 4]) -> __m512 {
    let halves = |a, b| _mm512_max_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
    let (x, y) = (halves(a, b), halves(c, d));
    let four = _mm512_max_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(x, y), _mm512_shuffle_f32x4::<0b11_01_11_01>(x, y));
    let two = _mm512_max_ps(four, _mm512_permute_ps::<0b01_00_11_10>(four));
    _mm512_max_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two))
}

/// Quarter `h` of a register in all quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter(x: __m512, h: usize) -> __m512 {
    match h {
        0 => _mm512_shuffle_f32x4::<0x00>(x, x),
        1 => _mm512_shuffle_f32x4::<0x55>(x, x),
        2 => _mm512_shuffle_f32x4::<0xaa>(x, x),
        _ => _mm512_shuffle_f32x4::<0xff>(x, x),
    }
}

/// `out[h] = sum_j weights[h][j] * values[j] / total[h]` for the columns from `group` on. The first time scores become weights. `None` where one is
/// below zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sum_values<const H: usize, const P: usize, const IS_FIRST: bool>(
    width: usize,
    cache: &Head<'_>,
    group: usize,
    scores: &mut [f32],
    softmax: &mut Softmax<H>,
    out: &mut [f32],
) -> Option<()> {
    let len = cache.value_scales.len();
    let columns = (width - group).min(QUERY_GROUP);
    // (H, pieces, 4): lane `4 * l + i` of register `k` belongs to column `16 * l + 4 * k + i`.
    let mut sums = [[[_mm512_setzero_ps(); 4]; P]; H];
    let mut turns = [const { Weights::<H>::NONE }; 2];
    let mut rest = [0; WEIGHT_GROUP * PIECE];
    let mut is_positive = turns[0].round::<IS_FIRST>(cache.value_scales, 0, scores, softmax);
    for (turn, first) in (0..len).step_by(WEIGHT_GROUP).enumerate() {
        // The next weights take long and few instructions: these run beside the products of this turn's.
        if first + WEIGHT_GROUP < len {
            is_positive &= turns[(turn + 1) % 2].round::<IS_FIRST>(cache.value_scales, first + WEIGHT_GROUP, scores, softmax);
        }
        let weights = &turns[turn % 2];
        let positions = (len - first).min(WEIGHT_GROUP);
        for p in 0..P {
            let part = columns.saturating_sub(p * PIECE).min(PIECE);
            let values = &cache.values[first * width + group + columns.min(p * PIECE)..];
            // Whole pieces of as many fours as there are; what stands beyond a row's columns is not stored.
            let whole = if values.len() >= (WEIGHT_GROUP - 1) * width + PIECE {
                WEIGHT_GROUP / 4
            } else {
                let whole = ((values.len() + width).saturating_sub(PIECE) / width).min(positions) / 4;
                for (rest, values) in rest.chunks_exact_mut(PIECE).zip(values.chunks(width).skip(4 * whole).take(positions - 4 * whole)) {
                    rest[..part].copy_from_slice(&values[..part]);
                }
                whole
            };
            let ahead = ahead(cache.values, cache.next_keys, first * width + group + p * PIECE);
            let rows = Rows { values: values.as_ptr(), ahead, width, whole, rest: rest.as_ptr(), fours: positions.div_ceil(4) };
            // SAFETY: the first fours were counted so, the others were copied; what was not is there too.
            let halves = unsafe { [rows.products::<H, false>(weights), rows.products::<H, true>(weights)] };
            for (half, isums) in halves.into_iter().enumerate() {
                for h in 0..H {
                    for (k, isum) in isums[h].into_iter().enumerate() {
                        let sum = &mut sums[h][p][2 * half + k];
                        *sum = _mm512_add_ps(*sum, _mm512_mul_ps(_mm512_cvtepi32_ps(isum), _mm512_set1_ps(weights.scales[h])));
                    }
                }
            }
        }
    }
    for ((out, sums), total) in out.chunks_exact_mut(width).zip(sums).zip(softmax.totals) {
        let inverse = _mm512_set1_ps(1.0 / tree(total));
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
    is_positive.then_some(())
}

/// A piece of the columns of some values.
struct Rows {
    /// The first fours, in rows of `width`.
    values: *const i8,
    /// What is asked for meanwhile.
    ahead: *const i8,
    width: usize,
    whole: usize,
    /// The others, in rows of a piece.
    rest: *const i8,
    fours: usize,
}

impl Rows {
    /// The products of a group's weights with half of the columns: of each 16 the first 8, or the others. (H, 2): lane `4 * l + i` of register `k`
    /// belongs to column `16 * l + 4 * k + i`, plus 8 for the others.
    ///
    /// # Safety
    /// All rows must be readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn products<const H: usize, const OTHERS: bool>(&self, weights: &Weights<H>) -> [[__m512i; 2]; H] {
        let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; H];
        for four in 0..self.fours {
            // SAFETY: the caller's promise.
            let [a, b, c, d] = unsafe {
                if four < self.whole {
                    let at = 4 * four * self.width;
                    four_rows(self.values.add(at), (!OTHERS).then_some(self.ahead.wrapping_add(at)), self.width)
                } else {
                    let rest = self.rest.add(4 * (four - self.whole) * PIECE);
                    four_rows(rest, None, PIECE)
                }
            };
            let (ab, cd) = if OTHERS {
                (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d))
            } else {
                (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d))
            };
            let words = [_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd)];
            for h in 0..H {
                let low = _mm512_set1_epi32(weights.low[h][four] as i32);
                let high = _mm512_set1_epi32(weights.high[h][four] as i32);
                for k in 0..2 {
                    sums[h][k][0] = _mm512_dpbusd_epi32(sums[h][k][0], low, words[k]);
                    sums[h][k][1] = _mm512_dpbusd_epi32(sums[h][k][1], high, words[k]);
                }
            }
        }
        let mut whole = [[_mm512_setzero_si512(); 2]; H];
        for (whole, sums) in whole.iter_mut().zip(sums) {
            for (whole, [low, high]) in whole.iter_mut().zip(sums) {
                *whole = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), low);
            }
        }
        whole
    }
}
