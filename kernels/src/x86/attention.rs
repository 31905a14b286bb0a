//! Attention over a cache: sixteen positions' scores at once, and query heads that share keys and values go together.

use super::act::{each, exp};
use super::attention_int4;
use super::lanes::{self, LANES, TOGETHER, join_quarters, load, load_part, map, mask, quarters, store_part, sum_of};
use crate::portable;
use crate::table::{Attention, Cache};
use core::arch::x86_64::*;

/// Query heads that share a pass over the cache, at most.
const SHARED: usize = 4;

/// One key-value head's cache.
#[derive(Clone, Copy)]
struct Head<'a> {
    /// (len, head_dim)
    keys: &'a [f32],
    /// (len, head_dim)
    values: &'a [f32],
}

/// See [`portable::attend`]. With room in `scores` for several heads, as many go through a float cache together.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn attend(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    let is_done = match a.cache {
        Cache::F32 { keys, values } => every_head(a, scores, out, |first, q, scores, out| {
            let elements = first * a.head_dim..(first + a.len) * a.head_dim;
            let head = Head { keys: keys.get(elements.clone())?, values: values.get(elements)? };
            match q.len() / a.head_dim {
                4 => some_heads::<4>(a, &head, q, scores, out),
                3 => some_heads::<3>(a, &head, q, scores, out),
                2 => some_heads::<2>(a, &head, q, scores, out),
                _ => some_heads::<1>(a, &head, q, scores, out),
            }
            Some(())
        }),
        Cache::Int4(cache) => attention_int4::attend(a, &cache, scores, out),
        Cache::Int8 { .. } => None,
    };
    if is_done.is_none() {
        portable::attend::<portable::Plain>(a, scores, out);
    }
}

/// Walks the key-value heads and the query heads that go together: up to [`SHARED`], as many as `scores` has room for. `heads` is given
/// the position where the cache of their key-value head begins, their queries, scores and places in `out`. `None` where something is too short.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn every_head(
    a: &Attention<'_>,
    scores: &mut [f32],
    out: &mut [f32],
    some_heads: impl Fn(usize, &[f32], &mut [f32], &mut [f32]) -> Option<()>,
) -> Option<()> {
    let width = a.head_dim;
    let heads = a.q.len().checked_div(width)?;
    let per_kv_head = (heads / a.kv_heads.max(1)).max(1);
    let together = scores.len().checked_div(a.len)?.min(SHARED);
    if together == 0 {
        return None;
    }
    let (q, out) = (a.q.get(..heads * width)?, out.get_mut(..heads * width)?);
    for (kv_head, (q, out)) in q.chunks(per_kv_head * width).zip(out.chunks_mut(per_kv_head * width)).enumerate() {
        for (q, out) in q.chunks(together * width).zip(out.chunks_mut(together * width)) {
            some_heads(kv_head * a.capacity, q, scores, out)?;
        }
    }
    Some(())
}

/// `H` query heads of one key-value head; `scores` has room for `H * len` numbers, the cache holds `len * head_dim` elements of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn some_heads<const H: usize>(a: &Attention<'_>, cache: &Head<'_>, q: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let width = a.head_dim;
    score::<H>(a, cache, q, scores);
    let mut inverses = [_mm512_setzero_ps(); H];
    for (scores, inverse) in scores.chunks_exact_mut(a.len).zip(&mut inverses) {
        *inverse = _mm512_set1_ps(1.0 / softmax_weights(scores));
    }
    let mut at = 0;
    while at < width {
        at += match (width - at) / LANES {
            4.. => sum_values::<H, 4, true>(width, at, cache.values, scores, inverses, out),
            2.. => sum_values::<H, 2, true>(width, at, cache.values, scores, inverses, out),
            1 => sum_values::<H, 1, true>(width, at, cache.values, scores, inverses, out),
            0 => sum_values::<H, 1, false>(width, at, cache.values, scores, inverses, out),
        };
    }
}

/// `scores[h][j] = (q[h] . keys[j]) * scale`, (H, len).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn score<const H: usize>(a: &Attention<'_>, cache: &Head<'_>, q: &[f32], scores: &mut [f32]) {
    let (width, scale) = (a.head_dim, _mm512_set1_ps(a.scale));
    let Some(last) = a.len.checked_sub(1) else { return };
    debug_assert!(cache.keys.len() == a.len * width && q.len() == H * width);
    for first in (0..a.len).step_by(LANES) {
        let mut rests = [[_mm512_setzero_ps(); 4]; H];
        for block in 0..4 {
            // Beyond the last position the last one again: its sums are dropped.
            let keys = [0, 4, 8, 12].map(|i| (first + block + i).min(last) * width);
            // SAFETY: `keys` are starts of positions, and the masked lanes end at `width`; there are `len * width` elements.
            let key = |i: usize, at: usize| unsafe { cache.keys.as_ptr().add(keys[i] + at) };
            let mut sums = [[_mm512_setzero_ps(); 4]; H];
            let whole = width / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                // SAFETY: as above.
                let keys = [0, 1, 2, 3].map(|i| unsafe { load_floats::<true>(key(i, at), 0) });
                for (h, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the lanes end before `(h + 1) * width`, and there are `H * width` floats.
                    let q = unsafe { _mm512_loadu_ps(q.as_ptr().add(h * width + at)) };
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = _mm512_add_ps(*sum, _mm512_mul_ps(q, key));
                    }
                }
            }
            if whole < width {
                let mask = mask(width - whole);
                // SAFETY: as above.
                let keys = [0, 1, 2, 3].map(|i| unsafe { load_floats::<false>(key(i, whole), mask) });
                for (h, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the masked lanes end at `(h + 1) * width`, and there are `H * width` floats.
                    let q = unsafe { _mm512_maskz_loadu_ps(mask, q.as_ptr().add(h * width + whole)) };
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = _mm512_add_ps(*sum, _mm512_mul_ps(q, key));
                    }
                }
            }
            for (rest, sums) in rests.iter_mut().zip(sums) {
                rest[block] = quarters(sums);
            }
        }
        for (rest, scores) in rests.into_iter().zip(scores.chunks_exact_mut(a.len)) {
            store_part(&mut scores[first..], _mm512_mul_ps(join_quarters(rest), scale));
        }
    }
}

/// Sixteen floats, or those that the mask lets through if `FULL` is not set.
///
/// # Safety
/// These must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_floats<const FULL: bool>(x: *const f32, mask: __mmask16) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { if FULL { _mm512_loadu_ps(x) } else { _mm512_maskz_loadu_ps(mask, x) } }
}

/// Replaces scores by `exp(score - max)` and returns their sum.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn softmax_weights(scores: &mut [f32]) -> f32 {
    let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
    let (chunks, rest) = scores.as_chunks();
    for scores in chunks {
        // A NaN is not greater: the second place stays.
        max = _mm512_max_ps(load(scores), max);
    }
    max = _mm512_mask_max_ps(max, mask(rest.len()), load_part(rest), max);
    let max = _mm512_set1_ps(_mm512_reduce_max_ps(max));
    map(scores, |score| exp(each!(i < TOGETHER: _mm512_sub_ps(score[i], max))));
    sum_of(scores, |weight| weight)
}

/// `out[h] = sum_j scores[h][j] * values[j] * inverse[h]` for `C` registers of columns from `at`, or a part of one. Returns how many columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_values<const H: usize, const C: usize, const FULL: bool>(
    width: usize,
    at: usize,
    values: &[f32],
    scores: &[f32],
    inverses: [__m512; H],
    out: &mut [f32],
) -> usize {
    let len = values.len() / width;
    let mask = lanes::mask(width - at);
    let mut sums = [[_mm512_setzero_ps(); C]; H];
    for j in 0..len {
        let mut value = [_mm512_setzero_ps(); C];
        for (c, value) in value.iter_mut().enumerate() {
            // SAFETY: the lanes, masked or whole, end at `(j + 1) * width`, and there are `len * width` elements.
            *value = unsafe { load_floats::<FULL>(values.as_ptr().add(j * width + at + c * LANES), mask) };
        }
        for (h, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller gives `H * len` scores.
            let weight = _mm512_set1_ps(unsafe { *scores.get_unchecked(h * len + j) });
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(weight, value));
            }
        }
    }
    for ((out, sums), inverse) in out.chunks_exact_mut(width).zip(sums).zip(inverses) {
        for (c, sum) in sums.into_iter().enumerate() {
            store_part(&mut out[at + c * LANES..], _mm512_mul_ps(sum, inverse));
        }
    }
    C * LANES
}
