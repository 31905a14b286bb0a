//! One query position against a bounded cache of keys and values.

use super::SILENT;
use super::act::{exp, round_to_i16};
use super::reduce::{LANES, dot, sum_of};
use crate::table::{Attention, Cache};

/// Exact sums of products of rounded queries or weights with 8-bit codes: what back-ends may have instructions for.
pub(crate) trait Products {
    /// `sum_i q[i] * key[i]`, over the shorter of the two.
    fn dot(q: &[i16], key: &[i8]) -> i32;

    /// `sum_j weights[j] * values[j * width + i]` of sixteen columns `i`; rows that are cut off count as zeros.
    fn columns(weights: &[i16], values: &[i8], width: usize) -> [i32; LANES];
}

/// In plain arithmetic.
pub(crate) enum Plain {}

impl Products for Plain {
    #[inline(always)]
    fn dot(q: &[i16], key: &[i8]) -> i32 {
        q.iter().zip(key).map(|(&q, &k)| i32::from(q) * i32::from(k)).sum()
    }

    #[inline(always)]
    fn columns(weights: &[i16], values: &[i8], width: usize) -> [i32; LANES] {
        let mut sums = [0i32; LANES];
        for (&weight, values) in weights.iter().zip(values.chunks(width.max(1))) {
            let Some(values) = values.first_chunk::<LANES>() else { break };
            for i in 0..LANES {
                sums[i] += i32::from(weight) * i32::from(values[i]);
            }
        }
        sums
    }
}

/// `out[h] = softmax(scale * q[h] . keys) . values`, query head `h` reading key-value head `h / (heads / kv_heads)`.
///
/// `scores` is working space for `len` numbers. Cached positions are visited in storage order.
#[inline(always)]
pub(crate) fn attend<P: Products>(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
    let head_dim = a.head_dim.max(1);
    let heads = a.q.len() / head_dim;
    let per_kv_head = (heads / a.kv_heads.max(1)).max(1);
    let Some(scores) = scores.get_mut(..a.len) else { return };
    let mut out = out.chunks_exact_mut(head_dim);
    for (head, q) in a.q.chunks_exact(head_dim).enumerate() {
        let Some(out) = out.next() else { return };
        let first = head / per_kv_head * a.capacity;
        match a.cache {
            Cache::F32 { keys, values } => {
                let of_head = |x: &'_ [f32]| -> core::ops::Range<usize> { first * head_dim..((first + a.len) * head_dim).min(x.len()) };
                let mut keys = keys.get(of_head(keys)).unwrap_or_default().chunks_exact(head_dim);
                for score in scores.iter_mut() {
                    let Some(key) = keys.next() else { break };
                    *score = dot(q, key, |k| k) * a.scale;
                }
                let total = softmax_weights(scores);
                let mut values = values.get(of_head(values)).unwrap_or_default().chunks_exact(head_dim);
                out.fill(0.0);
                for &weight in scores.iter() {
                    let Some(value) = values.next() else { break };
                    for (out, &v) in out.iter_mut().zip(value) {
                        *out += weight * v;
                    }
                }
                divide(out, total);
            }
            #[cfg(feature = "narrow-states")]
            Cache::Int4(cache) => super::int4::attend_head(a, &cache, q, first, scores, out),
            Cache::Int8 { key_scales, value_scales, keys, values } => {
                let positions = first..first + a.len;
                let codes = first * head_dim..(first + a.len) * head_dim;
                let part = Rounded {
                    keys: keys.get(codes.clone()).unwrap_or_default(),
                    values: values.get(codes).unwrap_or_default(),
                    key_scales: key_scales.get(positions.clone()).unwrap_or_default(),
                    value_scales: value_scales.get(positions).unwrap_or_default(),
                };
                score_rounded::<P>(&part, q, a.scale, scores);
                let total = softmax_weights(scores);
                sum_rounded::<P>(&part, scores, out);
                divide(out, total);
            }
        }
    }
}

/// One key-value head's 8-bit cache.
struct Rounded<'a> {
    /// (len, head_dim)
    keys: &'a [i8],
    /// (len, head_dim)
    values: &'a [i8],
    /// (len)
    key_scales: &'a [f32],
    /// (len)
    value_scales: &'a [f32],
}

/// Columns of a query that are rounded together.
pub(crate) const QUERY_GROUP: usize = 128;
/// Positions whose weights are rounded together.
pub(crate) const WEIGHT_GROUP: usize = 64;
/// Largest code of a query or a weight: 15 bits and a sign, two parts of 7 and 8 bits for instructions that multiply bytes. A group's sums, products of
/// these and 8-bit codes, stay below 2^28.
pub(crate) const LARGEST: f32 = 16_383.0;

/// `scores[j] = scale * q . keys[j]`.
#[inline(always)]
fn score_rounded<P: Products>(cache: &Rounded<'_>, q: &[f32], scale: f32, scores: &mut [f32]) {
    let head_dim = q.len().max(1);
    for (group, q) in q.chunks(QUERY_GROUP).enumerate() {
        let mut codes = [0; QUERY_GROUP];
        let scale = round_group(q, &mut codes) * scale;
        let codes = codes.get(..q.len()).unwrap_or_default();
        for (score, key) in scores.iter_mut().zip(cache.keys.chunks_exact(head_dim)) {
            let key = key.get(group * QUERY_GROUP..).unwrap_or_default();
            let term = P::dot(codes, key) as f32 * scale;
            *score = if group == 0 { term } else { *score + term };
        }
    }
    for (score, &key_scale) in scores.iter_mut().zip(cache.key_scales) {
        *score *= key_scale;
    }
}

/// `out = sum_j weights[j] * values[j]`.
#[inline(always)]
fn sum_rounded<P: Products>(cache: &Rounded<'_>, weights: &mut [f32], out: &mut [f32]) {
    let head_dim = out.len().max(1);
    out.fill(0.0);
    for (weight, &value_scale) in weights.iter_mut().zip(cache.value_scales) {
        *weight *= value_scale;
    }
    for (weights, values) in weights.chunks(WEIGHT_GROUP).zip(cache.values.chunks((WEIGHT_GROUP * head_dim).max(1))) {
        let mut codes = [0; WEIGHT_GROUP];
        let scale = round_group(weights, &mut codes);
        let codes = codes.get(..weights.len()).unwrap_or_default();
        let (chunks, rest) = out.as_chunks_mut::<LANES>();
        let mut at = 0;
        for out in chunks {
            for (out, sum) in out.iter_mut().zip(P::columns(codes, values.get(at..).unwrap_or_default(), head_dim)) {
                *out += sum as f32 * scale;
            }
            at += LANES;
        }
        for (i, out) in rest.iter_mut().enumerate() {
            let column = values.get(at + i..).unwrap_or_default().iter().step_by(head_dim);
            let sum: i32 = codes.iter().zip(column).map(|(&weight, &v)| i32::from(weight) * i32::from(v)).sum();
            *out += sum as f32 * scale;
        }
    }
}

/// Rounds a group of numbers to codes of up to [`LARGEST`] and returns their scale.
#[cfg_attr(not(target_os = "none"), inline(always))] // Back-ends compile it for their CPU; firmware has it once.
fn round_group(x: &[f32], codes: &mut [i16]) -> f32 {
    let largest = x.iter().fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
    if largest < SILENT {
        return 0.0;
    }
    let inverse = LARGEST / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        *code = round_to_i16(x * inverse);
    }
    largest / LARGEST
}

/// Replaces scores by `exp(score - max)` and returns their sum.
#[cfg_attr(not(target_os = "none"), inline(always))] // Back-ends compile it for their CPU; firmware has it once.
pub(super) fn softmax_weights(scores: &mut [f32]) -> f32 {
    let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    sum_of(scores, |s| s)
}

#[inline(always)]
pub(super) fn divide(x: &mut [f32], by: f32) {
    let inverse = 1.0 / by;
    for x in x {
        *x *= inverse;
    }
}
