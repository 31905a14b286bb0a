//! One query position against a bounded cache of keys and values.

use super::act::exp;
use super::reduce::{dot, sum_of};
use crate::table::{Attention, Cache};

/// `out[h] = softmax(scale * q[h] . keys) . values`, query head `h` reading key-value head `h / (heads / kv_heads)`.
///
/// `scores` is working space for `len` numbers. Cached positions are visited in storage order.
#[inline(always)]
pub(crate) fn attend(a: &Attention<'_>, scores: &mut [f32], out: &mut [f32]) {
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
                let mut keys = keys.get(codes.clone()).unwrap_or_default().chunks_exact(head_dim);
                let key_scales = key_scales.get(positions.clone()).unwrap_or_default();
                for (score, &key_scale) in scores.iter_mut().zip(key_scales) {
                    let Some(key) = keys.next() else { break };
                    *score = dot(q, key, f32::from) * (key_scale * a.scale);
                }
                let total = softmax_weights(scores);
                let mut values = values.get(codes).unwrap_or_default().chunks_exact(head_dim);
                let value_scales = value_scales.get(positions).unwrap_or_default();
                out.fill(0.0);
                for (&weight, &value_scale) in scores.iter().zip(value_scales) {
                    let Some(value) = values.next() else { break };
                    let weight = weight * value_scale;
                    for (out, &v) in out.iter_mut().zip(value) {
                        *out += weight * f32::from(v);
                    }
                }
                divide(out, total);
            }
        }
    }
}

/// Replaces scores by `exp(score - max)` and returns their sum.
#[inline(always)]
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
