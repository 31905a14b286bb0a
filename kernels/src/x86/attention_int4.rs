//! Attention over a cache of 4-bit codes: a group's bytes become levels by one look-up, and query heads that share keys and values go
//! together, as in [`super::attention`].

use super::attention::{every_head, softmax_weights};
use super::lanes::{LANES, join_quarters, load, quarters, store_part};
use crate::portable::int4::Codes;
use crate::quant::{GROUP, NONLINEAR_TABLE};
use crate::table::{Attention, Int4};
use core::arch::x86_64::*;

/// Keys, or values, of one head.
#[derive(Clone, Copy)]
struct Plane<'a> {
    /// (len, groups)
    codes: &'a [Codes],
    /// (len, groups), bits of halves.
    scales: &'a [u16],
    groups: usize,
}

impl<'a> Plane<'a> {
    fn new(codes: &'a [Codes], scales: &'a [u16], groups: usize, first: usize, len: usize) -> Option<Self> {
        let range = first * groups..(first + len) * groups;
        Some(Plane { codes: codes.get(range.clone())?, scales: scales.get(range)?, groups })
    }

    /// Numbers `16 * part` to `16 * part + 15` of a position.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn numbers(&self, position: usize, part: usize) -> __m512 {
        let at = position * self.groups + part / 2;
        // SAFETY: 16 readable bytes each; the loads ask for no alignment.
        let (bytes, levels) =
            unsafe { (_mm_loadu_si128(self.codes[at].as_ptr().cast()), _mm_loadu_si128(NONLINEAR_TABLE.as_ptr().cast())) };
        let bytes = if part.is_multiple_of(2) { bytes } else { _mm_srli_epi16::<4>(bytes) };
        let levels = _mm_shuffle_epi8(levels, _mm_and_si128(bytes, _mm_set1_epi8(15)));
        let scale = _mm512_cvtph_ps(_mm256_set1_epi16(self.scales[at] as i16));
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(levels)), scale)
    }
}

/// See [`crate::portable::attend`]; `None` for what is not made for it: heads that are no multiple of 16 wide.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn attend(a: &Attention<'_>, cache: &Int4<'_>, scores: &mut [f32], out: &mut [f32]) -> Option<()> {
    let groups = a.head_dim.div_ceil(GROUP);
    if !a.head_dim.is_multiple_of(LANES) {
        return None;
    }
    every_head(a, scores, out, |first, q, scores, out| {
        let keys = Plane::new(cache.keys, cache.key_scales, groups, first, a.len)?;
        let values = Plane::new(cache.values, cache.value_scales, groups, first, a.len)?;
        match q.len() / a.head_dim {
            4 => some_heads::<4>(a, keys, values, q, scores, out),
            3 => some_heads::<3>(a, keys, values, q, scores, out),
            2 => some_heads::<2>(a, keys, values, q, scores, out),
            _ => some_heads::<1>(a, keys, values, q, scores, out),
        }
        Some(())
    })
}

/// `H` query heads of one key-value head; `scores` has room for `H * len` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn some_heads<const H: usize>(a: &Attention<'_>, keys: Plane<'_>, values: Plane<'_>, q: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let parts = a.head_dim / LANES;
    score::<H>(a, keys, q.as_chunks().0, scores);
    let mut inverses = [_mm512_setzero_ps(); H];
    for (scores, inverse) in scores.chunks_exact_mut(a.len).zip(&mut inverses) {
        *inverse = _mm512_set1_ps(1.0 / softmax_weights(scores));
    }
    let mut part = 0;
    while part < parts {
        part += match parts - part {
            4.. => sum_values::<H, 4>(a, part, values, scores, inverses, out),
            2.. => sum_values::<H, 2>(a, part, values, scores, inverses, out),
            _ => sum_values::<H, 1>(a, part, values, scores, inverses, out),
        };
    }
}

/// `scores[h][j] = (q[h] . keys[j]) * scale`, (H, len); `q` is (H, parts).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn score<const H: usize>(a: &Attention<'_>, keys: Plane<'_>, q: &[[f32; LANES]], scores: &mut [f32]) {
    let (parts, scale) = (a.head_dim / LANES, _mm512_set1_ps(a.scale));
    let Some(last) = a.len.checked_sub(1) else { return };
    for first in (0..a.len).step_by(LANES) {
        let mut rests = [[_mm512_setzero_ps(); 4]; H];
        for block in 0..4 {
            // Beyond the last position the last one again: its sums are dropped.
            let positions = [0, 4, 8, 12].map(|i| (first + block + i).min(last));
            let mut sums = [[_mm512_setzero_ps(); 4]; H];
            for part in 0..parts {
                let mut key = [_mm512_setzero_ps(); 4];
                for (key, position) in key.iter_mut().zip(positions) {
                    *key = keys.numbers(position, part);
                }
                for (h, sums) in sums.iter_mut().enumerate() {
                    let q = load(&q[h * parts + part]);
                    for (sum, key) in sums.iter_mut().zip(key) {
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

/// `out[h] = sum_j scores[h][j] * values[j] * inverse[h]` for `C` registers of columns from number `part`. Returns `C`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_values<const H: usize, const C: usize>(
    a: &Attention<'_>,
    part: usize,
    values: Plane<'_>,
    scores: &[f32],
    inverses: [__m512; H],
    out: &mut [f32],
) -> usize {
    let mut sums = [[_mm512_setzero_ps(); C]; H];
    for j in 0..a.len {
        let mut value = [_mm512_setzero_ps(); C];
        for (c, value) in value.iter_mut().enumerate() {
            *value = values.numbers(j, part + c);
        }
        for (h, sums) in sums.iter_mut().enumerate() {
            let weight = _mm512_set1_ps(scores[h * a.len + j]);
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(weight, value));
            }
        }
    }
    for ((out, sums), inverse) in out.chunks_exact_mut(a.head_dim).zip(sums).zip(inverses) {
        for (c, sum) in sums.into_iter().enumerate() {
            store_part(&mut out[(part + c) * LANES..], _mm512_mul_ps(sum, inverse));
        }
    }
    C
}
